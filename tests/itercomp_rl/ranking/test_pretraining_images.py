"""Which gallery images the pre-training loss may take."""

from pathlib import Path

import pytest

from itercomp_rl.items import ImageRef
from itercomp_rl.plan import Plan
from itercomp_rl.ranking.pretraining_images import load_pretraining_images
from itercomp_rl.ranking.records import load_rankings
from itercomp_rl.store.store import Store
from tests.parts.small_run import small_run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Plan, Store]:
    config, store = small_run(tmp_path_factory.mktemp("run"))
    return Plan(config=config), store


def test_all_images_are_those_of_every_model_and_prompt(run: tuple[Plan, Store]) -> None:
    plan, store = run
    found = load_pretraining_images(store, plan.rankings(0))
    assert len(found) == len(set(found)) == len(plan.gallery_prompts) * len(plan.config.gallery.members)


def test_winners_are_first_in_an_aspect_and_every_first_one_is_there(run: tuple[Plan, Store]) -> None:
    plan, store = run
    ids = plan.rankings(1)
    first: set[tuple[str, ImageRef]] = set()
    for id_ in ids:
        for prompt, images, rankings in load_rankings(store, id_):
            for judged in rankings.values():
                first |= {(prompt.id, images[model]) for model in judged.ranking.places[0]}
    found = load_pretraining_images(store, ids, winners=True)
    assert {(prompt.id, ref) for prompt, ref in found} == first
    assert len(found) == len(first) < len(load_pretraining_images(store, ids))


def test_images_of_some_models_are_only_theirs(run: tuple[Plan, Store], tmp_path: Path) -> None:
    plan, store = run
    found = load_pretraining_images(store, plan.rankings(0), models=["base"])
    assert {ref.segment.rpartition("-")[0] for _, ref in found} == {"base"}
    assert len(found) == len(plan.gallery_prompts)
