"""What Ray says of the job that this process runs for; imports no Ray, as some of it must be known before."""

import json
import os

_CONFIG = "RAY_JOB_CONFIG_JSON_ENV_VAR"  # Ray sets it for a job's entrypoint


def is_inside_job() -> bool:
    """Whether `ray job submit` started this process."""
    return _CONFIG in os.environ


def has_working_copy() -> bool:
    """Whether the working folder is Ray's copy of one, which goes with Ray's session."""
    return bool(json.loads(os.environ.get(_CONFIG, "{}")).get("runtime_env", {}).get("working_dir"))


def keep_to_loopback(address: str | None) -> None:
    """Have a Ray of this process's own listen on 127.0.0.1 only; to be called before ray is imported.

    Its servers listen on every address of the machine otherwise. What Ray's own name for this setting does not say: it
    makes the node's address the loopback one on every system, and all of Ray's servers then bind to that.
    Args: address: of a cluster to join; such a one, and a job's, listen as whoever started them chose.
    """
    if address is None and not is_inside_job():
        os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
