"""From the store to a loaded policy: the weights of one published version, whole or an adapter's."""

from itercomp_rl.diffusion.lora import Lora, load_weights
from itercomp_rl.diffusion.policy import Policy
from itercomp_rl.store import deltas, weights
from itercomp_rl.store.store import Store

LORA = "lora"  # attrs key under which a publisher says which adapter the tensors are of; absent or null: whole weights


def load_published(policy: Policy, store: Store, role: str, version: int, held: int | None = None) -> None:
    """Make the policy that version; what the tensors are stands with them, so no config is asked.

    Args: held: the version of the role that the policy is now; of a part on the same anchor nothing else is then read.
    Raises: MissingRecordError, CorruptRecordError, or CheckpointError if they are not of this policy.
    """
    attrs = weights.load_attrs(store, role, version)
    anchor = attrs.get(deltas.BASE)
    is_near = anchor is not None and held is not None and anchor <= held <= version
    tensors = weights.load(store, role, version) if is_near else deltas.load_whole(store, role, version)
    load_weights(policy, tensors, Lora.of(attrs.get(LORA)), is_part=is_near)
