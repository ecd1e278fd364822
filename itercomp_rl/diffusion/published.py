"""From the store to a loaded policy: the weights of one published version, whole or an adapter's."""

from itercomp_rl.diffusion.lora import Lora, load_weights
from itercomp_rl.diffusion.policy import Policy
from itercomp_rl.store import weights
from itercomp_rl.store.store import Store

LORA = "lora"  # attrs key under which a publisher says which adapter the tensors are of; absent or null: whole weights


def load_published(policy: Policy, store: Store, role: str, version: int) -> None:
    """Make the policy that version; what the tensors are stands with them, so no config is asked.

    Raises: MissingRecordError, CorruptRecordError, or CheckpointError if they are not of this policy.
    """
    attrs = weights.load_attrs(store, role, version)
    load_weights(policy, weights.load(store, role, version), Lora.of(attrs.get(LORA)))
