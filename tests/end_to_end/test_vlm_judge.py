"""A run judged by a vision-language model that sees as the oracle sees is the oracle's run.

The real loop, store, models and learners in one process; the model is a server of the OpenAI protocol, which answers
each yes/no question about an image by the oracle's grade of the statement, as log-probabilities.
"""

import json
from collections import Counter
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from itercomp_rl.config.schema import Config
from itercomp_rl.items import Prompt
from itercomp_rl.judges.oracle import OracleScorer
from itercomp_rl.judges.vlm.endpoint import EndpointVlm
from itercomp_rl.judges.vlm.model import Usage
from itercomp_rl.judges.vlm.scorer import VlmScorer
from itercomp_rl.shapes.oracle import SHAPE_IOU, grade, objects
from itercomp_rl.shapes.render import place, render
from itercomp_rl.shapes.scenes import COLOURS, Scene, World, caption, draw_scenes, one_aspect_wrong, parse
from itercomp_rl.store import weights
from itercomp_rl.store.store import Store, open_store
from tests.parts.json_server import Reply, json_server
from tests.parts.one_process import Kill, OneProcessRun, small_config
from tests.parts.vlm_server import image_of, said_with, statement_of, vlm_settings

BY_VLM = (
    *("judge.first_round=vlm", "judge.later_rounds=vlm", "evaluation.judge=vlm", "judge.vlm.model=seer"),
    "evaluation.allow_self_grading=true",
)
BY_ORACLE = ("judge.first_round=oracle", "judge.later_rounds=oracle", "evaluation.judge=oracle")
# A founder that is good at both, so that there are pairs of both.
RELATIONS = (
    *("run.rounds=1", "prompts.aspects=[spatial,non_spatial]", "prompts.world.relations=[left,above,inside,tied]"),
    *("gallery.members.spatial.model=embedded:generalist", "gallery.members.spatial.num_steps=6"),
    *("prompts.gallery=36", "gallery.segment=18", "reward.held_out=0.4", "evaluation.denoising_images=0"),
)


pytestmark = pytest.mark.usefixtures("one_thread")


def by_oracle(body: dict[str, Any]) -> Reply:
    return said_with(truth(image_of(body), statement_of(body)))


def truth(image: NDArray[np.uint8], statement: str) -> float:
    """How far an image shows a statement: the oracle's grade of a relation, or of the shape of one coloured thing."""
    if sum(colour in statement for colour in COLOURS) == 2:
        scene = parse(statement)
        return grade(image, scene)[scene.aspects[-1]].score
    _, colour, shape = statement.split()
    found = next((thing for thing in objects(image) if thing.colour == colour), None)
    if found is None:
        return 0.0
    ahead = found.iou[shape] - max(value for name, value in found.iou.items() if name != shape)
    # As the oracle grades an attribute: half where the shape fits no better than another, or not well enough.
    return min(max(min(0.5 + ahead / 0.12, 0.5 + (found.iou[shape] - SHAPE_IOU) / 0.2), 0.0), 1.0)


def left_by(store: Store) -> dict[str, Any]:
    """Images, rankings, grades and the weights that a run published."""
    found: dict[str, Any] = {f"images/{id_}": store.get("images", id_).arrays["images"] for id_ in store.ids("images")}
    for kind in ("rankings", "grades"):
        found |= {f"{kind}/{id_}": store.get(kind, id_).attrs for id_ in store.ids(kind)}
    for role in ("policy", "reward-spatial", "reward-non_spatial"):
        found[role] = weights.open_version(store, role, 0).load()
    return found


def finished(config: Config, *kills: Kill) -> Store:
    store = open_store(config.store_url, create=True, durable=False)
    OneProcessRun(config, store, kills=kills).go()
    return store


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_a_whole_run_learns_the_same_weights_also_when_the_judge_dies_on_the_way(tmp_path: Path) -> None:
    expected = small_config(tmp_path / "oracle", *RELATIONS, *BY_ORACLE)
    one = left_by(finished(expected))
    with json_server(by_oracle) as (url, asked):
        config = small_config(tmp_path / "vlm", *RELATIONS, *BY_VLM, f"judge.vlm.url={url}", "judge.vlm.parallel=2")
        dies = Kill(role="judge", moment="gallery", how="writing")
        store = finished(config, dies)
        other = left_by(store)
    assert dies.done
    assert one.keys() == other.keys()
    for key, value in one.items():
        kind = key.partition("/")[0]
        if kind == "rankings":
            assert places(value) == places(other[key]), key
        elif kind == "grades":
            assert scores(other[key]) == pytest.approx(scores(value), abs=1e-9), key
        elif isinstance(value, np.ndarray):
            assert np.array_equal(value, other[key]), key
        else:
            assert all(torch.equal(tensor, other[key][name]) for name, tensor in value.items()), key
    times = Counter(json.dumps(body["messages"]) for body in asked)
    assert len(times) == len(store.ids("answers"))
    # The judge died as it kept its first answer: what was in flight then is asked once more, and nothing else.
    assert max(times.values()) == 2
    assert sum(num > 1 for num in times.values()) <= len(times) / 4


def places(attrs: dict[str, Any]) -> list[Any]:
    found = [{aspect: judged["places"] for aspect, judged in entry["rankings"].items()} for entry in attrs["prompts"]]
    assert any(len(ranking) > 1 for entry in found for ranking in entry.values())
    return found


def scores(attrs: dict[str, Any]) -> list[float]:
    return [score for row in attrs["rows"] for score, _ in row["grades"].values()]


def test_attributes_asked_one_by_one_order_images_as_the_oracle_does() -> None:
    """The oracle takes half of the worse object and half of the mean, and sees what else is there: not quite a mean."""
    rng = np.random.default_rng(0)
    prompts, images = [], []
    for number, scene in enumerate(draw_scenes(World(), "test", 12, rng)):
        wrong = one_aspect_wrong(scene, "attribute", rng)
        half_wrong = Scene(scene.relation, scene.first, wrong.second)
        for shown in (scene, wrong, half_wrong):
            prompts.append(Prompt(id=str(number), text=caption(scene), aspects=("attribute",)))
            images += list(render([shown], [place(shown, rng)]))
    with json_server(by_oracle) as (url, _):
        settings = vlm_settings(url)
        store = open_store("memory://", create=True)
        asked = VlmScorer(settings, ["attribute"], store, EndpointVlm(settings, Usage())).score(prompts, images)
    graded = OracleScorer().score(prompts, images)
    agree = [
        (asked[i]["attribute"].value > asked[j]["attribute"].value)
        == (graded[i]["attribute"].value > graded[j]["attribute"].value)
        for i, j in combinations(range(len(prompts)), 2)
        if prompts[i].id == prompts[j].id and abs(graded[i]["attribute"].value - graded[j]["attribute"].value) > 0.2
    ]
    assert len(agree) >= 20
    assert np.mean(agree) >= 0.95
    assert [found["attribute"].passed for found in asked] == [found["attribute"].passed for found in graded]
