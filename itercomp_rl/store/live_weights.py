"""What a run's store keeps: every version that a round published, of live weights the newest and those in use."""

from collections.abc import Sequence

from itercomp_rl.store.kinds import LIVE, POLICY, averaged_round, is_live_policy
from itercomp_rl.store.layout import ATTEMPT_LIFETIME_S, Commit, own_place
from itercomp_rl.store.retention import Collected, collect, version_of
from itercomp_rl.store.store import Store

SUPERSEDED_AFTER_S = 3600.0  # more than clocks of a run's machines may differ by


def collect_run(store: Store, *, grace_s: float, now: float, with_orphans: bool = False) -> Collected:
    """Collect old live weights, and on request data that nobody published; safe beside a run that goes on.

    Roles that do not begin with "live-" keep every version, live ones their newest, and `finished_roles` none; leased
    versions stay, and what these are based on. The moving averages of a round all stay until its policy is published,
    which may be any of them.
    """
    keys = [key.split("/") for key in store.backend.sizes("versions") if own_place(key)]
    there = {(role, int(name.removesuffix(".json"))) for _, role, name in keys}
    published = {version for role, version in there if role == POLICY}
    keep = {
        (role, version)
        for role, version in there
        if not role.startswith(LIVE) or averaged_round(role) not in published | {None}
    }
    age_s = 4 * ATTEMPT_LIFETIME_S if with_orphans else None
    return collect(
        store,
        grace_s=grace_s,
        now=now,
        keep=keep,
        finished=lambda commits: finished_roles(commits, now),
        orphan_age_s=age_s,
    )


def finished_roles(commits: Sequence[Commit], now: float) -> set[str]:
    """Live roles that no one will begin to load from, told from the commits of all versions there are.

    - Every live role of a round whose policy is published, which is the last a round does with live weights.
    - Of a round without one, attempts at its policy that a newer one superseded: all that is left of the newer was
      published SUPERSEDED_AFTER_S or more after the last of the older, so that no clock which goes wrong by less can
      take the one for the other. Until then both stay.

    Attempts at a reward model stay until their round is over: the policy may go on learning from the model of one that
    died. So does a role whose versions do not all name one round. Args: now: unix seconds.
    """
    published = {version for role, version in map(version_of, commits) if role == POLICY}
    attempts: dict[str, list[Commit]] = {}
    for commit in commits:
        role, _ = version_of(commit)
        if role.startswith(LIVE):
            attempts.setdefault(role, []).append(commit)
    rounds = {role: {commit.attrs["attrs"].get("round") for commit in own} for role, own in attempts.items()}
    found = {role for role, own in rounds.items() if len(own) == 1 and own <= published}
    times = {role: [commit.time_s for commit in own] for role, own in attempts.items() if is_live_policy(role)}
    for role, own in times.items():
        ended = max(own) + SUPERSEDED_AFTER_S
        is_superseded = any(rounds[other] == rounds[role] and min(times[other]) >= ended for other in times)
        if is_superseded and ended <= now and len(rounds[role]) == 1 and None not in rounds[role]:
            found.add(role)
    return found
