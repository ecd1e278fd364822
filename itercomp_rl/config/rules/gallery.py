"""Settings of the gallery: its members, the systems that they draw by, their planners."""

from collections.abc import Mapping

from itercomp_rl.config.rules.endpoint import check_endpoint
from itercomp_rl.config.rules.model_names import check_model_names
from itercomp_rl.config.rules.terms import check_side, one_of, require
from itercomp_rl.config.schema import EXTERNAL, OWN_POLICY, Config, ImageEndpointConfig, MemberConfig, PlannerConfig

PLANNED = ("rpg", "omost", "lmd", "instance_diffusion")  # systems that draw by plan
SYSTEMS = ("text", *PLANNED, *EXTERNAL)  # of gallery members; itercomp_rl/gallery/gallery.py has a class for each
DTYPES = ("fp32", "bf16", "fp16")


def check_gallery(config: Config) -> None:
    """Members, how they draw, and the planners that some of them need."""
    gallery = config.gallery
    one_of("gallery.dtype", gallery.dtype, DTYPES)
    founders = [name for name, member in gallery.members.items() if member.join_round == 0]
    if not config.reward.preferences:
        require(bool(gallery.members), "gallery.members", gallery.members, "must name at least one model")
        rule = "at least two must have join_round 0: a pair needs two images"
        require(len(founders) >= 2, "gallery.members", founders, rule)
    elif not founders:
        _without_founders(config)
    check_model_names(config)
    for name, member in gallery.members.items():
        _member(f"gallery.members.{name}", member)
        _planned(f"gallery.members.{name}", member, gallery.planners)
        _external(f"gallery.members.{name}", member, gallery.endpoints)
    _pictures_of_founders(config)
    if planned := [name for name, member in gallery.members.items() if member.system in PLANNED]:
        why = f"gallery.members.{planned[0]} draws by plan, which acts on the attention layers: for text members alone"
        require(gallery.attention == "sdpa", "gallery.attention", gallery.attention, why)
        require(not gallery.compile, "gallery.compile", gallery.compile, why)
    for name, planner in gallery.planners.items():
        _planner(f"gallery.planners.{name}", planner)
    for name, endpoint in gallery.endpoints.items():
        _endpoint(f"gallery.endpoints.{name}", endpoint)


def _without_founders(config: Config) -> None:
    """Imported preferences teach without a gallery; what else learns from its images must be off."""
    rule = "learns from the gallery's images, and no member of gallery.members has join_round 0: set it to 0"
    for name, value in (
        ("pretraining_weight", config.policy.pretraining_weight),
        ("stay_near_base", config.policy.stay_near_base),
    ):
        require(value == 0, f"policy.{name}", value, rule)
    frozen = list(config.policy.frozen_rewards)
    rule = "are calibrated on the gallery's images, and no member of gallery.members has join_round 0: leave them out"
    require(not frozen, "policy.frozen_rewards", frozen, rule)


def _member(key: str, member: MemberConfig) -> None:
    if not member.is_external:
        require(member.num_steps >= 1, f"{key}.num_steps", member.num_steps, "must be 1 or more")
    require(member.join_round >= 0, f"{key}.join_round", member.join_round, "must be 0 or more")
    one_of(f"{key}.system", member.system, SYSTEMS)
    if member.dtype is not None:
        one_of(f"{key}.dtype", member.dtype, DTYPES)
    check_side(f"{key}.size_px", member.size_px)


def _external(key: str, member: MemberConfig, endpoints: Mapping[str, ImageEndpointConfig]) -> None:
    """Check that a folder or endpoint member has the settings it needs and none that nothing would read.

    Any other member must not name an endpoint.
    """
    if member.system != "endpoint":
        require(member.endpoint is None, f"{key}.endpoint", member.endpoint, "is for system endpoint alone")
    if not member.is_external:
        return
    require(bool(member.model), f"{key}.model", member.model, "must name the folder, or the endpoint's model")
    require(
        member.model != OWN_POLICY, f"{key}.model", member.model, "this run's policy is drawn here: take system text"
    )
    unread: dict[str, object] = {"scheduler": member.scheduler, "dtype": member.dtype}
    if member.system == "folder":
        unread |= {"num_steps": member.num_steps or None, "negative": member.negative}
        unread |= {"guidance": None if member.guidance == 1 else member.guidance}
    else:
        known = ", ".join(endpoints) or "none"
        require(
            member.endpoint in endpoints, f"{key}.endpoint", member.endpoint, f"must be of gallery.endpoints: {known}"
        )
        require(member.num_steps >= 0, f"{key}.num_steps", member.num_steps, "must be 0 (the endpoint's own) or more")
        require(member.size_px is not None, f"{key}.size_px", None, "the endpoint must be told the side of its images")
    for name, value in unread.items():
        require(value is None, f"{key}.{name}", value, f"system {member.system!r} draws nothing here: leave it unset")


def _pictures_of_founders(config: Config) -> None:
    """Forgetting is measured on pictures that founders draw; one made elsewhere may lack any of them."""
    founders = [member for member in config.gallery.members.values() if member.join_round == 0]
    if config.prompts.is_world or any(not member.is_external for member in founders):
        return
    num = config.evaluation.denoising_images
    rule = "the pictures are drawn by founders, and every founder's images are made elsewhere: set it to 0"
    require(num == 0, "evaluation.denoising_images", num, rule)


def _endpoint(key: str, endpoint: ImageEndpointConfig) -> None:
    check_endpoint(key, endpoint.url)
    require(endpoint.timeout_s > 0, f"{key}.timeout_s", endpoint.timeout_s, "must be above 0")
    require(endpoint.max_retries >= 0, f"{key}.max_retries", endpoint.max_retries, "must be 0 or more")
    require(endpoint.parallel >= 1, f"{key}.parallel", endpoint.parallel, "must be 1 or more")


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
