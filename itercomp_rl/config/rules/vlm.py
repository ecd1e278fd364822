"""Settings of the vision-language judge."""

from itercomp_rl.config.rules.endpoint import check_endpoint
from itercomp_rl.config.rules.terms import one_of, require
from itercomp_rl.config.schema import VlmConfig
from itercomp_rl.errors import ConfigError


def check_vlm(vlm: VlmConfig, *, is_used: bool) -> None:
    """Raises: ConfigError for a setting that is impossible, or that a judge `vlm` lacks."""
    one_of("judge.vlm.atoms", vlm.atoms, ("rule", "model"))
    for name, value in (("parallel", vlm.parallel), ("max_tokens", vlm.max_tokens)):
        require(value >= 1, f"judge.vlm.{name}", value, "must be 1 or more")
    require(vlm.timeout_s > 0, "judge.vlm.timeout_s", vlm.timeout_s, "must be above 0")
    require(vlm.max_retries >= 0, "judge.vlm.max_retries", vlm.max_retries, "must be 0 or more")
    require(
        vlm.max_requests is None or vlm.max_requests >= 1,
        "judge.vlm.max_requests",
        vlm.max_requests,
        "must be 1 or more, or null for no limit",
    )
    if vlm.url is not None:
        check_endpoint("judge.vlm", vlm.url)
    elif vlm.key_env is not None:
        raise ConfigError(
            f"judge.vlm.key_env is {vlm.key_env!r}, and judge.vlm.url is null: a model loaded here takes no key; "
            "give the endpoint's address, or set key_env to null"
        )
    if is_used and not vlm.model:
        raise ConfigError(
            "judge.vlm.model is null, and a judge is 'vlm': name the model that judge.vlm.url serves, or, without url, "
            "the folder or hub id of a Qwen-VL checkpoint"
        )
