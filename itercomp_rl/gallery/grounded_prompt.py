"""Where the phrases of a layout stand in its prompt, as the text encoder sees it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from itercomp_rl.diffusion.policy import Policy
from itercomp_rl.gallery.lmd.attention_energy import GuidedObject
from itercomp_rl.gallery.planning.layout import Box, Layout


@dataclass(frozen=True, slots=True, kw_only=True)
class GroundedPrompt:
    """A prompt with a place for every phrase.

    GroundedPrompt(text="a cup| a plate", objects=(GuidedObject(phrase="a cup", boxes=(...), tokens=(1, 2)), ...),
    unseen=())
    """

    text: str
    objects: tuple[GuidedObject, ...]
    unseen: tuple[str, ...]  # phrases behind the last token that the text encoder reads


def grounded_prompt(tokenizer: Any, layout: Layout) -> GroundedPrompt:
    """The layout's prompt, with "| phrase" behind it for every phrase that it does not hold, and each phrase's tokens.

    Boxes of one phrase are one object. The order of boxes has no effect on the text.
    tokenizer: of transformers, one that begins a text with one mark.
    """
    boxes_of: dict[str, list[Box]] = {}
    for box in layout.boxes:
        boxes_of.setdefault(box.phrase, []).append(box)
    text = layout.prompt
    for phrase in sorted(boxes_of):
        if not _places(tokenizer, text, phrase):
            text += "| " + phrase
    last = tokenizer.model_max_length - 1  # where a text that is cut gets its end mark
    places = {phrase: _places(tokenizer, text, phrase) for phrase in boxes_of}
    seen = [phrase for phrase in boxes_of if places[phrase] and max(places[phrase]) < last]
    return GroundedPrompt(
        text=text,
        objects=tuple(
            GuidedObject(phrase=phrase, boxes=tuple(boxes_of[phrase]), tokens=places[phrase]) for phrase in seen
        ),
        unseen=tuple(phrase for phrase in boxes_of if phrase not in seen),
    )


def _places(tokenizer: Any, text: str, phrase: str) -> tuple[int, ...]:
    """Places of the phrase's tokens in the encoded text, where it stands first; empty if it does not stand there."""
    ids: Sequence[int] = tokenizer(text, add_special_tokens=False, verbose=False).input_ids
    wanted: Sequence[int] = tokenizer(phrase, add_special_tokens=False, verbose=False).input_ids
    for start in range(len(ids) - len(wanted) + 1):
        if wanted and list(ids[start : start + len(wanted)]) == list(wanted):
            return tuple(range(start + 1, start + 1 + len(wanted)))  # + 1: the begin mark
    return ()


@torch.no_grad()
def pooled_phrases(policy: Policy, phrases: Sequence[str]) -> Tensor:
    """The text encoder's pooled state [N, D] of each phrase, float32 on the CPU."""
    tokenizer, encoder = policy.pipeline.tokenizer, policy.pipeline.text_encoder
    inputs = tokenizer(list(phrases), padding=True, truncation=True, return_tensors="pt").to(policy.device)
    return encoder(input_ids=inputs.input_ids, attention_mask=inputs.attention_mask).pooler_output.float().cpu()
