"""What a rollout has to teach: the pull of the rewards at each of its gradient points, and the regulariser's losses."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from itercomp_rl.config.schema import PolicyConfig
from itercomp_rl.diffusion.denoise import image_generators
from itercomp_rl.diffusion.encoded import EncodedPrompts
from itercomp_rl.diffusion.frozen_base import FrozenBase
from itercomp_rl.diffusion.policy import Conditioning, Policy
from itercomp_rl.diffusion.refl import Feedback, Rolled, feedback_step, jitter
from itercomp_rl.diffusion.regulariser import Regulariser, regulariser_loss
from itercomp_rl.items import ImageRef, Prompt, Rollout
from itercomp_rl.reward.ensemble import RewardEnsemble
from itercomp_rl.reward.frozen import FrozenRewards
from itercomp_rl.seeds import seed_of
from itercomp_rl.store.image_loader import ImageLoader


class PolicyLosses:
    """The losses of one round. Every draw depends on the rollout's index alone, so ranks can share rollouts freely."""

    def __init__(
        self,
        policy: Policy,
        settings: PolicyConfig,
        seed: tuple[int, int],
        encoded: EncodedPrompts,
        base: FrozenBase | None,
        gallery: Sequence[tuple[Prompt, ImageRef]],
        images: ImageLoader,
        frozen: FrozenRewards | None = None,
    ) -> None:
        """seed: the run's, and the round. base: needed for policy.stay_near_base. gallery: what is regularised on.

        frozen: what is climbed beside the rewards to follow.
        """
        self._policy, self._settings, self._seed, self._encoded = policy, settings, seed, encoded
        self._gallery, self._images, self._frozen = gallery, images, frozen
        self._regulariser = Regulariser(
            denoising_weight=settings.pretraining_weight, base_weight=settings.stay_near_base, base=base
        )
        self._rewards: RewardEnsemble | None = None
        self._feedback = Feedback(weights={})

    def follow(self, rewards: RewardEnsemble | None, feedback: Feedback) -> None:
        """Take these rewards from here on, by this feedback; None: the frozen ones and the regulariser alone."""
        self._rewards, self._feedback = rewards, feedback

    def of(self, rollout: Rollout, num_rollouts: int, update: int) -> Iterator[tuple[Tensor, dict[str, float]]]:
        """The loss at each gradient point of a rollout, to be summed; their backward passes can run one by one.

        num_rollouts: of the update on all ranks, which share the regulariser's images out.
        """
        settings, num_points = self._settings, len(rollout.mid_steps)
        every = settings.gradient_metrics_every
        generator = torch.Generator().manual_seed(seed_of(self._seed[0], "update", self._seed[1], rollout.index))
        for point in range(num_points):
            loss, metrics = torch.zeros((), device=self._policy.device), {}
            if self._feedback.weights:
                is_measured = bool(every) and update % every == 0
                loss, metrics = self._pull(rollout, point, generator, is_measured)
                loss = loss / num_points
            if point == 0 and self._gallery and (settings.pretraining_weight or settings.stay_near_base):
                size = max(1, settings.pretraining_batch // num_rollouts)
                regularising, found = self._regularising(size, generator)
                loss, metrics = loss + regularising, metrics | found
            if loss.requires_grad:
                yield loss, metrics

    def _regularising(self, size: int, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        """The regulariser's loss on so many gallery images."""
        policy = self._policy
        rows = torch.randint(len(self._gallery), (size,), generator=generator).tolist()
        chosen = [self._gallery[i] for i in rows]
        pixels = np.stack(self._images.load([ref for _, ref in chosen], policy.view))
        latents = policy.encode_images(torch.from_numpy(pixels).to(policy.device).permute(0, 3, 1, 2).float() / 255)
        captions = self._captions([prompt.text for prompt, _ in chosen], generator)
        return regulariser_loss(policy, self._regulariser, latents, captions, generator)

    def _captions(self, texts: list[str], generator: torch.Generator) -> Conditioning:
        """Conditioning of the captions, of which the share `caption_dropout` is left out."""
        if dropout := self._settings.caption_dropout:
            is_kept = torch.rand(len(texts), generator=generator) >= dropout
            texts = [text if kept else "" for text, kept in zip(texts, is_kept.tolist(), strict=True)]
        return self._encoded.of(texts, self._policy.device)

    def _pull(
        self, rollout: Rollout, point: int, generator: torch.Generator, is_measured: bool
    ) -> tuple[Tensor, dict[str, float]]:
        """The feedback loss at one gradient point."""
        settings, policy, rewards = self._settings, self._policy, self._rewards
        prompts = [prompt.text for prompt in rollout.prompts]
        texts = rewards.tokenize(prompts) if rewards else {}
        frozen = self._frozen.prepared(prompts) if self._frozen else None
        # A rollout's own generators stayed with its roller; the noise of gradient steps beyond it is drawn afresh.
        place = (self._seed[1], rollout.index, point)
        seeds = [seed_of(self._seed[0], "gradient steps", *place, row) for row in range(len(prompts))]
        rolled = Rolled(
            latents=torch.tensor(rollout.latents[point], device=policy.device),
            cond=self._encoded.of(prompts, policy.device),
            schedule=policy.schedule(settings.num_steps, settings.scheduler),
            mid=list(rollout.mid_steps[point]),
            generators=image_generators(seeds) if settings.grad_steps > 1 else None,
        )
        mask = {
            aspect: torch.tensor([aspect in prompt.aspects for prompt in rollout.prompts], device=policy.device)
            for aspect in (rewards.aspects if rewards else ())
        }
        if self._frozen:  # frozen rewards are of every prompt
            mask |= {
                name: torch.ones(len(prompts), dtype=torch.bool, device=policy.device) for name in self._frozen.names
            }

        def score(images: Tensor) -> dict[str, Tensor]:
            seen = jitter(images, generator, max_shift_px=settings.shift, noise_std=settings.noise)
            return (rewards.score(seen, texts) if rewards else {}) | (frozen(seen) if frozen else {})

        return feedback_step(
            policy,
            score,
            rolled,
            self._feedback,
            mask,
            measures_gradients=is_measured,
            order_seed=seed_of(self._seed[0], "aspect order", *place),
        )
