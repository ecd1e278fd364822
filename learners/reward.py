"""Step 4 of a prompt's road: an aspect's reward model learns the pairs (Bradley-Terry), is published with accuracy."""

import logging
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from statistics import fmean

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from itercomp_rl.config.schema import ALL, JudgeConfig, RewardLearningConfig
from itercomp_rl.diffusion.attention_kernel import check_attention
from itercomp_rl.errors import DivergedError, WorkerDiedError
from itercomp_rl.items import ImageRef, PairRef, Prompt, RewardOrder, RewardReport
from itercomp_rl.ranking import imported, people
from itercomp_rl.ranking.pairs import draw_rows, load_pairs, pair_rules, weighted
from itercomp_rl.reward.checkpoint import AnyReward
from itercomp_rl.reward.ensemble import RewardEnsemble
from itercomp_rl.reward.hardening import attacked, bent, patched
from itercomp_rl.reward.preference import centering_loss, freeze, pair_accuracy, preference_loss
from itercomp_rl.reward.published import SCORING_BATCH, load_any_reward, score_any_size
from itercomp_rl.reward.scorer import TextTokens
from itercomp_rl.seeds import seed_of
from itercomp_rl.store import weights
from itercomp_rl.store.image_loader import ImageLoader
from itercomp_rl.store.kinds import reward_role
from itercomp_rl.store.store import Store
from learners.checkpoints import drop_checkpoints, load_checkpoint, newest_checkpoint, save_checkpoint
from learners.engine.engine import Engine
from learners.engine.open import open_engine
from learners.engine.spec import DTYPES, engine_spec

log = logging.getLogger(__name__)


