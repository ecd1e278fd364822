"""The README of an exported model: what it is, how it came to be, how good it was measured to be, its licence."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from itercomp_rl.config.schema import Config
from itercomp_rl.evaluation.overlap import overlap_sentence
from itercomp_rl.files.checkpoint_path import EMBEDDED


@dataclass(frozen=True, kw_only=True)
class Licence:
    """Licence fields of a model card: Licence(id="other", name="flux-1-dev", link="https://…").

    id is one of the Hub's identifiers, such as openrail++; "other" needs a name.
    """

    id: str
    name: str | None = None
    link: str | None = None


@dataclass(frozen=True, kw_only=True)
class Card:
    """What a card is made of: the run's config, the attrs the policy was published with, and the run's scores."""

    config: Config
    round: int  # counted from 1
    attrs: Mapping[str, Any]
    results: Mapping[str, Any] | None  # results.json, None before it is written
    seeds: Mapping[str, int]
    licence: Licence
    pipeline: str  # class that loads it
    has_adapter: bool


def model_card(card: Card) -> str:
    """Markdown with the Hub's front matter."""
    return "\n".join(
        [*_front_matter(card), "", *_about(card), "", *_use(card), "", *_rewards(card), "", *_scores(card)]
    )


def _front_matter(card: Card) -> list[str]:
    fields: dict[str, Any] = {
        "license": card.licence.id,
        "license_name": card.licence.name,
        "license_link": card.licence.link,
        "library_name": "diffusers",
        "pipeline_tag": "text-to-image",
        # the Hub links only its own models: a folder or a shipped model is named in the text alone
        "base_model": _base(card) if _is_hub_id(_base(card)) else None,
    }
    lines = [f"{key}: {json.dumps(value)}" for key, value in fields.items() if value is not None]
    tags = ["itercomp", "text-to-image", *(["lora"] if card.has_adapter else [])]
    return ["---", *lines, "tags:", *(f"  - {tag}" for tag in tags), "---"]


def _base(card: Card) -> str:
    return card.config.policy.model


def _is_hub_id(model: str) -> bool:
    return not model.startswith(EMBEDDED) and not Path(model).exists()


def _about(card: Card) -> list[str]:
    policy, rewards = card.config.policy, card.attrs["rewards"]
    kind = "a LoRA adapter on, and merged into," if card.has_adapter else "all weights of the denoising network of"
    members = ", ".join(f"{name} (`{member.model}`)" for name, member in card.config.gallery.members.items())
    return [
        f"# {card.config.run.name}, round {card.round}",
        "",
        f"Trained with itercomp-rl after IterComp (arXiv 2410.07171): {kind} `{_base(card)}`, by feedback from reward",
        f"models for {', '.join(rewards) or 'no aspect'} that learnt from rankings of a gallery of models.",
        "",
        "| | |",
        "|---|---|",
        f"| base | `{_base(card)}` |",
        f"| rounds | {card.round} of {card.config.run.rounds}, {card.attrs['updates']} updates in the last |",
        f"| gallery | {members} |",
        f"| images per update | {policy.batch}, {policy.points_per_rollout} gradient points each |",
        f"| learning rate | {policy.engine.lr:g}, moving average {policy.engine.ema:g} |",
        f"| draws with | {policy.num_steps} steps, guidance {policy.guidance:g} |",
        f"| seed of the run | {card.seeds['run']} |",
        f"| licence | {card.licence.name or card.licence.id}; the base model's own terms go on to hold |",
    ]


def _use(card: Card) -> list[str]:
    guidance = "" if card.config.policy.guidance == 1 else f", guidance_scale={card.config.policy.guidance:g}"
    steps = f"num_inference_steps={card.config.policy.num_steps}{guidance}"
    lines = [
        "```python",
        f"from diffusers import {card.pipeline}",
        "",
        f"pipeline = {card.pipeline}.from_pretrained(FOLDER_OR_HUB_ID)",
        f"pipeline(PROMPT, {steps}).images[0]",
        "```",
    ]
    if card.has_adapter:
        lines += [
            "",
            f'The adapter alone: `{card.pipeline}.from_pretrained("{_base(card)}")`, then',
            '`pipeline.load_lora_weights(FOLDER_OR_HUB_ID, weight_name="pytorch_lora_weights.safetensors")`.',
            "Its scale is in its weights (alpha equals rank), so its full strength is 1 in every loader.",
        ]
    return lines


def _rewards(card: Card) -> list[str]:
    lines = [
        "## Reward models",
        "",
        "In `reward_models/`, one per aspect; each folder in it is a model of transformers, of the class that its",
        "config.json names. A standardised reward is (raw - mean) / std.",
        "",
        "| aspect | version | held-out pairs told right | pairs | mean | std | weight |",
        "|---|---|---|---|---|---|---|",
    ]
    for aspect, report in card.attrs["rewards"].items():
        lines.append(
            f"| {aspect} | {report['version']} | {report['accuracy']:.1%} | {report['num_pairs']} | "
            f"{report['mean']:.4g} | {report['std']:.4g} | {report['weight']:g} |"
        )
    for name, term in card.attrs.get("frozen_rewards", {}).items():
        lines += ["", f"The policy also climbed `{term['source']}` as `{name}`, with weight {term['weight']:g}."]
    return lines


def _scores(card: Card) -> list[str]:
    lines = ["## Scores", ""]
    aspects: Mapping[str, Any] = card.results["aspects"] if card.results else {}
    rounds = {name: tree["rounds"] for name, tree in aspects.items()}
    if card.results is None or any(len(found) < card.round for found in rounds.values()):
        return [*lines, "This version has not been evaluated.", ""]
    lines += [
        f"Held-out prompts, evaluation seed {card.seeds['evaluation']}; mean ± standard error clustered by prompt,",
        "n images.",
        "",
        "| aspect | base | this model | n |",
        "|---|---|---|---|",
    ]
    for aspect, tree in aspects.items():
        base, ours = tree["base"], tree["rounds"][card.round - 1]
        scores = [f"{found['mean']:.3f} ± {found['se']:.3f}" for found in (base, ours)]
        lines.append(f"| {aspect} | {scores[0]} | {scores[1]} | {ours['n']} |")
    overlap = overlap_sentence(card.results.get("held_out_prompts", {}))
    warnings = [*card.results.get("self_grading", []), *([overlap] if overlap else [])]
    return [*lines, "", *(line for sentence in warnings for line in (sentence, ""))]
