"""A run's models for others: folders that plain diffusers and transformers load, and their way to the Hub."""

import json
import logging
from pathlib import Path

from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError, HFValidationError

from itercomp_rl.config.schema import Config
from itercomp_rl.diffusion.checkpoint import check_checkpoint
from itercomp_rl.diffusion.export import check_adapter, export_policy
from itercomp_rl.diffusion.family import DTYPES, load_policy
from itercomp_rl.diffusion.lora import has_lora
from itercomp_rl.diffusion.published import load_published
from itercomp_rl.errors import CheckpointError, ConfigError
from itercomp_rl.files.checkpoint_path import checkpoint_path
from itercomp_rl.files.whole import appearing
from itercomp_rl.network.hub import check_reach
from itercomp_rl.report.model_card import Card, Licence, model_card
from itercomp_rl.reward.checkpoint import export_reward
from itercomp_rl.reward.published import load_reward_version
from itercomp_rl.store import weights
from itercomp_rl.store.kinds import POLICY, reward_role
from itercomp_rl.store.store import Store

log = logging.getLogger(__name__)


def export_run(
    config: Config, store: Store, folder: Path, *, round_: int | None, licence: Licence, dtype: str = "fp32"
) -> Path:
    """The policy after a round (counted from 1, None the last), its reward models and a card, in a new folder.

    dtype: that the network and the text encoders are saved in; an adapter is merged in fp32 and then rounded once.
    Raises: ConfigError if that round has published nothing; CheckpointError if the folder exists.
    """
    if folder.exists():
        raise CheckpointError(f"--to is {folder}, which exists: an export is written once, choose another folder")
    published = weights.versions(store, POLICY)
    version = (published[-1] if published else 0) if round_ is None else round_ - 1
    if version not in published:
        have = ", ".join(str(v + 1) for v in published) or "none"
        raise ConfigError(f"--round is {round_ or 'the last'}: published rounds of this run are {have}")
    policy = load_policy(
        checkpoint_path(config.policy.model),
        dtype="fp32",
        resolution_px=config.policy.size_px,
    )
    learned = weights.open_version(store, POLICY, version)
    load_published(policy, learned)
    results = config.run_folder / "results.json"
    card = model_card(
        Card(
            config=config,
            round=version + 1,
            attrs=learned.attrs,
            results=json.loads(results.read_text(encoding="utf-8")) if results.exists() else None,
            seeds={"run": config.run.seed, "evaluation": config.evaluation.seed},
            licence=licence,
            pipeline=type(policy.pipeline).__name__,
            has_adapter=has_lora(policy.trainable),
        )
    )
    with appearing(folder) as partial:
        export_policy(policy, partial, dtype=DTYPES[dtype])
        for aspect, report in learned.attrs["rewards"].items():
            published_reward = weights.open_version(store, reward_role(aspect), report["version"])
            model = load_reward_version(config.reward.trunk, published_reward)
            export_reward(model, partial / "reward_models" / aspect)
        (partial / "README.md").write_text(card, encoding="utf-8")
    log.info("exported round %d to %s", version + 1, folder)
    return folder


def push(folder: Path, repo_id: str, *, private: bool) -> str:
    """Upload an exported folder, a model or a data set of preferences, to the Hub in one commit; returns its address.

    Raises: CheckpointError if the folder is no export, or its adapter's strength depends on the loader; ConfigError for
    a bad repo id, or what the Hub answered.
    """
    if not folder.is_dir():
        raise CheckpointError(f"{folder} is no folder: push what `itercomp export` wrote")
    is_data = any(folder.glob("data/*.parquet"))
    if not is_data:
        check_checkpoint(folder)
        check_adapter(folder)
    if not (folder / "README.md").is_file():
        raise CheckpointError(f"{folder} has no README.md: push what `itercomp export` wrote, with its card")
    check_reach(repo_id)
    api = HfApi()
    try:
        kind = "dataset" if is_data else "model"
        url = api.create_repo(repo_id, private=private, exist_ok=True, repo_type=kind)
        message = f"Upload {folder.name}"
        api.upload_folder(repo_id=repo_id, folder_path=folder, commit_message=message, repo_type=kind)
    except HFValidationError as error:
        raise ConfigError(f"{repo_id!r} is no repository of the Hub: give owner/name") from error
    except HfHubHTTPError as error:
        raise ConfigError(
            f"the Hub refused to take {repo_id}: {error}; `hf auth login` or HF_TOKEN lets you in"
        ) from error
    return str(url)
