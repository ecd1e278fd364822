"""The prompts of a run, committed once, so that every process has their texts and no later run mixes in others."""

import hashlib
import json
from collections.abc import Sequence

from itercomp_rl.errors import ConfigError
from itercomp_rl.items import Prompt
from itercomp_rl.plan import Plan
from itercomp_rl.ranking.records import load_rankings
from itercomp_rl.store.kinds import PROMPTS, RANKINGS
from itercomp_rl.store.store import Store

_ROLLED = "rolled"  # id of the record; the driver may read prompt files that no other node has


def put_prompts(store: Store, plan: Plan) -> None:
    """Commit the texts that rollouts will name, for rollers and policy learners, and digests of all prompts of the run.

    Raises: ConfigError if the run began with other prompts: images would be ranked under texts that they are not of.
    """
    held_out = [prompt for order in plan.evaluation_orders(plan.policy(-1)) for prompt in order.prompts]
    attrs = {
        "texts": list(plan.rolled_prompts),
        "train": _digest([*plan.gallery_prompts, *plan.policy_prompts]),
        "test": _digest(held_out),
    }
    if plan.config.evaluation.probe_every:
        attrs["validation"] = _digest([prompt for prompt, _ in plan.probe_prompts])
    began, config = store.put(PROMPTS, _ROLLED, {}, attrs).attrs, plan.config.prompts
    for name, value in attrs.items():  # a run of earlier software may have noted its texts alone
        if began.get(name, value) == value:
            continue
        own = ["train_file", *(["policy_file"] if config.policy_file else [])]
        keys = {"test": ["test_file"], "validation": ["validation_file"] if config.validation_file else own}.get(
            name, own
        )
        files = " or ".join(f"prompts.{key} {getattr(config, key)!r}" for key in keys)
        what, way_out = f"{files} no longer gives", "give it the old file"
        if config.source != "files":
            ours = "embedded world" if config.is_world else "T2I-CompBench"
            what, way_out = f"this software's {ours} does not give", "go on with the version that began it"
        raise ConfigError(
            f"{what} the prompts that this run began with ({store.url}): {way_out}, or start a new run under another "
            "run.name"
        )


def _digest(prompts: Sequence[Prompt]) -> str:
    rows = json.dumps([[prompt.text, prompt.aspects] for prompt in prompts])
    return hashlib.sha256(rows.encode()).hexdigest()


def load_rolled_prompts(store: Store) -> list[str]:
    """The texts that rollouts will name. Raises: MissingRecordError."""
    return store.get(PROMPTS, _ROLLED).attrs["texts"]


def trained_texts(store: Store) -> set[str]:
    """The texts that a run has learned from, as its store knows them: its prompt files may have changed since."""
    ranked = {prompt.text for id_ in store.ids(RANKINGS) for prompt, _, _ in load_rankings(store, id_)}
    return ranked | set(load_rolled_prompts(store) if store.has(PROMPTS, _ROLLED) else [])
