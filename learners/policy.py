"""Step 6 of a prompt's road: one rank of the policy learner turns rollouts into new policy weights (ReFL)."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch

from itercomp_rl.config.schema import PolicyConfig
from itercomp_rl.diffusion.attention_kernel import check_attention, set_attention
from itercomp_rl.diffusion.encoded import EncodedPrompts, load_with_encoded_prompts
from itercomp_rl.diffusion.family import load_network_weights
from itercomp_rl.diffusion.frozen_base import FrozenBase
from itercomp_rl.diffusion.lora import Lora, add_lora, has_lora
from itercomp_rl.diffusion.policy import Policy
from itercomp_rl.diffusion.published import LORA, load_published
from itercomp_rl.diffusion.refl import Feedback
from itercomp_rl.errors import CheckpointError, DivergedError, WorkerDiedError
from itercomp_rl.files.checkpoint_path import checkpoint_path
from itercomp_rl.items import ImageRef, PolicyOrder, Prompt, RewardReport, Rollout
from itercomp_rl.ranking.pretraining_images import load_pretraining_images
from itercomp_rl.reward.frozen import CALIBRATION_IMAGES, SCORED_AT_ONCE, FrozenReward, FrozenRewards
from itercomp_rl.reward.published import load_reported
from itercomp_rl.seeds import seed_of
from itercomp_rl.store import weights
from itercomp_rl.store.deltas import DeltaPublisher
from itercomp_rl.store.image_loader import ImageLoader
from itercomp_rl.store.kinds import POLICY, average_role
from itercomp_rl.store.store import Store
from itercomp_rl.store.writers import Writers
from learners.checkpoints import drop_checkpoints, load_checkpoint, newest_checkpoint, save_checkpoint
from learners.engine.engine import Engine
from learners.engine.open import open_engine
from learners.engine.spec import Group, engine_spec
from learners.policy_losses import PolicyLosses
from learners.writers import writers_of

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class LivePolicy:
    """A learner's policy between two updates, for a roller in the same process.

    LivePolicy(role="live-7f", version=3, policy=..., encoded=...): its weights are those of version 3 of live-7f.
    """

    role: str
    version: int
    policy: Policy
    encoded: EncodedPrompts


class PolicyLearner:
    """Learns one round at a time. Every rank of the group makes the same calls in the same order."""

    def __init__(
        self,
        store: Store,
        settings: PolicyConfig,
        trunk: str,
        checkpoints: Path,
        seed: int,
        device: torch.device,
        prompts: Sequence[str],
        images: ImageLoader | None = None,
        encoded: EncodedPrompts | None = None,
    ) -> None:
        """prompts: the texts that rollouts will name; encoded when a round opens, with those of its gallery images.

        images: what reads the gallery's images; None: a loader of this learner's own, which keeps none. encoded: where
        encoded prompts are kept; None: in this learner alone.
        """
        self._store, self._settings, self._trunk, self._seed, self._device = store, settings, trunk, seed, device
        self._checkpoints, self._prompts = checkpoints, prompts
        self._encoded = encoded or EncodedPrompts()  # outlives rounds: later ones load no text encoders
        self._images = images or ImageLoader(store)
        self._joined: Group | None = None
        self._task: _Task | None = None

    def join(self, group: Group) -> None:
        """Take this rank's place; once in the life of a process."""
        self._joined = group

    @property
    def _group(self) -> Group:
        if self._joined is None:
            raise WorkerDiedError("a policy learner was restarted and belongs to no group yet")
        return self._joined

    def _ranks(self) -> Writers:
        return writers_of(self._group, self._device)

    def open(self, order: PolicyOrder) -> int:
        """Load policy, reward models and this round's newest checkpoint; publish live weights; returns updates made."""
        settings = self._settings
        is_regularised = settings.pretraining_weight or settings.stay_near_base
        gallery = self._gallery_images(order) if is_regularised else []
        policy, base = self._policy(order, [prompt.text for prompt, _ in gallery])
        engine = open_engine(
            policy.trainable,
            engine_spec(settings.engine, order.total_updates or settings.updates),
            self._group,
            self._device,
        )
        policy.network = engine.module
        frozen = self._frozen_rewards(order)
        self._drop_old_checkpoints(order)
        if newest := newest_checkpoint(self._checkpoints, _stem(order.round)):
            load_checkpoint(engine, newest)
        elif order.start_version is not None:
            self._go_on(engine, order.start_version)
        elif settings.engine.dtype != "fp32" and not settings.lora.rank:
            engine.refine(load_network_weights(checkpoint_path(settings.model)).items())
        self._task = _Task(
            order=order,
            engine=engine,
            live=DeltaPublisher(self._store, order.live_role, settings.anchor_every, self._ranks()),
            losses=PolicyLosses(
                policy, settings, (self._seed, order.round), self._encoded, base, gallery, self._images, frozen
            ),
            frozen=frozen,
            lora=lora_of(settings, policy).tree() if settings.lora.rank else None,
            bare=self._bare(policy),
        )
        self.take_rewards(order.rewards)
        self._publish_live(self._task)
        return engine.updates

    def take_rewards(self, reports: Mapping[str, RewardReport]) -> None:
        """Load these reward models; the next update learns from them. Those of weight 0 are left out."""
        task, settings = self._opened(), self._settings
        is_climbing = bool(task.frozen) or any(report.weight > 0 for report in reports.values())
        if not settings.pretraining_weight and not is_climbing:
            raise DivergedError(
                f"round {task.order.round} has no reward model with a weight and policy.pretraining_weight is 0: there "
                "is nothing to learn from; give reward.weights, or better reward models (on_bad_reward dropped them)"
            )
        trusted = {aspect: report for aspect, report in reports.items() if report.weight > 0}
        ensemble = load_reported(self._store, self._trunk, trusted, self._device) if trusted else None
        if ensemble is not None:
            ensemble.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue] torch's overload
        terms = settings.frozen_rewards
        feedback = Feedback(
            weights={aspect: report.weight for aspect, report in trusted.items()}
            | {name: term.weight for name, term in terms.items()},
            target=settings.target,
            targets={aspect: settings.targets[aspect] for aspect in trusted if aspect in settings.targets}
            | {name: term.target for name, term in terms.items() if term.target is not None},
            combine=settings.combine,  # type: ignore[arg-type]  # checked with the config
            aspect_gradients=settings.aspect_gradients,  # type: ignore[arg-type]  # checked with the config
            scale=settings.loss_scale,
            num_grad_steps=settings.grad_steps,
            guidance=settings.rollout_guidance,
        )
        task.losses.follow(ensemble, feedback)
        task.learned_by.append({"update": task.engine.updates, **{a: asdict(r) for a, r in reports.items()}})

    def live(self) -> LivePolicy | None:
        """The policy as it was published last, to roll out with in this process; None where none is.

        Whoever takes it must not keep it: the next update changes its weights, and the round's end frees them.
        """
        task = self._task
        if task is None or task.published is None:
            return None
        return LivePolicy(role=task.order.live_role, version=task.published, policy=task.bare, encoded=self._encoded)

    def _bare(self, policy: Policy) -> Policy:
        """The same network without the engine around it, with which rollers in this process denoise."""
        bare = Policy(policy.pipeline, policy.family, resolution_px=self._settings.size_px)
        bare.empty_prompt = policy.empty_prompt
        if self._settings.compile:
            bare.network = torch.compile(bare.trainable)
        return bare

    def update(self, number: int, rollouts: Sequence[Rollout], num_rollouts: int | None = None) -> dict[str, float]:
        """One gradient update from this rank's rollouts, out of num_rollouts of all ranks (None: there is no other).

        Publishes live version number + 1.
        """
        task = self._opened()
        if number != task.engine.updates:
            raise CheckpointError(f"update {number} was asked for, the learner stands at {task.engine.updates}")
        found: list[dict[str, float]] = []
        task.published = None  # until the weights that this update makes are
        for rollout in rollouts:
            for loss, metrics in task.losses.of(rollout, num_rollouts or len(rollouts), number):
                task.engine.backward(loss / len(rollouts))
                found.append(metrics)
        stepped = task.engine.step()
        self._publish_live(task)
        if (number + 1) % self._settings.checkpoint_every == 0 and number + 1 < self._settings.updates:
            self.checkpoint()
        names = dict.fromkeys(name for metrics in found for name in metrics)
        return {name: fmean(m[name] for m in found if name in m) for name in names} | stepped

    def publish(self, rewards: Mapping[str, RewardReport], kept: int | None = None) -> None:
        """Publish the round's policy, the moving average where one is kept, with its lineage; free the memory.

        It is published in fp32, whatever the network computes in, so that nothing is rounded which a next round or an
        export goes on from.

        kept: publish the average as it was probed after so many updates; None: as it is now. What the next round goes
        on from is the state as it is now either way.
        """
        task = self._opened()
        attrs = {
            "round": task.order.round,
            "base": self._settings.model,
            LORA: task.lora,
            "base_policy": task.order.start_version,
            "rewards": {aspect: asdict(report) for aspect, report in rewards.items()},
            "learned_by": task.learned_by,
            "rankings": list(task.order.rankings),
            "updates": task.engine.updates,
            "seed": self._seed,
        }
        if task.frozen is not None:
            attrs["frozen_rewards"] = {
                name: asdict(self._settings.frozen_rewards[name]) | {"mean": reward.mean, "std": reward.std}
                for name, reward in task.frozen.rewards.items()
            }
        if kept is not None:
            attrs["kept_update"] = kept
        if task.order.keeps_state:  # before the policy is there: whoever sees it may begin the next round
            save_checkpoint(task.engine, self._checkpoints, _state_after(task.order.round), rank=self._group.rank)
        learned = task.engine.masters(ema=True)
        if kept is not None:
            probed = weights.open_version(self._store, average_role(task.order.round), kept).load()
            learned = {name: probed[name] for name in learned}  # this rank's share
        weights.publish(self._store, POLICY, task.order.round, learned, attrs, self._ranks())
        drop_checkpoints(self._checkpoints, _stem(task.order.round), rank=self._group.rank)
        if task.order.start_version is not None:
            drop_checkpoints(self._checkpoints, _state_after(task.order.start_version), rank=self._group.rank)
        task.engine.close()
        self._task = None

    def _opened(self) -> "_Task":
        if self._task is None:
            raise WorkerDiedError("a policy learner was restarted and holds no round")
        return self._task

    def _policy(self, order: PolicyOrder, gallery_prompts: Sequence[str]) -> tuple[Policy, FrozenBase | None]:
        """The checkpoint with the weights to start from, and `requires_grad` on what learns; its base, if needed."""
        settings = self._settings
        policy = load_with_encoded_prompts(
            checkpoint_path(settings.model),
            [*self._prompts, *gallery_prompts],
            self._encoded,
            dtype=settings.engine.dtype,
            device=self._device,
            resolution_px=settings.size_px,
        ).to_channels_last(but_trainable=True)
        check_attention("policy.attention", settings.attention, policy.dtype, self._device)
        base = FrozenBase(policy, learns_adapter=settings.lora.rank > 0) if settings.stay_near_base else None
        if order.start_version is not None:
            load_published(policy, weights.open_version(self._store, POLICY, order.start_version))
        if not settings.lora.rank:
            policy.trainable.requires_grad_(True)
        elif not has_lora(policy.trainable):
            add_lora(policy, lora_of(settings, policy), seed=seed_of(self._seed, "lora", order.round))
        set_attention(policy.trainable, settings.attention)
        if base is not None and base.network is not None:
            set_attention(base.network, settings.attention)
        if settings.gradient_checkpointing:
            policy.enable_gradient_checkpointing()
        return policy, base

    def _go_on(self, engine: Engine, start_version: int) -> None:
        """Give the engine the raw weights, the moments and the average that the round before ended with.

        What a round publishes is an average, which lags behind what was learned. Where that round's state cannot be
        used (another run folder, a group of another size under ZeRO), the round starts from what it published.
        """
        state = newest_checkpoint(self._checkpoints, _state_after(start_version))
        try:
            if state is None:
                raise CheckpointError(f"{self._checkpoints} holds no state of round {start_version}")
            engine.check(state)
        except CheckpointError as error:
            log.warning("the policy goes on from its published average, with new moments: %s", error)
            average = weights.open_version(self._store, POLICY, start_version).load()
            if all(tensor.dtype == torch.float32 for tensor in average.values()):  # else of elder software
                engine.refine(average.items())
            return
        load_checkpoint(engine, state)
        engine.restart_count()

    def _drop_old_checkpoints(self, order: PolicyOrder) -> None:
        """Delete what no round needs any more, and what a process that was killed could not delete."""
        for earlier in range(order.round):
            drop_checkpoints(self._checkpoints, _stem(earlier), rank=self._group.rank)
            if earlier != order.start_version:
                drop_checkpoints(self._checkpoints, _state_after(earlier), rank=self._group.rank)

    def _frozen_rewards(self, order: PolicyOrder) -> FrozenRewards | None:
        """The frozen terms of the loss, in standard deviations of their scores on the round's gallery."""
        terms = self._settings.frozen_rewards
        if not terms:
            return None
        gallery = load_pretraining_images(self._store, order.rankings)
        rows = np.linspace(0, len(gallery), min(CALIBRATION_IMAGES, len(gallery)), endpoint=False, dtype=int)
        starts = range(0, len(rows), SCORED_AT_ONCE)
        batches = [[gallery[row] for row in rows[start : start + SCORED_AT_ONCE]] for start in starts]
        found = {}
        for name, term in terms.items():
            reward = FrozenReward(f"policy.frozen_rewards.{name}.source", term.source, self._device)
            images = self._images.stream([[ref for _, ref in batch] for batch in batches], reward.view)
            prompts = ([prompt.text for prompt, _ in batch] for batch in batches)
            reward.calibrate(zip(images, prompts, strict=True))
            found[name] = reward
        return FrozenRewards(rewards=found)

    def _gallery_images(self, order: PolicyOrder) -> list[tuple[Prompt, ImageRef]]:
        winners = self._settings.pretraining_images == "winners"
        return load_pretraining_images(self._store, order.rankings, winners=winners, models=order.pretraining_models)

    def _publish_live(self, task: "_Task") -> None:
        """Publish the weights for the rollers, and where a probe is due the moving average for the samplers, in fp32.

        Both come before a checkpoint of this update, so that whoever goes on from one finds every probe before it. An
        average that an earlier attempt published stays: it may be graded already.
        """
        done, attrs = task.engine.updates, {"round": task.order.round, LORA: task.lora}
        task.live.publish(done, task.engine.weights(ema=False), attrs)
        task.published = done
        role = average_role(task.order.round)
        if done in task.order.probes and weights.find(self._store, role, done) is None:
            weights.publish(self._store, role, done, task.engine.masters(ema=True), attrs, self._ranks())

    def checkpoint(self) -> None:
        """Keep what was learned, unless a checkpoint of this update is there."""
        if self._task is not None and self._task.engine.updates:
            save_checkpoint(self._task.engine, self._checkpoints, _stem(self._task.order.round), rank=self._group.rank)


def _stem(round_: int) -> str:
    return f"r{round_:03d}"


def _state_after(round_: int) -> str:
    """Name of the checkpoint from which the next round goes on."""
    return f"after-r{round_:03d}"


def lora_of(settings: PolicyConfig, policy: Policy) -> Lora:
    """The adapter that a config asks for, on the layers of the policy's family unless it names others."""
    lora = settings.lora
    targets = policy.family.lora_targets if lora.targets is None else tuple(lora.targets)
    return Lora(rank=lora.rank, alpha=lora.alpha, targets=targets)


class _Task:
    """What a learner holds while a round lasts."""

    def __init__(
        self,
        *,
        order: PolicyOrder,
        engine: Engine,
        live: DeltaPublisher,
        losses: PolicyLosses,
        frozen: FrozenRewards | None,
        lora: dict[str, Any] | None,
        bare: Policy,
    ) -> None:
        self.order, self.engine, self.live, self.losses, self.lora = order, engine, live, losses, lora
        self.frozen = frozen
        self.bare = bare  # the policy without the engine around its network
        self.published: int | None = None  # the live version that the weights are
        self.learned_by: list[dict[str, Any]] = []  # JSON: from which update on by which reward models
