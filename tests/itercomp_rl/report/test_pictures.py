"""Which pictures the report shows."""

import base64
import io
from collections import Counter
from itertools import combinations

import numpy as np
import pytest
from PIL import Image

from itercomp_rl.report.images import held_out_images
from itercomp_rl.report.pictures import (
    HeldOutImages,
    before_and_after,
    picture,
    spread,
    winners_and_losers,
    worst_regressions,
)
from tests.parts.report_of_a_run import HandMade


def pixels_of(src: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(src.partition(",")[2]))).convert("RGB"))


def test_small_pictures_are_shown_bit_for_bit() -> None:
    pixels = np.random.default_rng(1).integers(256, size=(32, 32, 3), dtype=np.uint8)
    assert (pixels_of(picture(pixels, "noise", "", []).src) == pixels).all()


def test_large_pictures_are_scaled_down() -> None:
    found = picture(np.zeros((1024, 768, 3), np.uint8), "black", "", [])
    assert pixels_of(found.src).shape == (256, 192, 3)
    assert len(found.src) < 2000


def test_before_and_after_show_the_same_prompt_and_seed_of_each_version(hand_made: HandMade) -> None:
    rows = before_and_after(HeldOutImages(hand_made.store, hand_made.plan), 4)
    assert len(rows) == 4
    assert len({row.prompt for row in rows}) == 4
    for row in rows:
        assert [shown.title for shown in row.pictures] == ["base", "round 1"]
    orders = [hand_made.plan.evaluation_orders(hand_made.plan.policy(r))[0] for r in (-1, 0)]
    for order, shown in zip(orders, rows[0].pictures, strict=True):
        images = hand_made.store.get("evaluations", order.id).arrays["images"]
        assert (pixels_of(shown.src) == images[0]).all()


def test_worst_regressions_are_those_that_lost_each_prompt_once(hand_made: HandMade) -> None:
    rows = worst_regressions(HeldOutImages(hand_made.store, hand_made.plan), 8)
    lost = [hand_made.plan.evaluation_orders(hand_made.plan.policy(-1))[0].prompts[i].text for i in (3, 5)]
    assert [row.prompt for row in rows] == list(dict.fromkeys(lost))
    assert all("0.25 → 0.00" in row.note for row in rows)


def test_winners_stand_first_and_losers_last_in_the_ranking(hand_made: HandMade) -> None:
    round_, by_aspect = winners_and_losers(hand_made.store, hand_made.plan, 3)
    assert round_ == 0
    assert set(by_aspect) == set(hand_made.plan.config.prompts.aspects)
    for rows in by_aspect.values():
        for row in rows:
            winner, loser = row.pictures
            assert (winner.lines[0], loser.lines[0]) == ("spatial", "attribute")
            assert (winner.lines[2], loser.lines[2]) == ("judge 0.90", "judge 0.10")
            rewards = [float(shown.lines[1].removeprefix("reward ")) for shown in row.pictures]
            assert ("prefers the loser" in row.note) == (rewards[0] < rewards[1])


@pytest.mark.parametrize(("length", "num", "places"), [(10, 2, [0, 9]), (3, 8, [0, 1, 2]), (1, 4, [0]), (0, 4, [])])
def test_entries_are_spread_from_first_to_last(length: int, num: int, places: list[int]) -> None:
    assert spread(range(length), num) == places


def test_images_to_look_at_are_of_every_kind_and_of_the_same_prompts_for_every_model(hand_made: HandMade) -> None:
    plan = hand_made.plan
    base, after = (held_out_images(hand_made.store, plan, plan.policy(round_), 6) for round_ in (-1, 0))
    texts = [text for text, _ in base]
    assert len(set(texts)) == 6 and texts == [text for text, _ in after]
    aspects = {
        prompt.text: prompt.aspects for order in plan.evaluation_orders(plan.policy(0)) for prompt in order.prompts
    }
    assert Counter(aspects[text] for text in texts) == dict.fromkeys(set(aspects.values()), 2)
    drawn = [pixels for _, pixels in base + after]
    assert all((one != other).any() for one, other in combinations(drawn, 2)), "each image is noise of its own"
