"""The policy learner in one process, with a real roller, store and reward model: what its settings do to a gradient."""

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from actors.rolled_network import OwnNetwork
from actors.roller import Roller
from itercomp_rl.config.load import load_config
from itercomp_rl.config.schema import Config
from itercomp_rl.diffusion.family import load_policy
from itercomp_rl.errors import DivergedError, MissingRecordError
from itercomp_rl.files.checkpoint_path import checkpoint_path
from itercomp_rl.items import PolicyOrder, RewardReport, Rollout
from itercomp_rl.plan import Plan
from itercomp_rl.reward.checkpoint import load_reward
from itercomp_rl.store import weights
from itercomp_rl.store.kinds import average_role
from itercomp_rl.store.live_weights import collect_run
from itercomp_rl.store.retention import leases
from itercomp_rl.store.store import Store, open_store
from learners.engine.spec import Group
from learners.policy import PolicyLearner
from tests.parts.checkpoints import make_flux, make_sd, make_sd3, make_sdxl

CPU = torch.device("cpu")
ALONE = Group(rank=0, world_size=1, master_addr="", master_port=0, timeout_s=600.0, backend="gloo")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A store with one reward model: the shipped trunk, told to be about average."""
    store = open_store(tmp_path_factory.mktemp("store").as_uri(), create=True)
    trunk = load_reward(Path(checkpoint_path("embedded:trunk")))
    weights.publish(store, "reward-attribute", 0, trunk.state_dict(), {})
    return store


def settings(model: Path, *overrides: str) -> Config:
    return load_config(
        "tiny",
        [
            f"policy.model={model}",
            "policy.size_px=32",
            "reward.trunk=embedded:trunk",
            "policy.num_steps=6",
            "policy.batch=2",
            "policy.rollout_batch=2",
            "policy.engine.kind=plain",
            "policy.engine.zero_stage=0",
            "policy.pretraining_weight=0",
            "policy.shift=0",
            "policy.noise=0",
            "actors.policy_learners.count=1",
            *overrides,
        ],
    )


def order(number: int, round_: int = 0, start: int | None = None) -> PolicyOrder:
    report = RewardReport(aspect="attribute", version=0, accuracy=1.0, num_pairs=9, mean=0.0, std=1.0, weight=1.0)
    return PolicyOrder(
        round=round_, start_version=start, live_role=f"live-{number}", rewards={"attribute": report}, rankings=()
    )


def opened(config: Config, store: Store, work: PolicyOrder, folder: Path) -> PolicyLearner:
    learner = PolicyLearner(store, config.policy, config.reward.trunk, folder, config.run.seed, CPU, prompts_of(config))
    learner.join(ALONE)
    learner.open(work)
    return learner


def prompts_of(config: Config) -> tuple[str, ...]:
    return Plan(config=config).rolled_prompts


def roller_of(config: Config, store: Store) -> Roller:
    return Roller(OwnNetwork(store, config.policy, CPU, prompts_of(config)), config.policy)


def rolled(config: Config, store: Store, index: int, version: int = 0, number: int = 0) -> Rollout:
    work = Plan(config=config).rollout_order(0, index, (f"live-{number}", version))
    return roller_of(config, store).roll(work)


def published(store: Store, number: int, version: int) -> torch.Tensor:
    return torch.cat(
        [t.flatten().double() for t in weights.open_version(store, f"live-{number}", version).load().values()]
    )


@pytest.fixture(scope="module")
def sd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_sd(tmp_path_factory.mktemp("sd") / "model")


def test_an_images_points_are_different_steps_and_each_image_is_walked_once(
    sd: Path, store: Store, tmp_path: Path
) -> None:
    config = settings(sd, "policy.points_per_rollout=3", "policy.scheduler=ddpm")
    learner = opened(config, store, order(1), tmp_path)
    rollout = rolled(config, store, 0, number=1)
    assert rollout.latents.shape == (3, 2, 4, 16, 16)
    steps = np.array(rollout.mid_steps)
    assert steps.shape == (3, 2)
    assert (np.diff(steps, axis=0) > 0).all()
    # Each point is where a walk of its own, from the same seed, would have come.
    roller, work = roller_of(config, store), Plan(config=config).rollout_order(0, 0, ("live-1", 0))
    for point in range(3):
        alone = roller.roll(replace(work, mid_steps=(work.mid_steps[point],)))
        np.testing.assert_allclose(alone.latents[0], rollout.latents[point], rtol=1e-4, atol=1e-5)
    learner.publish({})


def test_a_roller_takes_the_newest_weights_under_a_lease_though_those_it_was_ordered_are_collected(
    sd: Path, tmp_path: Path
) -> None:
    config = settings(sd, "policy.max_policy_lag=16")
    own = open_store((tmp_path / "store").as_uri(), create=True)
    policy = load_policy(sd, dtype="fp32", device=CPU)
    whole = policy.trainable.state_dict()
    for version in range(7):
        scaled = {name: tensor * (1 + version / 100) for name, tensor in whole.items()}
        weights.publish(own, "live-x", version, scaled, {})
    assert [version for _, version in collect_run(own, grace_s=0, now=time.time()).retired] == [0, 1, 2]
    work = Plan(config=config).rollout_order(0, 0, ("live-x", 1))
    roller = roller_of(config, own)
    late = roller.roll(work)
    assert late.version == 6
    exact = roller_of(config, own).roll(replace(work, version=6))
    np.testing.assert_array_equal(late.latents, exact.latents)
    assert {(claim.role, claim.version) for claim in leases(own)} == {("live-x", 6)}
    for version in range(7, 12):
        weights.publish(own, "live-x", version, whole, {})
    assert 6 not in [version for _, version in collect_run(own, grace_s=0, now=time.time()).retired]
    assert roller.roll(work).version == 11
    with pytest.raises(MissingRecordError, match="holds no version 12"):
        roller.roll(replace(work, version=12))
    with pytest.raises(MissingRecordError, match="holds no version 1 "):  # in order, no other will do
        roller_of(settings(sd), own).roll(work)


def test_the_gradient_of_several_points_is_the_mean_of_theirs(sd: Path, store: Store, tmp_path: Path) -> None:
    # AdamW's first step hides the gradient's size, so the norms and not the weights are compared.
    config = settings(sd, "policy.points_per_rollout=2", "policy.engine.grad_clip=1e9", "policy.engine.lr=1e-12")
    work = order(2)
    learner = opened(config, store, work, tmp_path)
    rollout = rolled(config, store, 0, number=2)
    parts = [replace(rollout, mid_steps=(rollout.mid_steps[i],), latents=rollout.latents[i : i + 1]) for i in (0, 1)]
    together = learner.update(0, [rollout])["grad_norm"]
    apart = learner.update(1, parts)["grad_norm"]  # the mean over rollouts is the mean over points
    assert together == pytest.approx(apart, rel=1e-4)
    assert together > 0
    one = learner.update(2, parts[:1])["grad_norm"]
    assert one != pytest.approx(together, rel=1e-2)


@pytest.mark.parametrize("make", [make_sd, make_sdxl, make_sd3, make_flux])
def test_recomputed_activations_and_an_adapter_learn_the_same(
    make: Callable[..., Path], store: Store, tmp_path: Path
) -> None:
    model = make(tmp_path / "model")
    sampler = "euler" if make in (make_sd3, make_flux) else "ddim"
    norms = []
    for number, recompute in ((3, "false"), (4, "true")):
        config = settings(
            model,
            "policy.lora.rank=2",
            f"policy.scheduler={sampler}",
            f"policy.gradient_checkpointing={recompute}",
        )
        role = f"{make.__name__}-{number}"
        work = replace(order(number), live_role=role)
        learner = opened(config, store, work, tmp_path / str(number))
        rollout = roller_of(config, store).roll(Plan(config=config).rollout_order(0, 0, (role, 0)))
        norms.append(learner.update(0, [rollout])["grad_norm"])
        assert all(".lora_" in name for name in weights.open_version(store, role, 1).load())
    assert norms[0] == pytest.approx(norms[1], rel=1e-4)
    assert norms[0] > 0


def test_an_adapter_goes_on_from_its_checkpoint_and_from_the_last_round(sd: Path, store: Store, tmp_path: Path) -> None:
    config = settings(sd, "policy.lora.rank=2", "policy.checkpoint_every=1", "policy.updates=2", "policy.engine.ema=0")
    first = opened(config, store, order(5, round_=2), tmp_path)
    first.update(0, [rolled(config, store, 0, 0, 5)])
    second = opened(config, store, order(6, round_=2), tmp_path)  # as after a crash
    rollout = rolled(config, store, 1, 1, 5)
    for learner in (first, second):
        learner.update(1, [rollout])
    assert torch.equal(published(store, 5, 2), published(store, 6, 2))
    second.publish({})
    opened(config, store, order(7, round_=3, start=2), tmp_path)
    assert torch.equal(published(store, 7, 0), published(store, 6, 2))


def test_rounds_that_go_on_from_one_another_learn_as_one_long_round(sd: Path, store: Store, tmp_path: Path) -> None:
    """Nothing here draws at random, so that the number of the round must not matter."""
    config = settings(sd, "policy.updates=4", "policy.engine.ema=0.9", "policy.scheduler=ddim")
    opened(config, store, order(30), tmp_path / "any")
    rollouts = [rolled(config, store, index, 0, 30) for index in range(4)]
    whole = opened(config, store, order(31), tmp_path / "whole")
    for number, rollout in enumerate(rollouts):
        whole.update(number, [rollout])
    folder = tmp_path / "rounds"
    first = opened(config, store, replace(order(32, round_=40), keeps_state=True), folder)
    for number in (0, 1):
        first.update(number, [rollouts[number]])
    first.publish({})
    second = opened(config, store, order(33, round_=41, start=40), folder)
    assert torch.equal(published(store, 33, 0), published(store, 32, 2)), "it begins with the raw weights"
    for number in (0, 1):
        second.update(number, [rollouts[2 + number]])
    assert torch.equal(published(store, 33, 2), published(store, 31, 4))
    second.publish({})
    averages = [weights.open_version(store, "policy", round_).load() for round_ in (40, 41)]
    assert not torch.equal(*(torch.cat([t.flatten() for t in average.values()]) for average in averages))
    assert not list(folder.glob("*/*")), "no checkpoint is left once the last round is published"


def test_what_is_kept_is_published_as_it_was_probed_and_learning_goes_on_from_the_end(
    sd: Path, store: Store, tmp_path: Path
) -> None:
    config = settings(sd, "policy.updates=3", "policy.engine.ema=0.9", "policy.scheduler=ddim")
    opened(config, store, order(50), tmp_path / "any")
    rollouts = [rolled(config, store, index, 0, 50) for index in range(3)]
    ends = {}
    for round_, number, probes, kept in ((60, 51, (), None), (70, 52, (0, 2, 3), 2)):
        work = replace(order(number, round_=round_), probes=probes, keeps_state=True)
        learner = opened(config, store, work, tmp_path / str(number))
        for update, rollout in enumerate(rollouts):
            learner.update(update, [rollout])
        learner.publish({}, kept)
        ends[round_] = weights.open_version(store, "policy", round_)
    probed = {update: weights.open_version(store, average_role(70), update) for update in (0, 2, 3)}
    assert ends[70].checksum == probed[2].checksum != probed[3].checksum
    assert probed[3].checksum == ends[60].checksum, "the last probe is not of what is published without probes"
    assert torch.equal(published(store, 52, 3), published(store, 51, 3)), "probes changed what was learned"
    assert (ends[70].attrs["kept_update"], ends[70].attrs["updates"]) == (2, 3)
    assert "kept_update" not in ends[60].attrs
    opened(config, store, order(53, round_=71, start=70), tmp_path / "52")
    assert torch.equal(published(store, 53, 0), published(store, 52, 3)), "the next round begins with what was kept"


def test_a_probed_average_is_never_replaced_and_is_there_for_whoever_goes_on_from_a_checkpoint(
    sd: Path, store: Store, tmp_path: Path
) -> None:
    config = settings(sd, "policy.updates=3", "policy.checkpoint_every=1", "policy.engine.ema=0.9")
    work = replace(order(54, round_=90), probes=(0, 1))
    first = opened(config, store, work, tmp_path)
    first.update(0, [rolled(config, store, 0, 0, 54)])
    before = {update: weights.open_version(store, average_role(90), update).checksum for update in (0, 1)}
    assert opened(config, store, replace(work, live_role="live-55"), tmp_path)._opened().engine.updates == 1
    again = opened(config, store, replace(work, live_role="live-56"), tmp_path / "elsewhere")
    again.update(0, [rolled(config, store, 1, 0, 56)])  # another rollout: other weights after the same update
    assert not torch.equal(published(store, 56, 1), published(store, 54, 1))
    assert before == {update: weights.open_version(store, average_role(90), update).checksum for update in (0, 1)}


def test_a_round_without_the_state_of_the_last_one_starts_from_what_it_published(
    sd: Path, store: Store, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = settings(sd, "policy.updates=1", "policy.engine.ema=0.9")
    first = opened(config, store, replace(order(34, round_=42), keeps_state=True), tmp_path / "here")
    first.update(0, [rolled(config, store, 0, 0, 34)])
    first.publish({})
    opened(config, store, order(35, round_=43, start=42), tmp_path / "elsewhere")
    average = weights.open_version(store, "policy", 42).load()
    assert torch.equal(published(store, 35, 0), torch.cat([t.flatten().double() for t in average.values()]))
    assert "goes on from its published average, with new moments" in caplog.text


def test_captions_are_left_out_as_often_as_the_config_says(sd: Path, store: Store, tmp_path: Path) -> None:
    learner = opened(settings(sd, "policy.caption_dropout=0.25"), store, order(36), tmp_path)
    captions = learner._opened().losses._captions
    (empty,) = captions([""], torch.Generator()).tokens
    text = prompts_of(settings(sd))[0]
    tokens = captions([text] * 400, torch.Generator().manual_seed(0)).tokens
    num_empty = sum(torch.equal(one, empty) for one in tokens)
    assert 70 < num_empty < 130  # binomial: 100, standard deviation 8.7


def test_guidance_reaches_rollout_and_gradient(sd: Path, store: Store, tmp_path: Path) -> None:
    found: dict[str, Any] = {}
    for number, guidance in ((10, "null"), (11, "1.0"), (12, "4.0")):
        config = settings(sd, f"policy.rollout_guidance={guidance}")
        learner = opened(config, store, order(number), tmp_path / str(number))
        rollout = rolled(config, store, 0, number=number)
        found[guidance] = rollout.latents, learner.update(0, [rollout])["grad_norm"]
    assert np.array_equal(found["null"][0], found["1.0"][0])
    assert not np.allclose(found["null"][0], found["4.0"][0], atol=1e-3)
    assert found["null"][1] == found["1.0"][1] != found["4.0"][1]


def test_draft_walks_the_last_steps_with_gradient(sd: Path, store: Store, tmp_path: Path) -> None:
    norms = []
    for number, mid, steps in ((13, 5, 1), (14, 3, 3)):
        config = settings(
            sd, f"policy.mid_low={mid}", f"policy.mid_high={mid}", f"policy.grad_steps={steps}", "policy.scheduler=ddpm"
        )
        learner = opened(config, store, order(number), tmp_path / str(number))
        norms.append(learner.update(0, [rolled(config, store, 0, number=number)])["grad_norm"])
    assert all(norm > 0 for norm in norms)
    assert norms[0] != pytest.approx(norms[1], rel=1e-2)


def test_a_round_with_nothing_to_learn_from_ends(sd: Path, store: Store, tmp_path: Path) -> None:
    work = order(15)
    silent = replace(work, rewards={"attribute": replace(work.rewards["attribute"], weight=0.0)})
    with pytest.raises(DivergedError, match="nothing to learn from"):
        opened(settings(sd), store, silent, tmp_path)


def test_an_aspect_without_a_reward_model_is_named(sd: Path, store: Store, tmp_path: Path) -> None:
    work = order(16)
    strange = replace(work, rewards={"spatial": replace(work.rewards["attribute"], aspect="spatial")})
    with pytest.raises(MissingRecordError, match="reward-spatial"):
        opened(settings(sd), store, strange, tmp_path)


def test_a_reward_that_is_not_a_number_ends_the_round(sd: Path, store: Store, tmp_path: Path) -> None:
    state = weights.open_version(store, "reward-attribute", 0).load()
    broken = {name: tensor.clone() for name, tensor in state.items()} | {"reward_std": torch.tensor(0.0)}
    broken["reward_mean"] = torch.tensor(float("nan"))
    weights.publish(store, "reward-attribute", 1, broken, {})
    work = order(17)
    work = replace(work, rewards={"attribute": replace(work.rewards["attribute"], version=1)})
    config = settings(sd)
    learner = opened(config, store, work, tmp_path)
    with pytest.raises(DivergedError, match="feedback loss is nan"):
        learner.update(0, [rolled(config, store, 0, number=17)])


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.filterwarnings("ignore")  # torch's compiler warns about its own parts
def test_a_compiled_roller_walks_the_same_way_under_every_version(sd: Path, store: Store) -> None:
    learner_like = load_policy(sd, resolution_px=32)
    for version in (0, 1):
        tensors = {name: p.detach() * (1 + 0.05 * version) for name, p in learner_like.trainable.named_parameters()}
        weights.publish(store, "live-18", version, tensors, {})
    plain, compiled = (roller_of(settings(sd, f"policy.compile={how}"), store) for how in ("false", "true"))
    found = []
    for version in (0, 1):
        work = Plan(config=settings(sd)).rollout_order(0, 0, ("live-18", version))
        found.append(compiled.roll(work).latents)
        np.testing.assert_allclose(found[-1], plain.roll(work).latents, rtol=1e-3, atol=1e-4)
    assert not np.allclose(*found, atol=1e-3), "the compiled network must see new weights"


def test_bf16_learners_start_from_the_checkpoint_s_own_precision_and_rounds_publish_in_fp32(
    sd: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    own = open_store((tmp_path / "store").as_uri(), create=True)
    trunk = load_reward(Path(checkpoint_path("embedded:trunk")))
    weights.publish(own, "reward-attribute", 0, trunk.state_dict(), {})
    config = settings(sd, "policy.engine.dtype=bf16", "policy.engine.ema=0.5", "policy.engine.lr=1e-3")
    released = dict(load_policy(sd).trainable.named_parameters())
    learner = opened(config, own, order(1), tmp_path / "first")
    assert learner._task is not None
    masters = learner._task.engine.masters()
    assert all(torch.equal(masters[name], p) for name, p in released.items())
    live = weights.open_version(own, "live-1", 0).load()
    assert all(torch.equal(live[name], p.bfloat16()) for name, p in released.items())
    learner.update(0, [rolled(config, own, 0, number=1)])
    average = learner._task.engine.masters()
    learner.publish({})
    published = weights.open_version(own, "policy", 0).load()
    assert all(torch.equal(published[name], tensor) for name, tensor in average.items())
    assert any(not torch.equal(tensor, tensor.bfloat16().float()) for tensor in published.values())
    # Another run folder has no state to go on from: the next round starts from what was published, unrounded.
    following = opened(config, own, order(2, round_=1, start=0), tmp_path / "elsewhere")
    assert "goes on from its published average" in caplog.text
    assert following._task is not None
    begun = following._task.engine.masters()
    assert all(torch.equal(begun[name], tensor) for name, tensor in published.items())
