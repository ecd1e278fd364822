"""The network that a roller denoises with: one of its own without a VAE, or the learner's, and then there is one."""

import gc
import tempfile
import weakref
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from actors.rolled_network import LearnersNetwork, OwnNetwork
from actors.roller import Roller
from actors.worker import RoleSpec, Worker, WorkerSpec
from itercomp_rl.config.load import load_config
from itercomp_rl.config.schema import Config
from itercomp_rl.errors import ConfigError, WorkerDiedError
from itercomp_rl.files.checkpoint_path import checkpoint_path
from itercomp_rl.items import PolicyOrder, RewardReport, Rollout, RolloutOrder
from itercomp_rl.loop.member_counts import rollers_borrow
from itercomp_rl.plan import Plan
from itercomp_rl.reward.checkpoint import load_reward
from itercomp_rl.run.prompts_record import put_prompts
from itercomp_rl.store import weights
from itercomp_rl.store.store import Store, open_store
from learners.engine.spec import Group
from learners.policy import PolicyLearner
from tests.parts.checkpoints import make_sd

CPU = torch.device("cpu")
ALONE = Group(rank=0, world_size=1, master_addr="", master_port=0, timeout_s=600.0, backend="gloo")
REPORT = RewardReport(aspect="attribute", version=0, accuracy=1.0, num_pairs=9, mean=0.0, std=1.0, weight=1.0)
ORDER = PolicyOrder(round=0, start_version=None, live_role="live", rewards={"attribute": REPORT}, rankings=())


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_sd(tmp_path_factory.mktemp("sd") / "model")


@pytest.fixture(autouse=True)
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A node of this test's own, where nothing is kept yet."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = open_store((tmp_path / "store").as_uri(), create=True, durable=False)
    trunk = load_reward(Path(checkpoint_path("embedded:trunk")))
    weights.publish(store, "reward-attribute", 0, trunk.state_dict(), {})
    return store


def settings(model: Path, *overrides: str) -> Config:
    """One rollout an update, of two images and two gradient points, in the layout `shared`."""
    return load_config(
        "tiny",
        [
            *(f"policy.model={model}", "policy.size_px=32", "reward.trunk=embedded:trunk", "policy.num_steps=4"),
            *("policy.mid_low=1", "policy.mid_high=3", "policy.points_per_rollout=2", "policy.scheduler=ddpm"),
            *("policy.batch=2", "policy.rollout_batch=2", "policy.pretraining_weight=0", "policy.engine.lr=1e-3"),
            *("policy.engine.kind=plain", "policy.engine.zero_stage=0", "policy.checkpoint_every=100"),
            *("actors.layout=shared", "actors.processes=1", "actors.policy_learners.count=1", *overrides),
        ],
    )


def opened(config: Config, store: Store, folder: Path) -> PolicyLearner:
    texts = Plan(config=config).rolled_prompts
    learner = PolicyLearner(store, config.policy, config.reward.trunk, folder, config.run.seed, CPU, texts)
    learner.join(ALONE)
    learner.open(ORDER)
    return learner


def ordered(config: Config, index: int, version: int) -> RolloutOrder:
    return Plan(config=config).rollout_order(0, index, ("live", version))


def borrowed(config: Config, learner: PolicyLearner, order: RolloutOrder) -> Rollout:
    return Roller(LearnersNetwork(lambda: learner, config.policy.max_policy_lag), config.policy).roll(order)


@pytest.mark.parametrize(
    "overrides",
    [(), ("policy.engine.dtype=bf16", "policy.rollout_guidance=2"), ("policy.lora.rank=2", "policy.engine.dtype=bf16")],
    ids=["all weights", "bf16 and guidance", "an adapter"],
)
def test_a_borrowed_network_rolls_out_what_the_published_version_does_bit_for_bit(
    overrides: tuple[str, ...], model: Path, store: Store, tmp_path: Path
) -> None:
    config = settings(model, *overrides)
    learner = opened(config, store, tmp_path)
    own = OwnNetwork(store, config.policy, CPU, Plan(config=config).rolled_prompts, as_learners=True)
    alone = Roller(own, config.policy)
    seen = []
    for number in range(3):
        order = ordered(config, number, number)
        rollout = borrowed(config, learner, order)
        assert rollout.version == number
        assert np.array_equal(rollout.latents, alone.roll(order).latents)
        seen.append(borrowed(config, learner, replace(ordered(config, 0, number))).latents)
        learner.update(number, [rollout])
    assert not np.array_equal(seen[0], seen[1]) and not np.array_equal(seen[1], seen[2])  # the versions differ


def test_a_roller_of_its_own_network_has_no_vae(model: Path, store: Store) -> None:
    config = settings(model)
    own = OwnNetwork(store, config.policy, CPU, Plan(config=config).rolled_prompts)
    policy = own._policy
    assert {name for name, part in policy.pipeline.components.items() if isinstance(part, nn.Module)} == {"unet"}
    with pytest.raises(ConfigError, match="without its VAE"):
        policy.decode(torch.zeros(1, *policy.latent_shape))


