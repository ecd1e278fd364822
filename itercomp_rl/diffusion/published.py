"""From the store to a loaded policy: the weights of one published version, whole or an adapter's."""

from itercomp_rl.diffusion.lora import Lora, load_weights
from itercomp_rl.diffusion.policy import Policy
from itercomp_rl.store import deltas
from itercomp_rl.store.weights import Version

LORA = "lora"  # attrs key under which a publisher says which adapter the tensors are of; absent or null: whole weights


def load_published(policy: Policy, version: Version, held: int | None = None) -> None:
    """Give the policy the weights of that version; its attrs say what the tensors are, so no config is consulted.

    Args: held: the number of the version of this role that the policy has now; if `version` is a part on the same
    anchor, only that part is read.
    Raises: MissingRecordError, CorruptRecordError, or CheckpointError if they are not of this policy.
    """
    anchor = version.attrs.get(deltas.BASE)
    is_near = anchor is not None and held is not None and anchor <= held <= version.number
    tensors = version.load() if is_near else deltas.load_whole(version)
    load_weights(policy, tensors, Lora.of(version.attrs.get(LORA)), is_part=is_near)
