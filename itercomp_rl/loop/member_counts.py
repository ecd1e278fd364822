"""How many members of a pooled role there are, how many of them may work at one time, and what members share."""

from itercomp_rl.config.schema import ActorsConfig, Config


def share_processes(actors: ActorsConfig) -> bool:
    """Whether every sampler has a roller in its process, and they are one pool."""
    return actors.autoscale and actors.layout == "separate"


def rollers_borrow(config: Config) -> bool:
    """Whether a roller uses the network of a policy learner in its process, in place of one of its own.

    Not under ZeRO-3, where a rank holds a part of each weight and all ranks must ask for the whole at the same time.
    """
    engine = config.policy.engine
    has_whole = engine.kind != "deepspeed" or engine.zero_stage < 3
    return config.actors.layout == "shared" and has_whole


def num_members(actors: ActorsConfig, kind: str) -> int:
    """Members of a pooled kind: with autoscale, samplers and rollers are as many as their processes together."""
    if share_processes(actors) and kind in ("sampler", "roller"):
        return actors.samplers.count + actors.rollers.count
    return {"sampler": actors.samplers, "judge": actors.judges, "roller": actors.rollers}[kind].count


def most_at_work(actors: ActorsConfig, kind: str) -> int:
    """Members of a pooled kind that work at one time, at most."""
    kept = {"sampler": actors.min_rollers, "roller": actors.min_samplers}.get(kind, 0)
    return num_members(actors, kind) - (kept if share_processes(actors) else 0)