def test_a_borrowed_network_serves_the_ordered_version_alone_and_a_newer_one_only_with_a_lag(
    model: Path, store: Store, tmp_path: Path
) -> None:
    config = settings(model)
    learner = opened(config, store, tmp_path)
    first = borrowed(config, learner, ordered(config, 0, 0))
    learner.update(0, [first])
    with pytest.raises(WorkerDiedError, match="version 0 of live was ordered, and the learner is at 1"):
        borrowed(config, learner, ordered(config, 1, 0))
    lagging = settings(model, "policy.max_policy_lag=1")
    assert borrowed(lagging, learner, ordered(lagging, 1, 0)).version == 1
    with pytest.raises(WorkerDiedError, match="holds version 1 of live"):
        borrowed(lagging, learner, ordered(lagging, 1, 2))
    with pytest.raises(WorkerDiedError, match="version 1 of elder was ordered"):
        borrowed(config, learner, replace(ordered(config, 1, 1), role="elder"))


def test_the_round_s_end_frees_the_network_though_a_roller_borrowed_it(
    model: Path, store: Store, tmp_path: Path
) -> None:
    config = settings(model)
    learner = opened(config, store, tmp_path)
    roller = Roller(LearnersNetwork(lambda: learner, 0), config.policy)
    learner.update(0, [roller.roll(ordered(config, 0, 0))])
    live = learner.live()
    assert live is not None
    network = weakref.ref(live.policy.trainable)
    del live
    learner.publish({})
    gc.collect()
    assert network() is None
    with pytest.raises(WorkerDiedError, match="holds no round"):
        roller.roll(ordered(config, 1, 1))


def unets() -> int:
    gc.collect()
    return sum(type(found).__name__ == "UNet2DConditionModel" for found in gc.get_objects())


@pytest.mark.parametrize(("layout", "num"), [("shared", 1), ("separate", 2)])
def test_roller_and_learner_of_one_process_hold_one_network(
    layout: str, num: int, model: Path, store: Store, tmp_path: Path
) -> None:
    config = settings(model, f"actors.layout={layout}", f"run.dir={tmp_path}", f"store.url={store.url}")
    put_prompts(store, Plan(config=config))
    roles = tuple(RoleSpec(kind=kind, name=f"{kind}-0") for kind in ("policy_learner", "sampler", "roller"))
    worker = Worker(WorkerSpec(label="shared-0", roles=roles, cpus=1, gpus=0), config)
    torch.set_flush_denormal(False)  # the worker's own setting, which no other test's process has
    before = unets()
    worker.call("policy_learner-0", "join", (ALONE,))
    worker.call("policy_learner-0", "open", (ORDER,))
    assert len(list(tmp_path.glob("itercomp-rl-*/prompts/*/*.safetensors"))) == 1  # encoded once, for both
    rollout = worker.call("roller-0", "roll", (ordered(config, 0, 0),))
    worker.call("policy_learner-0", "update", (0, [rollout]))
    assert worker.call("roller-0", "roll", (ordered(config, 1, 1),)).version == 1
    assert unets() - before == num
    assert len(list(tmp_path.glob("itercomp-rl-*/prompts/*/*.safetensors"))) == 1


def test_opening_a_learner_frees_what_a_sampler_in_its_process_has_loaded(
    model: Path, store: Store, tmp_path: Path
) -> None:
    config = settings(model, f"run.dir={tmp_path}", f"store.url={store.url}", f"gallery.members.base.model={model}")
    plan = Plan(config=config)
    put_prompts(store, plan)
    roles = tuple(RoleSpec(kind=kind, name=f"{kind}-0") for kind in ("policy_learner", "sampler"))
    worker = Worker(WorkerSpec(label="shared-0", roles=roles, cpus=1, gpus=0), config)
    torch.set_flush_denormal(False)
    before = unets()
    drawing = plan.draw_orders(0, 0)[0]
    drawing = replace(drawing, prompts=drawing.prompts[:1], seeds=drawing.seeds[:1])
    images = worker.call("sampler-0", "images", (drawing,))
    assert unets() - before == 1
    worker.call("policy_learner-0", "join", (ALONE,))
    worker.call("policy_learner-0", "open", (ORDER,))
    assert unets() - before == 1  # the learner's
    assert np.array_equal(worker.call("sampler-0", "images", (drawing,)), images)  # loaded again


def test_rollers_borrow_in_the_layout_shared_but_for_zero_3(model: Path) -> None:
    zero = ("policy.engine.kind=deepspeed", "policy.engine.zero_stage=3")
    assert rollers_borrow(settings(model))
    assert rollers_borrow(settings(model, zero[0], "policy.engine.zero_stage=2"))
    assert not rollers_borrow(settings(model, *zero))
    assert not rollers_borrow(settings(model, "actors.layout=separate"))
