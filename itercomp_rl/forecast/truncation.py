"""Prompts that a text encoder or a reward model cuts, as they are too long for it: counted before a run starts."""

import inspect
import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, PreTrainedTokenizerFast

from itercomp_rl.config.judging_sources import fixed_scorers
from itercomp_rl.config.schema import OWN_POLICY, Config
from itercomp_rl.config.scorer_names import HTTP, PYTHON, parse_scorer
from itercomp_rl.diffusion.checkpoint import drawing_checkpoint, loading
from itercomp_rl.diffusion.family import FAMILIES
from itercomp_rl.diffusion.flux import NUM_TEXT_TOKENS
from itercomp_rl.errors import ConfigError
from itercomp_rl.files.checkpoint_path import checkpoint_path
from itercomp_rl.reward.checkpoint import load_reward_config, official_tokenizer
from itercomp_rl.reward.clip_checkpoint import CLIP_KINDS, load_clip_config, load_clip_tokenizer

log = logging.getLogger(__name__)

# Tokens that a family's T5 reads, whatever its tokenizer says; SD3's is the default of diffusers' pipeline.
_T5_TOKENS = {
    ("StableDiffusion3Pipeline", "tokenizer_3"): 256,
    ("FluxPipeline", "tokenizer_2"): NUM_TEXT_TOKENS,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class TextReader:
    """TextReader(name="policy.model sdxl, tokenizer_2", limit=77, tokenizer=...): texts end after `limit` tokens."""

    name: str
    limit: int
    tokenizer: Any  # Any: transformers' tokenizers share no class with a call that is typed


@dataclass(frozen=True, slots=True, kw_only=True)
class Truncated:
    """How many of some texts a reader cuts: Truncated(reader=..., num=3, total=200, example="a ...", length=91)."""

    reader: TextReader
    num: int
    total: int
    example: str  # the longest
    length: int  # its tokens

    def __str__(self) -> str:
        return (
            f"{self.reader.name} reads {self.reader.limit} tokens: {self.num} of {self.total} prompts are longer and "
            f"are cut, such as {_begin(self.example)!r} ({self.length} tokens)"
        )


def _begin(text: str) -> str:
    return text if len(text) <= 80 else f"{text[:79]}…"


def check_lengths(config: Config, texts: Sequence[str]) -> None:
    """Warn of every reader of a run that cuts some of these texts.

    Raises: ConfigError with the same counts if prompts.on_truncation is error; CheckpointError if a tokenizer cannot
    be had.
    """
    found = list(truncated(text_readers(config), texts))
    if found and config.prompts.on_truncation == "error":
        raise ConfigError(
            f"prompts.on_truncation is 'error', and {'; '.join(map(str, found))}. Shorten these prompts, or set "
            "prompts.on_truncation=warn"
        )
    for one in found:
        log.warning("%s", one)


def truncated(readers: Iterable[TextReader], texts: Sequence[str]) -> Iterator[Truncated]:
    """What each reader cuts, of readers that cut anything; every text counts once, its special tokens included."""
    texts = list(dict.fromkeys(texts))
    for reader in readers:
        lengths = [len(ids) for ids in reader.tokenizer(texts, truncation=False, verbose=False)["input_ids"]]
        if num := sum(length > reader.limit for length in lengths):
            length, example = max(zip(lengths, texts, strict=True))
            yield Truncated(reader=reader, num=num, total=len(texts), example=example, length=length)


def text_readers(config: Config) -> Iterator[TextReader]:
    """Every tokenizer of the policy, of the gallery and of the fixed and learned reward models, each once."""
    models = {
        f"gallery.members.{name}.model": member.model
        for name, member in config.gallery.members.items()
        if not member.is_external  # its images are made elsewhere
    }
    keys = {config.policy.model: "policy.model"}
    for key, model in models.items():
        if model != OWN_POLICY:
            keys.setdefault(model, key)
    for model, key in keys.items():
        yield from _of_pipeline(key, model)
    rewards: dict[str, str] = {}
    for key, source in fixed_scorers(config).items():
        rewards.setdefault(source, key)
    for source, key in rewards.items():
        yield from _of_reward(key, source)


def _of_pipeline(key: str, model: str) -> Iterator[TextReader]:
    path = checkpoint_path(model)
    checkpoint = drawing_checkpoint(path)
    default = None if checkpoint.pipeline in FAMILIES else _call_default(checkpoint.pipeline)
    for part in checkpoint.parts:
        if not part.is_tokenizer:
            continue
        with loading(path):
            tokenizer = AutoTokenizer.from_pretrained(path, subfolder=part.name)
        limit = _T5_TOKENS.get((checkpoint.pipeline, part.name), default or tokenizer.model_max_length)
        yield TextReader(name=f"{key} {model}, {part.name},", limit=limit, tokenizer=tokenizer)


def _call_default(pipeline: str) -> int | None:
    """The tokens that a pipeline of diffusers reads by itself; None where it leaves them to its tokenizer."""
    import diffusers

    parameter = inspect.signature(getattr(diffusers, pipeline).__call__).parameters.get("max_sequence_length")
    return parameter.default if parameter is not None and isinstance(parameter.default, int) else None


def _of_reward(key: str, source: str) -> Iterator[TextReader]:
    name = parse_scorer(source)
    if name.kind in (PYTHON, HTTP):  # what such a scorer reads is not known here
        return
    if name.kind in CLIP_KINDS:
        if (tokenizer := load_clip_tokenizer(name)) is not None:
            yield TextReader(name=f"{key} {source}", limit=load_clip_config(name).max_text_tokens, tokenizer=tokenizer)
        return
    path = checkpoint_path(name.checkpoint)
    limit = load_reward_config(path).max_text_tokens
    is_ours = Path(path).is_dir()
    if is_ours and not (Path(path) / "tokenizer.json").is_file():
        return
    tokenizer = PreTrainedTokenizerFast.from_pretrained(path) if is_ours else official_tokenizer(name.checkpoint)
    yield TextReader(name=f"{key} {source}", limit=limit, tokenizer=tokenizer)
