"""Pictures of the same prompts before and after each round."""

import textwrap
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from itercomp_rl.items import ModelRef
from itercomp_rl.observability.metrics import Pictures
from itercomp_rl.plan import Plan
from itercomp_rl.prompts import prompts_to_show
from itercomp_rl.store.kinds import EVALUATIONS
from itercomp_rl.store.store import Store


def held_out_images(store: Store, plan: Plan, model: ModelRef, num: int) -> list[tuple[str, NDArray[np.uint8]]]:
    """(prompt, pixels [H, W, 3]) of at most `num` held-out images to look at; prompts and seeds are every model's.

    Raises: MissingRecordError where the model has not drawn them.
    """
    places = [
        (order.id, row, prompt) for order in plan.evaluation_orders(model) for row, prompt in enumerate(order.prompts)
    ]
    chosen = [places[i] for i in prompts_to_show([prompt for _, _, prompt in places], num)]
    return [
        (prompt.text, store.get_rows(EVALUATIONS, id_, "images", slice(row, row + 1))[0]) for id_, row, prompt in chosen
    ]


def write_grid(store: Store, plan: Plan, file: Path) -> None:
    """The same held-out prompts and seeds, a row each: base, then every round."""
    models = [plan.policy(-1), *(plan.policy(r) for r in range(plan.rounds))]
    columns = [held_out_images(store, plan, model, plan.config.evaluation.grid_prompts) for model in models]
    captions = [prompt for prompt, _ in columns[0]]
    titles = ["base", *(f"round {r + 1}" for r in range(plan.rounds))]
    rows = [[pixels for _, pixels in row] for row in zip(*columns, strict=True)]
    save_grid(file, rows, captions, titles, most=512)


def save_grid(
    file: Path, rows: list[list[np.ndarray]], captions: list[str], titles: list[str], most: int | None = None
) -> None:
    """Pictures in rows with a caption on the left and a title over each column.

    Small ones are shown 128 pixels wide, none wider than `most`; None: as large as they are.
    """
    own = max(image.shape[1] for images in rows for image in images)
    side = min(max(own, 128), most or own + 128)
    margin, top, gap = 190, 24, 6
    sheet = Image.new("RGB", (margin + len(titles) * (side + gap), top + len(rows) * (side + gap)), "white")
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(13)
    for j, title in enumerate(titles):
        draw.text((margin + j * (side + gap), 4), title, fill="black", font=font)
    for i, (images, caption) in enumerate(zip(rows, captions, strict=True)):
        y = top + i * (side + gap)
        draw.multiline_text((6, y + 6), textwrap.fill(caption, 26), fill="black", font=font)
        for j, image in enumerate(images):
            way = Image.Resampling.NEAREST if side > image.shape[1] else Image.Resampling.LANCZOS
            scaled = Image.fromarray(image).resize((side, side), way)
            sheet.paste(scaled, (margin + j * (side + gap), y))
    sheet.save(file)


def held_out_pictures(store: Store, plan: Plan) -> Pictures | None:
    """What trackers are shown after a round: at most tracking.images held-out images of its policy."""
    num = plan.config.tracking.images
    if not num:
        return None

    def pictures(round_: int) -> NDArray[np.uint8] | None:
        policy = plan.policy(round_)
        if not all(store.has(EVALUATIONS, order.id) for order in plan.evaluation_orders(policy)):
            return None  # at the evaluation of the base and the gallery, before the first round
        return np.stack([pixels for _, pixels in held_out_images(store, plan, policy, num)])

    return pictures
