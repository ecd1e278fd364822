"""From a policy version to everything behind it."""

import json
from pathlib import Path

import pytest

from itercomp_rl.config.schema import Config
from itercomp_rl.errors import MissingRecordError
from itercomp_rl.plan import Plan
from itercomp_rl.run.lineage import trace
from itercomp_rl.store.software import software
from itercomp_rl.store.store import Store
from tests.parts.small_run import small_run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Config, Store]:
    return small_run(tmp_path_factory.mktemp("runs"))


def test_the_first_policy_has_no_policy_behind_it(run: tuple[Config, Store]) -> None:
    config, store = run
    found = trace(store, config, 0)
    assert [policy.version for policy in found.policies] == [0]
    assert {segment.policy_version for segment in found.images} == {None}
    assert found.policies[0].base == config.policy.model


def test_a_later_policy_leads_to_every_prompt_model_seed_and_pair(run: tuple[Config, Store]) -> None:
    config, store = run
    plan = Plan(config=config)
    found = trace(store, config, 1)
    assert [policy.version for policy in found.policies] == [0, 1]
    orders = [o for r in range(2) for s in range(len(plan.segments())) for o in plan.draw_orders(r, s)]
    assert {segment.id for segment in found.images} == {order.id for order in orders}
    assert {segment.model for segment in found.images} == {order.model.name for order in orders}
    by_id = {segment.id: segment for segment in found.images}
    for order in orders:
        assert by_id[order.id].seeds == order.seeds
        assert by_id[order.id].prompts == tuple(prompt.text for prompt in order.prompts)
    assert {segment.policy_version for segment in found.images} == {None, 0}
    assert {ranked.id for ranked in found.rankings} == {*plan.rankings(0), *plan.rankings(1)}
    assert {(reward.aspect, reward.version) for reward in found.rewards} == {
        (aspect, version) for aspect in config.prompts.aspects for version in (0, 1)
    }
    for reward in found.rewards:
        assert reward.pairs and reward.held_out
        for pair in (*reward.pairs, *reward.held_out):
            for ref in (pair.winner, pair.loser):
                assert by_id[ref.segment].prompts[ref.row] == pair.prompt.text


def test_every_part_says_which_code_wrote_it(run: tuple[Config, Store]) -> None:
    config, store = run
    found = trace(store, config, 1)
    assert found.code == (software()["code"],)
    assert json.loads(json.dumps(found.tree()))["code"] == list(found.code)


def test_a_broken_link_is_named(tmp_path: Path) -> None:
    config, store = small_run(tmp_path)
    with pytest.raises(MissingRecordError, match=r"no version 7 of policy, but \[0, 1\]"):
        trace(store, config, 7)
    store.backend.delete("commits/images/base-00000.json")
    with pytest.raises(MissingRecordError, match="no images base-00000, which its lineage names"):
        trace(store, config, 0)