class RewardLearner:
    """Learns one order at a time; between orders it holds nothing."""

    def __init__(
        self,
        store: Store,
        settings: RewardLearningConfig,
        judge: JudgeConfig,
        checkpoints: Path,
        seed: int,
        device: torch.device,
        images: ImageLoader | None = None,
    ) -> None:
        """images: what reads the pairs' images; None: a loader of this learner's own, which keeps none."""
        self._store, self._settings, self._judge, self._seed, self._device = store, settings, judge, seed, device
        self._checkpoints = checkpoints
        self._images = images or ImageLoader(store)
        self._order: RewardOrder | None = None
        self._model: AnyReward | None = None
        self._engine: Engine | None = None

    def open(self, order: RewardOrder) -> int:
        """Load the model, the order's pairs and its newest checkpoint; returns updates made.

        Raises: DivergedError if there is no pair to learn from, or none to measure with.
        """
        self._rankings = list(order.rankings)
        self._train, self._held_out = self._pairs(order.aspect, order.rankings)
        self._add_imported(order.aspect)
        if not self._train or not self._held_out:
            raise DivergedError(
                f"the {order.aspect} aspect has {len(self._train)} pairs to learn from and {len(self._held_out)} held "
                "out: give it more prompts (prompts.gallery), a smaller judge.margin or a larger reward.held_out"
                + ("" if self._settings.rankings_first == ALL else ", or begin with more (reward.rankings_first)")
            )
        model = load_any_reward(self._settings.trunk)
        if order.start_version is not None:
            start = weights.open_version(self._store, reward_role(order.aspect), order.start_version)
            model.load_state_dict(start.load())
        freeze(model, self._settings.fix_rate)
        dtype = DTYPES[self._settings.engine.dtype]
        check_attention("reward.attention", self._settings.attention, dtype, self._device)
        model.attention = self._settings.attention
        self._order, self._model = order, model.to(self._device).train()
        total_steps = max(1, self._settings.updates)  # a control makes none, under whatever schedule the run has
        self._engine = open_engine(self._model, engine_spec(self._settings.engine, total_steps), None, self._device)
        for earlier in range(order.round):  # of a process that was killed before it could
            drop_checkpoints(self._checkpoints, _stem(order.aspect, earlier))
        if newest := newest_checkpoint(self._checkpoints, _stem(order.aspect, order.round)):
            load_checkpoint(self._engine, newest)
        return self._engine.updates

    def add(self, rankings: Sequence[str]) -> None:
        """Learn from, and measure on, the pairs of these rankings too."""
        order, _, _ = self._opened()
        train, held_out = self._pairs(order.aspect, rankings)
        self._rankings += rankings
        self._train += train
        self._held_out += held_out

    def _add_imported(self, aspect: str) -> None:
        """Imported pairs, which are there from the start."""
        weight = self._judge.pair_weights.imported
        train, held_out = imported.load_pairs(self._store, aspect, pair_rules(self._judge, self._settings, self._seed))
        self._train += weighted([(train, weight)])
        self._held_out += weighted([(held_out, weight)])

    def _pairs(self, aspect: str, rankings: Sequence[str]) -> tuple[list[PairRef], list[PairRef]]:
        """Pairs to learn from and held-out ones, of judges and people."""
        rules = pair_rules(self._judge, self._settings, self._seed)
        judged = load_pairs(self._store, rankings, aspect, rules)
        said = people.load_pairs(self._store, rankings, aspect, rules)
        weights_ = self._judge.pair_weights
        train, kept = (
            weighted([(pairs, weights_.judge), (own, weights_.people)]) for pairs, own in zip(judged, said, strict=True)
        )
        return train, kept

    def advance(self, num_updates: int) -> dict[str, float]:
        """Gradient updates; returns means over them: loss on pairs and on spoilt pictures (nats), accuracy on pairs."""
        order, model, engine = self._opened()
        found: list[dict[str, float]] = []
        seeds = [
            seed_of(self._seed, "reward", order.aspect, order.round, engine.updates + i) for i in range(num_updates)
        ]
        # What the updates learn from is known before the first, so that their images are read ahead.
        updates = [self._parts(seed) for seed in seeds]
        asked = (_images_of(part) for parts in updates for part in parts)
        with closing(self._images.stream(asked, model.view)) as images:
            for seed, parts in zip(seeds, updates, strict=True):
                torch.manual_seed(seed)  # dropout
                for number, part in enumerate(parts):
                    seen = self._seen(next(images), model)
                    loss, metrics = self._loss(part, seen, seed_of(seed, "hardening", number))
                    share = len(part) / sum(map(len, parts))
                    engine.backward(loss if share == 1 else loss * share)
                    found.append(metrics)
                engine.step()
                if engine.updates % self._settings.checkpoint_every == 0 and engine.updates < self._settings.updates:
                    self.checkpoint()
        return {name: fmean(metrics[name] for metrics in found) for name in found[0]}

    def _loss(self, pairs: Sequence[PairRef], images: Tensor, seed: int) -> tuple[Tensor, dict[str, float]]:
        """The loss of K pairs, and of spoilt pictures where the model is hardened; images [2K,3,S,S], winners first."""
        _, model, engine = self._opened()
        text = model.tokenize([pair.prompt.text for pair in pairs])
        hardening = self._settings.hardening
        if hardening.weight:
            images = torch.cat([images, self._spoilt(images, text, model, engine, seed)])
        raw = engine.module(model.normalise(images), *_repeated(text, len(images) // len(pairs)))
        winner, loser, *spoilt = raw.split(len(pairs))
        loss = preference_loss(winner, loser)
        metrics = {"loss": loss.item(), "accuracy": float(pair_accuracy(winner.detach(), loser.detach()))}
        if self._settings.centering:
            off_center = centering_loss(winner, loser)
            metrics["centering_loss"] = off_center.item()
            loss = loss + self._settings.centering * off_center
        if spoilt:
            harder = preference_loss(winner, spoilt[0])
            metrics["hardening_loss"] = harder.item()
            loss = loss + hardening.weight * harder
        return loss, metrics

    def _parts(self, seed: int) -> list[list[PairRef]]:
        """The pairs of an update, in as many parts as it takes passes."""
        rows = draw_rows(self._train, self._settings.batch, np.random.default_rng(seed))
        micro = self._settings.micro_batch or len(rows)
        return [[self._train[i] for i in rows[start : start + micro]] for start in range(0, len(rows), micro)]

    def checkpoint(self) -> None:
        """Keep what was learned, unless a checkpoint of this update is there."""
        if self._order is not None and self._engine is not None and self._engine.updates:
            save_checkpoint(self._engine, self._checkpoints, _stem(self._order.aspect, self._order.round))

    def publish(self) -> RewardReport:
        """Publish the finished model with its report; let go of the memory."""
        order, _, engine = self._opened()
        report = self._publish(reward_role(order.aspect), order.version)
        drop_checkpoints(self._checkpoints, _stem(order.aspect, order.round))
        engine.close()
        self._order = self._model = self._engine = None
        return report

    def publish_live(self, live_role: str) -> RewardReport:
        """Publish the model as it is now, by the updates made, and go on."""
        _, model, engine = self._opened()
        report = self._publish(live_role, engine.updates)
        model.train()
        return report

    def _publish(self, role: str, version: int) -> RewardReport:
        """Measure on held-out pairs, calibrate on held-out images, publish weights and report.

        Raises: DivergedError for rewards that are not finite.
        """
        order, model, engine = self._opened()
        with engine.ema_swapped():
            model.eval()
            refs = list(dict.fromkeys((p.prompt, ref) for p in self._held_out for ref in (p.winner, p.loser)))
            scores = np.array(self._scores(order.aspect, model, refs), np.float32)
            raw = dict(zip(refs, scores * float(model.reward_std) + float(model.reward_mean), strict=True))
            winner = torch.tensor([raw[p.prompt, p.winner] for p in self._held_out])
            loser = torch.tensor([raw[p.prompt, p.loser] for p in self._held_out])
            self._calibrate(model, order.aspect, torch.tensor([*raw.values()]))
            report = RewardReport(
                aspect=order.aspect,
                version=version,
                accuracy=float(pair_accuracy(winner, loser)),
                num_pairs=len(self._held_out),
                mean=float(model.reward_mean),
                std=float(model.reward_std),
                weight=self._settings.weights[order.aspect],
                live_role=None if role == reward_role(order.aspect) else role,
            )
            attrs = {
                "report": asdict(report),
                "round": order.round,
                "base": order.start_version,
                "rankings": self._rankings,
            }
            weights.publish(self._store, role, version, model.state_dict(), attrs)
        return report

    def _scores(self, aspect: str, model: AnyReward, refs: Sequence[tuple[Prompt, ImageRef]]) -> list[float]:
        """Standardised rewards of images under their prompts; a few batches of them are in memory at a time."""
        ensemble = RewardEnsemble({aspect: model})
        batches = [refs[start : start + SCORING_BATCH] for start in range(0, len(refs), SCORING_BATCH)]
        images = self._images.stream(([ref for _, ref in batch] for batch in batches), model.view)
        return [
            score[aspect]
            for batch, pixels in zip(batches, images, strict=True)
            for score in score_any_size(ensemble, pixels, [prompt.text for prompt, _ in batch])
        ]

    def _calibrate(self, model: AnyReward, aspect: str, raw: torch.Tensor) -> None:
        """Mean and standard deviation from raw rewards [N]; a model without spread keeps its standard deviation.

        Whether it may go on is for reward.min_accuracy to say: no winner is above its loser.
        Raises: DivergedError for rewards that are not finite.
        """
        if not bool(raw.isfinite().all()):
            raise DivergedError(
                f"the {aspect} reward model gives {int((~raw.isfinite()).sum())} of {len(raw)} held-out images a "
                f"reward that is not finite: lower reward.engine.lr ({self._settings.engine.lr:g}), set "
                "reward.engine.dtype=fp32, or look at the weights of reward.trunk"
            )
        if float(raw.min()) == float(raw.max()):
            log.warning("the %s reward model gives all %d held-out images the same reward", aspect, len(raw))
            model.reward_mean.copy_(raw[0])
        else:
            model.calibrate(raw)

    def _opened(self) -> tuple[RewardOrder, AnyReward, Engine]:
        if self._order is None or self._model is None or self._engine is None:
            raise WorkerDiedError("a reward learner was restarted and holds no order")
        return self._order, self._model, self._engine

    def _spoilt(self, images: Tensor, text: TextTokens, model: AnyReward, engine: Engine, seed: int) -> Tensor:
        """For each of K pairs a picture [K,3,S,S] that its winner beats, whatever the model says.

        Half of them are either image of the pair, changed by the model's own gradient to please it; of the others every
        second one is the winner with parts of the loser, the rest is the winner bent.
        """
        settings, generator = self._settings.hardening, torch.Generator().manual_seed(seed)
        winner, loser = images.chunk(2)
        mixed, crooked = patched(winner[1::4], loser[1::4], generator), bent(winner[3::4], generator)
        is_winner = torch.rand(len(winner[::2]), 1, 1, 1, generator=generator) < 0.5
        start = winner[::2].where(is_winner.to(winner.device), loser[::2])
        rms = settings.attack_rms * torch.empty(len(start)).uniform_(0.2, 1, generator=generator)

        def score(images: Tensor) -> Tensor:
            return engine.module(model.normalise(images), text.input_ids[::2], text.attention_mask[::2])

        spoilt = torch.empty_like(winner)
        spoilt[::2] = attacked(score, start, rms, settings.attack_steps, generator)
        spoilt[1::4], spoilt[3::4] = mixed, crooked
        return spoilt

    def _seen(self, images: Sequence[NDArray[np.uint8]], model: AnyReward) -> Tensor:
        """Images of the model's view with training noise, in 0..1."""
        pixels = torch.from_numpy(np.stack(images)).to(self._device)
        image = model.fit(pixels.permute(0, 3, 1, 2).float() / 255)
        if self._settings.noise:
            image = (image + self._settings.noise * torch.randn_like(image)).clamp(0, 1)
        return image


def _images_of(pairs: Sequence[PairRef]) -> list[ImageRef]:
    """The winners, then the losers."""
    return [pair.winner for pair in pairs] + [pair.loser for pair in pairs]


def _repeated(text: TextTokens, times: int) -> TextTokens:
    """The same prompts once more for every image of a pair, tokens [K,L] -> [times * K,L]."""
    return TextTokens(*(part.repeat(times, 1) for part in text))


def _stem(aspect: str, round_: int) -> str:
    return f"reward-{aspect}-r{round_:03d}"
