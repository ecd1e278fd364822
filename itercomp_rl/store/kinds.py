"""Every kind of record and every role of weights that a run keeps in its store; docs/store.md says what each holds."""

import re

# Kinds of records: `records/<kind>/<id>`.
IMAGES = "images"  # gallery images, one segment for each draw order
EVALUATIONS = "evaluations"  # held-out images, likewise
RANKINGS = "rankings"  # how images of some prompts are ranked, per aspect
GRADES = "grades"  # scores of the held-out images, under the id of their segment
PROBES = "probes"  # validation images of a round's moving average, while the round learns
PROBE_GRADES = "probe-grades"  # what the judge and the reward models say of them, under the id of their segment
LOSSES = "losses"  # denoising losses of a policy on held-out pictures
PREFERENCES = "preferences"  # rankings of images that others made, as `itercomp preferences import` writes them
PEOPLE = "people"  # what one person said about one prompt on the ranking page
PLANS = "plans"  # a planner's answer to one prompt
ANSWERS = "answers"  # a vision-language model's answer to one question about one image
PROMPTS = "prompts"  # one record with the texts of all prompts of the run

# Roles of weights: `weights/<role>/<version>`.
POLICY = "policy"  # what each round publishes; versions are rounds
LIVE = "live-"  # how the roles begin under which a learner publishes while it still learns

_LIVE_POLICY = re.compile(r"live-[0-9a-f]{8}")
_AVERAGE = re.compile(r"live-average-r(\d{3,})")


def reward_role(aspect: str) -> str:
    """The role under which an aspect's reward models are published; versions count refreshes."""
    return f"reward-{aspect}"


def live_policy_role(attempt: str) -> str:
    """The role for one attempt at a round's policy; versions are updates. `attempt`: 8 hex digits."""
    return f"{LIVE}{attempt}"


def live_reward_role(aspect: str, attempt: str) -> str:
    """The role for one attempt at an aspect's reward model; versions are updates. `attempt`: 8 hex digits."""
    return f"{LIVE}{reward_role(aspect)}-{attempt}"


def average_role(round_: int) -> str:
    """The role of a round's moving averages that are probed; versions are updates, whatever attempt made them."""
    return f"{LIVE}average-r{round_:03d}"


def averaged_round(role: str) -> int | None:
    """The round whose moving averages a role holds; None for any other role."""
    found = _AVERAGE.fullmatch(role)
    return int(found[1]) if found else None


def is_live_policy(role: str) -> bool:
    """Whether a role is that of an attempt at a policy."""
    return _LIVE_POLICY.fullmatch(role) is not None
