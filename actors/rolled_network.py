"""Where a roller's network comes from: it holds one of its own, or it borrows that of the learner in its process."""

import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from itercomp_rl.config.schema import PolicyConfig
from itercomp_rl.diffusion.attention_kernel import check_attention, set_attention
from itercomp_rl.diffusion.encoded import EncodedPrompts, load_with_encoded_prompts
from itercomp_rl.diffusion.policy import Policy
from itercomp_rl.diffusion.published import load_published
from itercomp_rl.errors import WorkerDiedError
from itercomp_rl.files.checkpoint_path import checkpoint_path
from itercomp_rl.items import RolloutOrder
from itercomp_rl.store import weights
from itercomp_rl.store.retention import Lease, lease
from itercomp_rl.store.store import Store
from itercomp_rl.store.weights import Version
from learners.policy import LivePolicy, PolicyLearner

LEASE_S = 900.0  # longer than a version takes to load


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """A policy under the weights of one published version, and the prompts it can roll out."""

    policy: Policy
    version: int
    encoded: EncodedPrompts


class RolledNetwork(Protocol):
    """A RolledNetwork provides a roller with the policy for each rollout order."""

    def held_for(self, order: RolloutOrder) -> Held:
        """The policy under the version that the order names, or under a newer one where the config allows a lag."""
        ...


class OwnNetwork:
    """A network of the roller's own, refreshed from the store between rollouts, never within one. It has no VAE."""

    def __init__(
        self,
        store: Store,
        settings: PolicyConfig,
        device: torch.device,
        prompts: Sequence[str],
        *,
        encoded: EncodedPrompts | None = None,
        as_learners: bool = False,
    ) -> None:
        """prompts: the texts that orders will name; they are encoded here, and the text encoders are dropped.

        encoded: where encoded prompts are kept; None: in this process alone. as_learners: keep the weights in the
        order in memory that learners have them in, in which convolutions round as they do there.
        """
        self._store, self._settings = store, settings
        self._encoded = encoded or EncodedPrompts()
        self._policy = load_with_encoded_prompts(
            checkpoint_path(settings.model),
            prompts,
            self._encoded,
            dtype=settings.engine.dtype,
            device=device,
            resolution_px=settings.size_px,
            with_vae=False,
        ).to_channels_last(but_trainable=as_learners)
        check_attention("policy.attention", settings.attention, self._policy.dtype, device)
        set_attention(self._policy.trainable, settings.attention)
        self._version: tuple[str, int] | None = None
        self._name = f"roller-{secrets.token_hex(6)}"

    def held_for(self, order: RolloutOrder) -> Held:
        """The roller's own policy, after loading the version from the store if it is not the one in memory."""
        version = self._to_load(order)
        if version is not None:
            held = self._version[1] if self._version and self._version[0] == order.role else None
            load_published(self._policy, version, held)
            self._version = (order.role, version.number)
            if self._settings.compile and self._policy.network is self._policy.trainable:  # once it has its adapter
                self._policy.network = torch.compile(self._policy.trainable)
        assert self._version is not None
        return Held(policy=self._policy, version=self._version[1], encoded=self._encoded)

    def _to_load(self, order: RolloutOrder) -> Version | None:
        """The version to load for this order; None where the one held is right.

        Where the learner may run ahead of its rollouts, an order may have waited for long: by now a newer version is
        there, which is less stale, while the collector may have deleted the ordered one. The newest is then taken,
        under a lease, so that the collector leaves it.
        """
        role = order.role
        if not self._settings.max_policy_lag:
            is_held = self._version == (role, order.version)
            return None if is_held else weights.open_version(self._store, role, order.version)
        while True:
            number = max(order.version, weights.latest(self._store, role) or 0)
            if self._version == (role, number):
                return None
            expires_s = self._store.clock() + LEASE_S
            lease(self._store, Lease(reader=self._name, role=role, version=number, expires_s=expires_s))
            if found := weights.find(self._store, role, number):
                return found
            if (weights.latest(self._store, role) or 0) <= number:  # neither it nor a newer one is there
                return weights.open_version(self._store, role, number)


class LearnersNetwork:
    """The network of the policy learner in the same process, which takes turns with the roller and so stands still.

    Between two calls a learner's weights are those of the version it published last, bit for bit. The learner makes
    update n only after the rollouts of update n, so with no lag its version is the ordered one, and with a lag it is
    the newest that there is. Nothing is loaded, and nothing is kept here when the round ends.
    """

    def __init__(self, learner: Callable[[], PolicyLearner], max_policy_lag: int) -> None:
        self._learner, self._may_lag = learner, max_policy_lag > 0

    def held_for(self, order: RolloutOrder) -> Held:
        """The learner's policy, which holds the version already.

        Raises: WorkerDiedError if the learner holds another version: its process was restarted, or the order is of an
        attempt that is over. Loading a second network here could exceed the memory that was planned.
        """
        live: LivePolicy | None = self._learner().live()
        is_right = live is not None and live.role == order.role
        if live is None or not is_right or live.version < order.version:
            has = f"version {live.version} of {live.role}" if live else "no round"
            raise WorkerDiedError(
                f"version {order.version} of {order.role} was ordered, and the policy learner in this process, whose "
                f"network its roller uses, holds {has}: it was restarted, or the attempt is over"
            )
        if live.version > order.version and not self._may_lag:
            raise WorkerDiedError(
                f"version {order.version} of {order.role} was ordered, and the learner is at {live.version}: the "
                "attempt of that order is over"
            )
        return Held(policy=live.policy, version=live.version, encoded=live.encoded)
