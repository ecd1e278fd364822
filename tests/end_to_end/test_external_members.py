"""A run that learns from a folder of images and from an endpoint too: drawn, ranked, resumed, reported.

The real loop, store, models and learners in one process, and a real server of the OpenAI images protocol.
"""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cluster.checks import check_external
from cluster.finished_run import evaluate_run
from itercomp_rl.config.schema import Config
from itercomp_rl.plan import Plan
from itercomp_rl.ranking.pairs import load_pairs, pair_rules
from itercomp_rl.ranking.records import load_rankings
from itercomp_rl.report.html import write_report
from itercomp_rl.report.results import write_results
from itercomp_rl.store import weights
from itercomp_rl.store.store import open_store
from tests.parts.image_server import by_world, world_picture
from tests.parts.json_server import Reply, json_server
from tests.parts.one_process import DriverKilledError, Kill, OneProcessRun, small_config

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]

REFUSED = "purple"  # no prompt with this word is drawn by the endpoint


def config_of(folder: Path, url: str, images: Path) -> Config:
    return small_config(
        folder,
        *("run.rounds=1", "policy.updates=1", "prompts.world.colours=[red,green,blue,purple]"),
        f"gallery.members.closed={{system: folder, model: '{images}', size_px: 32}}",
        "gallery.members.served={system: endpoint, endpoint: hall, model: big, size_px: 32}",
        f"gallery.endpoints.hall={{url: '{url}', max_retries: 0}}",
    )


def draws_most(body: dict[str, Any]) -> Reply:
    return (400, {"error": "the safety system refused"}) if REFUSED in body["prompt"] else by_world(body)


def test_a_folder_and_an_endpoint_are_drawn_ranked_learned_from_and_reported(tmp_path: Path) -> None:
    images = tmp_path / "closed"
    images.mkdir()
    with json_server(draws_most) as (url, asked):
        config = config_of(tmp_path, url, images)
        plan = Plan(config=config)
        has = plan.gallery_prompts[:16]  # of 24, and no held-out one
        for prompt in has:
            picture = Image.fromarray(world_picture(prompt.text, 0)).resize((48, 48))
            picture.save(images / f"{prompt.id}.png")
        check_external(plan)
        asked.clear()
        store = open_store(config.store_url, create=True, durable=False)
        with pytest.raises(DriverKilledError):
            OneProcessRun(config, store, kills=[Kill(role="driver", moment="rewards", how="before")]).go()
        before = len(asked)
        assert before
        OneProcessRun(config, store).go()
        assert len(asked) == before, "what is committed is not asked for again"
        anew = evaluate_run(config, store, split="test", file=None, seed=7, num=1)
        assert all("served" in found["gallery"] and "closed" not in found["gallery"] for found in anew.values())
        del asked[before:]
    by_place = Counter((body["prompt"], body["seed"]) for body in asked)
    wanted = {
        (prompt.text, seed % 2**31)
        for segment in range(2)
        for order in plan.draw_orders(0, segment)
        if order.model.name == "served"
        for prompt, seed in zip(order.prompts, order.seeds, strict=True)
    }
    assert wanted <= set(by_place)
    assert set(by_place.values()) == {1}

    num = Counter[str]()
    for id_ in plan.rankings(0):
        for prompt, refs, rankings in load_rankings(store, id_):
            assert ("closed" in refs) == (prompt in has)
            assert ("served" in refs) == (REFUSED not in prompt.text)
            for judged in rankings.values():
                assert {model for place in judged.ranking.places for model in place} == set(refs)
                num.update(judged.ranking.places[0])
    assert num["served"] + num["closed"] > num["base"] + num["spatial"], "faultless pictures come first"
    rules = pair_rules(config.judge, config.reward, config.run.seed)
    train, kept = load_pairs(store, plan.rankings(0), "attribute", rules)
    assert any(pair.winner.segment.startswith("closed-") for pair in train + kept)
    assert weights.versions(store, "policy") == [0]

    record = store.get("images", "closed-00000")
    assert record.arrays["images"].shape[1:] == (32, 32, 3)
    assert record.attrs["notes"][0] == {"file": f"{plan.gallery_prompts[0].id}.png"}
    served = store.get("images", "served-00000")
    row = next(row for row, p in enumerate(plan.gallery_prompts[:12]) if REFUSED not in p.text)
    np.testing.assert_array_equal(
        served.arrays["images"][row],
        world_picture(plan.gallery_prompts[row].text, int(served.arrays["seeds"][row]) % 2**31),
    )

    write_results(store, plan, config.run_folder, {"wall_s": 1.0, "peak_rss_mb": 1, "phases": []}, {})
    tree = json.loads((config.run_folder / "results.json").read_text())
    counts = tree["missing_images"]["closed"]
    assert (counts["gallery"]["images"], counts["gallery"]["missing"]) == (24, 8)
    assert counts["held_out"]["missing"] == counts["held_out"]["images"] > 0
    assert tree["missing_images"]["served"]["gallery"]["missing"] == sum(
        REFUSED in prompt.text for prompt in plan.gallery_prompts
    )
    for aspect in tree["aspects"].values():
        assert "closed" not in aspect["gallery"], "nothing of it is graded"
        assert aspect["gallery"]["served"]["mean"] > aspect["base"]["mean"]
    said = (config.run_folder / "results.txt").read_text()
    assert "closed: 8 of 24 gallery images are missing." in " ".join(said.split())
    page = write_report(store, plan, config.run_folder).read_text()
    assert "closed: 8 of 24 gallery images are missing." in page
