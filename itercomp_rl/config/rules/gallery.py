"""Settings of the gallery: its members, the systems that they draw by, their planners."""

from collections.abc import Mapping

from itercomp_rl.config.rules.endpoint import check_endpoint
from itercomp_rl.config.rules.model_names import check_model_names
from itercomp_rl.config.rules.terms import check_side, one_of, require
from itercomp_rl.config.schema import Config, MemberConfig, PlannerConfig

PLANNED = ("rpg", "omost", "lmd", "instance_diffusion")  # systems that draw by plan
SYSTEMS = ("text", *PLANNED)  # of gallery members; itercomp_rl/gallery/gallery.py has a class for each
DTYPES = ("fp32", "bf16", "fp16")


def check_gallery(config: Config) -> None:
    """Members, how they draw, and the planners that some of them need."""
    gallery = config.gallery
    one_of("gallery.dtype", gallery.dtype, DTYPES)
    require(bool(gallery.members), "gallery.members", gallery.members, "must name at least one model")
    founders = [name for name, member in gallery.members.items() if member.join_round == 0]
    require(
        len(founders) >= 2, "gallery.members", founders, "at least two must have join_round 0: a pair needs two images"
    )
    check_model_names(config)
    for name, member in gallery.members.items():
        _member(f"gallery.members.{name}", member)
        _planned(f"gallery.members.{name}", member, gallery.planners)
    if planned := [name for name, member in gallery.members.items() if member.system in PLANNED]:
        why = f"gallery.members.{planned[0]} draws by plan, which acts on the attention layers: for text members alone"
        require(gallery.attention == "sdpa", "gallery.attention", gallery.attention, why)
        require(not gallery.compile, "gallery.compile", gallery.compile, why)
    for name, planner in gallery.planners.items():
        _planner(f"gallery.planners.{name}", planner)


def _member(key: str, member: MemberConfig) -> None:
    require(member.num_steps >= 1, f"{key}.num_steps", member.num_steps, "must be 1 or more")
    require(member.join_round >= 0, f"{key}.join_round", member.join_round, "must be 0 or more")
    one_of(f"{key}.system", member.system, SYSTEMS)
    if member.dtype is not None:
        one_of(f"{key}.dtype", member.dtype, DTYPES)
    check_side(f"{key}.size_px", member.size_px)


def _planned(key: str, member: MemberConfig, planners: Mapping[str, PlannerConfig]) -> None:
    if member.system in PLANNED:
        known = ", ".join(planners) or "none"
        require(member.planner in planners, f"{key}.planner", member.planner, f"must be of gallery.planners: {known}")
    else:
        require(member.planner is None, f"{key}.planner", member.planner, f"system {member.system!r} has no planner")
    require(0 <= member.base_ratio <= 1, f"{key}.base_ratio", member.base_ratio, "must be from 0 to 1")
    one_of(f"{key}.pooled", member.pooled, ("last_region", "base"))
    require(member.attention_scale >= 0, f"{key}.attention_scale", member.attention_scale, "must be 0 or more")
    require(member.reference_weight >= 0, f"{key}.reference_weight", member.reference_weight, "must be 0 or more")
    if member.system == "instance_diffusion":
        require(
            bool(member.grounding),
            f"{key}.grounding",
            member.grounding,
            "must name the file of InstanceDiffusion's layers",
        )
        require(member.scheduler is None, f"{key}.scheduler", member.scheduler, "the system has a scheduler of its own")
    else:
        require(
            member.grounding is None, f"{key}.grounding", member.grounding, "is for system instance_diffusion alone"
        )


def _planner(key: str, planner: PlannerConfig) -> None:
    one_of(f"{key}.kind", planner.kind, ("rule", "transformers", "openai"))
    if planner.fallback is not None:
        one_of(f"{key}.fallback", planner.fallback, ("rule",))
    if planner.kind != "rule":
        require(bool(planner.model), f"{key}.model", planner.model, f"kind {planner.kind!r} needs one")
        require(planner.max_tokens >= 1, f"{key}.max_tokens", planner.max_tokens, "must be 1 or more")
    if planner.kind == "openai":
        check_endpoint(key, planner.url or "")
        require(planner.timeout_s > 0, f"{key}.timeout_s", planner.timeout_s, "must be above 0")
        require(planner.max_retries >= 0, f"{key}.max_retries", planner.max_retries, "must be 0 or more")
