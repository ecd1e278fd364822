"""A small store of images to rank: a few prompts of the embedded world, drawn by its renderer under three names."""

import numpy as np

from itercomp_rl.items import Prompt
from itercomp_rl.prompts import shapes_prompts
from itercomp_rl.shapes.render import place, render
from itercomp_rl.shapes.scenes import World, parse
from itercomp_rl.store.store import Store, open_store

MODELS = ("one", "three", "two")


def make_rank_store(url: str = "memory://", num: int = 4) -> tuple[Store, list[Prompt]]:
    """The store and its prompts; "one" drew what was asked, the others drew the next prompts' scenes."""
    store = open_store(url, create=True, durable=False)
    prompts = shapes_prompts(World(), "train", num, seed=0)
    scenes = [parse(prompt.text) for prompt in prompts]
    for shift, model in enumerate(MODELS):
        drawn = [scenes[(i + shift) % num] for i in range(num)]
        images = render(drawn, [place(scene, np.random.default_rng(7)) for scene in drawn])
        attrs = {"model": model, "prompts": [{"id": p.id, "text": p.text, "aspects": list(p.aspects)} for p in prompts]}
        store.put("images", f"{model}-00000", {"images": images}, attrs)
    return store, prompts
