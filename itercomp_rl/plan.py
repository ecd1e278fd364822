"""What one run will do, as orders for work: who draws which prompts when, under which ids and seeds.

Everything follows from the config and its seed, so a resumed run plans the same work and finds what is done already.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from itercomp_rl.config.schema import (
    ALL,
    BASE,
    EXTERNAL,
    OWN_POLICY,
    Config,
    MemberConfig,
    draws_as_base,
    policy_name,
)
from itercomp_rl.items import DrawOrder, ImageRef, MeasureOrder, ModelRef, Prompt, RankOrder, RolloutOrder
from itercomp_rl.prompts import held_out_prompts, probe_prompts, training_prompts
from itercomp_rl.seeds import seed_of
from itercomp_rl.store.kinds import EVALUATIONS, IMAGES, POLICY, PROBES, average_role
from itercomp_rl.store.record_ids import evaluation_id, images_id, losses_id, probe_id


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The work of a run; pure bookkeeping."""

    config: Config

    @cached_property
    def _training(self) -> tuple[list[Prompt], list[Prompt]]:
        is_probed = self.config.evaluation.probe_every > 0
        return training_prompts(self.config.prompts, self.config.run.seed, spares_validation=is_probed)

    @cached_property
    def gallery_prompts(self) -> list[Prompt]:
        """The prompts that every gallery model draws."""
        return self._training[0]

    @cached_property
    def policy_prompts(self) -> list[Prompt]:
        """The prompts that feedback learning draws from."""
        return self._training[1]

    @property
    def texts(self) -> list[str]:
        """Every text that is drawn, learned from or held out, each once."""
        held_out = (prompt for order in self.evaluation_orders(self.policy(-1)) for prompt in order.prompts)
        return list(dict.fromkeys(p.text for p in (*self.gallery_prompts, *self.policy_prompts, *held_out)))

    @property
    def pretraining_models(self) -> tuple[str, ...] | None:
        """The gallery members whose images the pre-training loss may take; None: all of them."""
        policy = self.config.policy
        if policy.pretraining_images != "base":
            return None
        members = self.config.gallery.members.items()
        return tuple(name for name, member in members if draws_as_base(member, policy.model))

    @property
    def rounds(self) -> int:
        """How many rounds the run has."""
        return self.config.run.rounds

    @property
    def rollouts_per_update(self) -> int:
        """Rollouts that make up one batch of the policy learner."""
        return self.config.policy.batch // self.config.policy.rollout_batch

    def policy(self, after_round: int) -> ModelRef:
        """The policy that round `after_round` published; -1 is the base."""
        policy = self.config.policy
        return ModelRef(
            name=BASE if after_round < 0 else policy_name(after_round),
            checkpoint=policy.model,
            role=None if after_round < 0 else POLICY,
            version=None if after_round < 0 else after_round,
            num_steps=policy.num_steps,
            guidance=policy.guidance,
            size_px=policy.size_px,
        )

    def reward_version(self, round_: int) -> int:
        """The version of the reward models that round `round_` learns by; without refreshing, round 0's for ever."""
        return round_ if self.config.reward.refresh else 0

    @property
    def reward_stops(self) -> tuple[int, ...]:
        """Updates after which a reward model is published; all but the last are versions of a model still learning."""
        updates, first = self.config.reward.updates, self.config.policy.reward_updates_first
        return (updates,) if first == ALL else (*range(int(first), updates, int(first)), updates)

    def founders(self, round_: int) -> list[ModelRef]:
        """The configured members that join at `round_`."""
        members = self.config.gallery.members.items()
        return [self._member(name, member) for name, member in members if member.join_round == round_]

    def member(self, name: str) -> ModelRef:
        """How the configured member draws."""
        return self._member(name, self.config.gallery.members[name])

    def _member(self, name: str, member: MemberConfig) -> ModelRef:
        """A member of model "policy" draws with the policy that was there when it joined."""
        policy = self.policy(member.join_round - 1) if member.model == OWN_POLICY else None
        return ModelRef(
            name=name,
            checkpoint=policy.checkpoint if policy else member.model,
            role=policy.role if policy else None,
            version=policy.version if policy else None,
            num_steps=member.num_steps,
            guidance=member.guidance,
            system=member.system,
            planner=member.planner,
            base_ratio=member.base_ratio,
            pooled=member.pooled,
            attention_scale=member.attention_scale,
            reference_weight=member.reference_weight,
            grounding=member.grounding,
            scheduler=member.scheduler,
            negative=member.negative,
            size_px=member.size_px,
            dtype=member.dtype,
            endpoint=member.endpoint,
        )

    def newcomers(self, round_: int) -> list[ModelRef]:
        """Every model that joins the gallery at `round_`, last round's policy included."""
        found = self.founders(round_)
        if round_ > 0 and self.config.gallery.policy_joins:
            found.append(self.policy(round_ - 1))
        return found

    def segments(self) -> list[tuple[int, int]]:
        """The gallery's prompts cut into units of work, as (start, stop)."""
        size, total = self.config.gallery.segment, len(self.gallery_prompts)
        return [(start, min(start + size, total)) for start in range(0, total, size)]

    def draw_orders(self, round_: int, segment: int) -> list[DrawOrder]:
        """What the newcomers of a round must draw for one segment of prompts."""
        start, stop = self.segments()[segment]
        prompts = tuple(self.gallery_prompts[start:stop])
        return [
            DrawOrder(
                kind=IMAGES,
                id=images_id(model.name, segment),
                round=round_,
                model=model,
                prompts=prompts,
                seeds=tuple(
                    _seed(model, 0, seed_of(self.config.run.seed, "gallery", model.name, prompt.id))
                    for prompt in prompts
                ),
            )
            for model in self.newcomers(round_)
        ]

    def ahead_orders(self, round_: int) -> list[DrawOrder]:
        """What the next gallery.rounds_ahead rounds need of models that no policy of this run changes."""
        last = min(round_ + self.config.gallery.rounds_ahead, self.rounds - 1)
        found = []
        for later in range(round_ + 1, last + 1):
            frozen = [model for model in self.founders(later) if model.role is None]
            for segment in range(len(self.segments())):
                found += [order for order in self.draw_orders(later, segment) if order.model in frozen]
            found += [
                order
                for model in frozen
                for split in ("test", "train")
                for order in self.evaluation_orders(model, split)
            ]
        return found

    def rankings_id(self, round_: int, segment: int) -> str:
        """Where the ranking of a segment's prompts in a round is kept."""
        return f"r{round_:03d}-{segment:05d}"

    def rankings(self, round_: int) -> tuple[str, ...]:
        """All rankings of a round."""
        return tuple(self.rankings_id(round_, i) for i in range(len(self.segments())))

    def rank_order(self, round_: int, segment: int) -> RankOrder:
        """Rank every image of a segment's prompts, or place the newcomers in the last ranking."""
        start, stop = self.segments()[segment]
        models = [model.name for r in range(round_ + 1) for model in self.newcomers(r)]
        images = {name: images_id(name, segment) for name in models}
        placing = round_ > 0 and self.config.judge.later_rounds == "reward"
        return RankOrder(
            id=self.rankings_id(round_, segment),
            round=round_,
            prompts=tuple(self.gallery_prompts[start:stop]),
            images=tuple(
                {name: ImageRef(segment=id_, row=row) for name, id_ in images.items()} for row in range(stop - start)
            ),
            newcomers=tuple(model.name for model in self.newcomers(round_)) if placing else (),
            earlier=self.rankings_id(round_ - 1, segment) if placing else None,
            reward_version=self.reward_version(round_ - 1) if placing else None,
        )

    def rollout_order(self, round_: int, index: int, live: tuple[str, int]) -> RolloutOrder:
        """Rollout `index` of a round under `live` (role, version); the run's seed sets prompts, noise and mid steps."""
        policy, prompts = self.config.policy, self.policy_prompts
        size = policy.rollout_batch
        rng = np.random.default_rng(seed_of(self.config.run.seed, "rollout", round_, index))
        return RolloutOrder(
            index=index,
            role=live[0],
            version=live[1],
            prompts=tuple(prompts[i] for i in self._prompt_rows(round_, index, size)),
            seeds=tuple(int(seed) for seed in rng.integers(2**62, size=size)),
            mid_steps=self._mid_steps(rng, size),
        )

    @cached_property
    def rolled_prompts(self) -> tuple[str, ...]:
        """The texts that rollouts of any round meet, each once: what rollers and learners encode before they start."""
        size, prompts = self.config.policy.batch * self.config.policy.updates, self.policy_prompts
        rows = set(range(len(prompts)))
        if size < len(prompts):  # else every round meets every prompt
            rows = {row for round_ in range(self.rounds) for row in self._prompt_rows(round_, 0, size)}
        return tuple(dict.fromkeys(prompts[row].text for row in sorted(rows)))

    def _mid_steps(self, rng: np.random.Generator, size: int) -> tuple[tuple[int, ...], ...]:
        """Uniform steps of each image, the same one never twice, rising from point to point."""
        policy = self.config.policy
        if policy.points_per_rollout == 1:
            return (tuple(rng.integers(policy.mid_low, policy.mid_high + 1, size=size).tolist()),)
        steps = np.tile(np.arange(policy.mid_low, policy.mid_high + 1), (size, 1))
        drawn = np.sort(rng.permuted(steps, axis=1)[:, : policy.points_per_rollout], axis=1)
        return tuple(tuple(point) for point in drawn.T.tolist())

    def _prompt_rows(self, round_: int, index: int, size: int) -> list[int]:
        """Rows of the policy's prompts, every prompt once before any comes again."""
        total = len(self.policy_prompts)
        rows = []
        for place in range(index * size, (index + 1) * size):
            lap, at = divmod(place, total)
            rows.append(int(self._lap(round_, lap)[at]))
        return rows

    def _lap(self, round_: int, lap: int) -> np.ndarray:
        if (round_, lap) not in self._laps:
            self._laps.clear()
            rng = np.random.default_rng(seed_of(self.config.run.seed, "prompt order", round_, lap))
            self._laps[round_, lap] = rng.permutation(len(self.policy_prompts))
        return self._laps[round_, lap]

    @cached_property
    def _laps(self) -> dict[tuple[int, int], np.ndarray]:
        return {}

    def evaluated(self) -> list[ModelRef]:
        """Every model whose score is reported, the base first."""
        gallery = [model for r in range(self.rounds) for model in self.founders(r)]
        return [self.policy(-1), *gallery, *(self.policy(r) for r in range(self.rounds))]

    def evaluation_orders(self, model: ModelRef, split: str = "test") -> list[DrawOrder]:
        """Images of a model on a split's prompts, drawn with the seeds that every model gets.

        Training combinations (split "train") are for policies only: to tell what they learned by heart.
        """
        evaluation = self.config.evaluation
        num = evaluation.images_per_aspect if split == "test" else evaluation.seen_images_per_aspect
        base = self.policy(-1)
        if replace(model, name=base.name) == base:  # the base as a gallery member draws the very same images
            model = base
        if not num or (split != "test" and model not in self.policies()):
            return []
        if split not in self._held_out:
            is_probed = evaluation.probe_every > 0
            self._held_out[split] = held_out_prompts(
                self.config.prompts, num, evaluation.seed, split, spares_validation=is_probed
            )
        return draw_evaluations(model, self._held_out[split], evaluation.seed, split, self.config.gallery.segment)

    def grading_orders(self, models: Sequence[ModelRef]) -> list[DrawOrder]:
        """All images that show how good these models are, each order once."""
        orders = [o for model in models for split in ("test", "train") for o in self.evaluation_orders(model, split)]
        return list({order.id: order for order in orders}.values())

    @cached_property
    def _held_out(self) -> dict[str, list[tuple[Prompt, int]]]:
        return {}

    def policies(self) -> list[ModelRef]:
        """The base and every round's policy."""
        return [self.policy(round_) for round_ in range(-1, self.rounds)]

    @property
    def probe_updates(self) -> tuple[int, ...]:
        """Updates of a round after which its moving average is probed, from 0 to the last; none where that is off."""
        every, updates = self.config.evaluation.probe_every, self.config.policy.updates
        return (*range(0, updates, every), updates) if every else ()

    @cached_property
    def probe_prompts(self) -> list[tuple[Prompt, int]]:
        """The validation prompts that every probe of the run draws, with their repeat numbers."""
        evaluation = self.config.evaluation
        return probe_prompts(self.config.prompts, evaluation.probe_images, evaluation.seed)

    def probe_orders(self, round_: int, update: int) -> list[DrawOrder]:
        """Images of a round's moving average after so many updates, with seeds that are the same in every probe.

        The images of one prompt are in one order, which can tell how much they differ.
        """
        chosen, seed = self.probe_prompts, self.config.evaluation.seed
        model = replace(
            self.policy(-1), name=f"{policy_name(round_)} update {update}", role=average_role(round_), version=update
        )
        size = max(2, self.config.gallery.segment // 2 * 2)
        parts = [chosen[start : start + size] for start in range(0, len(chosen), size)]
        return [
            DrawOrder(
                kind=PROBES,
                id=probe_id(round_, update, segment),
                round=round_,
                model=model,
                prompts=tuple(prompt for prompt, _ in part),
                seeds=tuple(seed_of(seed, "probe", prompt.id, repeat) for prompt, repeat in part),
            )
            for segment, part in enumerate(parts)
        ]

    def measure_orders(self, model: ModelRef) -> list[MeasureOrder]:
        """What shows how much a policy has forgotten: nothing for a model that is no policy, or where it is off."""
        evaluation, where = self.config.evaluation, self.config.prompts
        if not evaluation.denoising_images or model not in self.policies():
            return []
        num = evaluation.denoising_images
        prompts = [prompt for order in self.evaluation_orders(model) for prompt in order.prompts][:num]
        return [
            MeasureOrder(
                id=losses_id(model.name, "test", evaluation.seed),
                round=-1 if model.version is None else model.version,
                model=model,
                prompts=tuple(prompts),
                seeds=tuple(seed_of(evaluation.seed, "denoising", i) for i in range(len(prompts))),
                source=where.source,
                images=() if where.is_world else self._founders_pictures(len(prompts)),
            )
        ]

    def _founders_pictures(self, num: int) -> tuple[ImageRef, ...]:
        """Pictures of the first held-out prompts: models draw them in one order, each founder lends every n-th.

        Founders whose images are made elsewhere lend none, as they may lack some.
        """
        founders = [model for model in self.founders(0) if model.system not in EXTERNAL]
        orders = [self.evaluation_orders(founder) for founder in founders]
        size = self.config.gallery.segment
        places = [(orders[i % len(orders)][i // size], i % size) for i in range(num)]
        return tuple(ImageRef(segment=order.id, row=row) for order, row in places)


def draw_evaluations(
    model: ModelRef, chosen: list[tuple[Prompt, int]], seed: int, split: str, segment: int
) -> list[DrawOrder]:
    """Orders to draw (prompt, repeat) with seeds that depend on these alone, cut into segments."""
    orders = []
    for number, start in enumerate(range(0, len(chosen), segment)):
        part = chosen[start : start + segment]
        orders.append(
            DrawOrder(
                kind=EVALUATIONS,
                id=evaluation_id(model.name, split, seed, number),
                round=-1 if model.version is None else model.version,
                model=model,
                prompts=tuple(prompt for prompt, _ in part),
                seeds=tuple(
                    _seed(model, repeat, seed_of(seed, "evaluation", prompt.id, repeat)) for prompt, repeat in part
                ),
            )
        )
    return orders


def _seed(model: ModelRef, repeat: int, seed: int) -> int:
    """The seed of an image; a folder draws nothing, so there it is the number of the prompt's image, from 0."""
    return repeat if model.system == "folder" else seed
