"""How many members of a pooled role there are, and how many of them may work at one time."""

from itercomp_rl.config.schema import ActorsConfig


def share_processes(actors: ActorsConfig) -> bool:
    """Whether every sampler has a roller in its process, and they are one pool."""
    return actors.autoscale and actors.layout == "separate"


def num_members(actors: ActorsConfig, kind: str) -> int:
    """Members of a pooled kind: with autoscale, samplers and rollers are as many as their processes together."""
    if share_processes(actors) and kind in ("sampler", "roller"):
        return actors.samplers.count + actors.rollers.count
    return {"sampler": actors.samplers, "judge": actors.judges, "roller": actors.rollers}[kind].count


def most_at_work(actors: ActorsConfig, kind: str) -> int:
    """Members of a pooled kind that work at one time, at most."""
    kept = {"sampler": actors.min_rollers, "roller": actors.min_samplers}.get(kind, 0)
    return num_members(actors, kind) - (kept if share_processes(actors) else 0)
