"""What a run's store keeps: every version that a round published, of live weights the newest and those in use."""

from itercomp_rl.store.layout import ATTEMPT_LIFETIME_S
from itercomp_rl.store.retention import Collected, collect
from itercomp_rl.store.store import Store

LIVE = "live-"  # roles under which a learner publishes each update begin so


def collect_run(store: Store, *, grace_s: float, now: float, with_orphans: bool = False) -> Collected:
    """Collect old live weights, and on request data that nobody published; safe beside a run that goes on."""
    keys = [key.split("/") for key in store.backend.sizes("versions")]
    keep = {(role, int(name.removesuffix(".json"))) for _, role, name in keys if not role.startswith(LIVE)}
    age_s = 4 * ATTEMPT_LIFETIME_S if with_orphans else None
    return collect(store, grace_s=grace_s, now=now, keep=keep, orphan_age_s=age_s)
