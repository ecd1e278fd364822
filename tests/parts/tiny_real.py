"""The configs of the real models on tiny random checkpoints of their own classes, as small as a whole run can be."""

from pathlib import Path

from itercomp_rl.config.load import load_config
from tests.parts.checkpoints import make_flux, make_sd, make_sd3, make_sdxl
from tests.parts.judge_checkpoints import make_clip, make_depth, make_detector, make_vqa
from tests.parts.spacy_pipeline import spacy_pipeline

MAKERS = {"sd15": make_sd, "sdxl": make_sdxl, "sd3": make_sd3, "sd35": make_sd3, "flux": make_flux}
JUDGES = {"vqa": make_vqa, "clip": make_clip, "detector": make_detector, "depth": make_depth}
SIZES = (
    *("run.rounds=2", "store.url=null", "store.durable=false"),
    *("prompts.gallery=24", "prompts.policy=8", "gallery.segment=24", "gallery.batch=24"),
    # Random detectors are sure of nothing, and random judges of next to nothing.
    *("judge.margin=0", "judge.margins.non_spatial=0"),
    *("judge.t2i_compbench.threshold=0.001", "evaluation.t2i_compbench.threshold=0.001"),
    *("reward.updates=2", "reward.batch=4", "reward.micro_batch=4", "reward.min_accuracy=0", "reward.held_out=0.5"),
    *("policy.num_steps=3", "policy.mid_low=1", "policy.mid_high=2", "policy.size_px=16", "policy.updates=1"),
    *("policy.points_per_rollout=1", "policy.batch=2", "policy.rollout_batch=2", "policy.pretraining_batch=2"),
    *("evaluation.images_per_aspect=2", "evaluation.denoising_images=2", "evaluation.grid_prompts=2"),
    *("evaluation.max_drop=null", "actors.policy_learners.count=1"),
)


def tiny_settings(name: str, folder: Path) -> list[str]:
    """Overrides of the config `name`: no file of prompts, and every model in `folder` in place of one of the hub."""
    config = load_config(name)
    made = {member.model: MAKERS[key](folder / key) for key, member in config.gallery.members.items()}
    members = [
        f"gallery.members.{key}.{setting}"
        for key, member in config.gallery.members.items()
        for setting in (f"model={made[member.model]}", "num_steps=2", "size_px=16")
    ]
    judges = [
        f"{where}.t2i_compbench.{key}={make(folder / f'{where}-{key}', seed=seed)}"
        for seed, where in enumerate(("judge", "evaluation"))
        for key, make in JUDGES.items()
    ]
    rewards = ["reward.trunk=embedded:trunk", f"judge.t2i_compbench.spacy={spacy_pipeline()}"]
    return [f"run.dir={folder}", *SIZES, f"policy.model={made[config.policy.model]}", *members, *judges, *rewards]
