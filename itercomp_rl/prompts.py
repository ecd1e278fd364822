"""Where prompts come from: the embedded world, whose splits share no combination, T2I-CompBench, or files."""

import hashlib
import logging
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import islice, zip_longest
from pathlib import Path

import numpy as np

from itercomp_rl.config.schema import PromptsConfig
from itercomp_rl.errors import ConfigError
from itercomp_rl.files.prompt_rows import PromptRow, read_prompt_rows
from itercomp_rl.files.text import has_lone_surrogate
from itercomp_rl.items import ASPECTS, Prompt
from itercomp_rl.prompt_sets import compbench
from itercomp_rl.prompt_sets.hub_dataset import is_dataset, read_dataset_rows
from itercomp_rl.seeds import seed_of
from itercomp_rl.shapes.scenes import World, caption, draw_scenes, parse

log = logging.getLogger(__name__)


def prompt_id(text: str) -> str:
    """A stable name for a prompt's text."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def same_text(text: str) -> str:
    """What two texts share that differ in case, in blanks or in how Unicode composes their letters alone."""
    return unicodedata.normalize("NFC", " ".join(unicodedata.normalize("NFC", text).casefold().split()))


def shapes_prompts(world: World, split: str, num: int, seed: int) -> list[Prompt]:
    """`num` different prompts of a split of the embedded world.

    Raises: ConfigError if the split holds no combination or fewer than `num` different prompts.
    """
    if not world.combinations(split):
        raise ConfigError(f"prompts.world leaves no combination for the {split} split: allow more colours or shapes")
    total = sum(len({caption(scene, way) for way in range(4)}) for scene in world.scenes(split))
    if num > total:
        raise ConfigError(
            f"the {split} split of prompts.world has {total} prompts, {num} were asked for: lower the number"
        )
    rng = np.random.default_rng(seed)
    found: dict[str, Prompt] = {}
    while True:
        for scene in draw_scenes(world, split, num, rng):
            text = caption(scene, int(rng.integers(4)))
            found.setdefault(text, Prompt(id=prompt_id(text), text=text, aspects=scene.aspects))
            if len(found) == num:
                return list(found.values())


def file_prompts(file: str | Path, aspects: Sequence[str]) -> list[Prompt]:
    """The prompts of a file, in any form of files.prompt_rows, or of a data set of the hub ("hf:owner/name").

    A prompt that names no aspect is about `aspects`. A repeated text counts once, and is about what any of its rows
    names. Raises: ConfigError that names file, place and way out.
    """
    rows = read_dataset_rows(str(file)) if is_dataset(str(file)) else read_prompt_rows(Path(file))
    return _gathered((row.text, _named_aspects(file, row, aspects)) for row in rows)


def _gathered(rows: Iterable[tuple[str, Sequence[str]]]) -> list[Prompt]:
    """One prompt per text, about whatever any of its rows names."""
    named: dict[str, list[str]] = {}
    for text, aspects in rows:
        named.setdefault(text, []).extend(aspects)
    return [Prompt(id=prompt_id(text), text=text, aspects=tuple(dict.fromkeys(own))) for text, own in named.items()]


def _named_aspects(file: str | Path, row: PromptRow, aspects: Sequence[str]) -> Sequence[str]:
    own = row.aspects
    if own is None:
        return aspects
    if not isinstance(own, list) or not own or any(a not in ASPECTS or own.count(a) > 1 for a in own):
        raise ConfigError(
            f"prompt file {str(file)!r}: aspects of {row.place} are {own!r}; "
            f"they must be a list of some of {', '.join(ASPECTS)}, each once"
        )
    return own


def world_of(config: PromptsConfig) -> World:
    """The embedded world's subset that a config names; ConfigError if a word is not of the language."""
    try:
        return World(
            colours=tuple(config.world.colours),
            shapes=tuple(config.world.shapes),
            relations=tuple(config.world.relations),
        )
    except ValueError as error:
        raise ConfigError(f"prompts.{error}") from error


def training_prompts(config: PromptsConfig, seed: int) -> tuple[list[Prompt], list[Prompt]]:
    """The gallery's prompts and the policy's, both of the training split."""
    if config.source == "shapes":
        world = world_of(config)
        gallery = shapes_prompts(world, "train", config.gallery, seed_of(seed, "gallery prompts"))
        return gallery, shapes_prompts(world, "train", config.policy, seed_of(seed, "policy prompts"))
    if config.source == "t2i_compbench":
        pool = _in_turn(_benchmark_prompts(config, "train"), seed_of(seed, "gallery prompts"))
        for key, num in (("gallery", config.gallery), ("policy", config.policy)):
            if num > len(pool):
                raise ConfigError(
                    f"prompts.{key} is {num}, but T2I-CompBench has {len(pool)} training prompts about prompts.aspects "
                    f"({', '.join(config.aspects)}): lower the number, or give files of your own (prompts.source=files)"
                )
        return pool[: config.gallery], pool[: config.policy]
    gallery_pool = _pool(config, "train_file")
    gallery = _shuffled(gallery_pool, seed_of(seed, "gallery prompts"))
    policy = gallery
    if config.policy_file:
        policy = _shuffled(_pool(config, "policy_file"), seed_of(seed, "policy prompts"))
    _require_enough("gallery", config.gallery, "train_file", config.train_file, gallery)
    key = "policy_file" if config.policy_file else "train_file"
    _require_enough("policy", config.policy, key, getattr(config, key), policy)
    return gallery[: config.gallery], policy[: config.policy]


def _benchmark_prompts(config: PromptsConfig, split: str) -> list[Prompt]:
    """T2I-CompBench's prompts of a split that are about one of a run's aspects, with these aspects alone."""
    rows = compbench.read_split(split)
    own = ((text, [aspect for aspect in aspects if aspect in config.aspects]) for text, aspects in rows)
    return _gathered((text, aspects) for text, aspects in own if aspects)


def _in_turn(prompts: list[Prompt], seed: int) -> list[Prompt]:
    """The prompts in a random order in which the kinds take turns, so that any first part has as many of each."""
    kind_of = _kinds(prompts)
    by_kind: dict[str, list[Prompt]] = {}
    for prompt in _shuffled(prompts, seed):
        by_kind.setdefault(kind_of[prompt.id], []).append(prompt)
    turns = zip_longest(*(by_kind[kind] for kind in sorted(by_kind)))
    return [prompt for turn in turns for prompt in turn if prompt is not None]


def _kinds(prompts: Sequence[Prompt]) -> dict[str, str]:
    """By prompt id, the aspect that a prompt counts for: the rarest of its own."""
    num_of = Counter(aspect for prompt in prompts for aspect in prompt.aspects)
    return {prompt.id: min(reversed(prompt.aspects), key=num_of.__getitem__) for prompt in prompts}


def _pool(config: PromptsConfig, key: str) -> list[Prompt]:
    """The prompts of the file that a key of `prompts` names."""
    file = getattr(config, key)
    try:
        return _about(file_prompts(file, config.aspects), config.aspects, repr(file))
    except ConfigError as error:
        raise ConfigError(f"prompts.{key}: {error}") from error


def _about(prompts: list[Prompt], aspects: Sequence[str], where: str) -> list[Prompt]:
    """The prompts that are about one of a run's aspects, with these aspects alone; a warning counts what is left out.

    Raises: ConfigError if there is none.
    """
    found = [replace(p, aspects=tuple(aspect for aspect in p.aspects if aspect in aspects)) for p in prompts]
    kept = [prompt for prompt in found if prompt.aspects]
    changed = [old for old, new in zip(prompts, found, strict=True) if old.aspects != new.aspects]
    if not kept:
        raise ConfigError(
            f"{where}: its {len(prompts)} prompts are about none of prompts.aspects ({', '.join(aspects)}), such as "
            f"{changed[0].text!r} ({', '.join(changed[0].aspects)}): give prompts that are, or change prompts.aspects"
        )
    if changed:
        log.warning(
            "%s: %d of %d prompts are about aspects that prompts.aspects does not have, such as %r (%s): these aspects "
            "do not count, and %d prompts that have no other are left out",
            where,
            len(changed),
            len(prompts),
            changed[0].text,
            ", ".join(changed[0].aspects),
            len(prompts) - len(kept),
        )
    return kept


def _shuffled(prompts: list[Prompt], seed: int) -> list[Prompt]:
    return [prompts[i] for i in np.random.default_rng(seed).permutation(len(prompts))]


def _require_enough(key: str, num: int, file_key: str, file: str | None, pool: list[Prompt]) -> None:
    if len(pool) < num:
        raise ConfigError(
            f"prompts.{key} is {num}, but prompts.{file_key} {file!r} holds {len(pool)} prompts: lower the number, or "
            "add prompts to the file"
        )


def held_out_prompts(
    config: PromptsConfig, num_per_aspect: int, seed: int, split: str = "test"
) -> list[tuple[Prompt, int]]:
    """Prompts of a split, each with a repeat number, until every aspect has `num_per_aspect` images.

    Raises: ConfigError if there is no such split.
    """
    if config.source == "shapes":
        world = world_of(config)
        pool = [
            Prompt(id=prompt_id(text), text=text, aspects=scene.aspects)
            for scene in world.scenes(split)
            for text in dict.fromkeys(caption(scene, way) for way in range(4))
        ]
    else:
        if split == "validation":
            raise ConfigError(
                f"prompts.source {config.source!r} has no validation split: take test, or train, or give a file "
                "(--prompts)"
            )
        # What the policy learned by heart is of its own prompts.
        key = "test_file" if split == "test" else "policy_file" if config.policy_file else "train_file"
        pool = _benchmark_prompts(config, split) if config.source == "t2i_compbench" else _pool(config, key)
    if not pool:
        raise ConfigError(
            f"there is no prompt in the {split} split of prompts.source {config.source!r}: allow more colours or "
            "shapes (prompts.world), or other prompts.aspects"
        )
    order = np.random.default_rng(seed_of(seed, "held out", split)).permutation(len(pool))
    # A prompt counts for the rarest of its aspects. An aspect that every prompt has is then measured by all of them,
    # and of prompts that have it alone a quarter of the number is enough.
    num_of = Counter(aspect for prompt in pool for aspect in prompt.aspects)
    kind_of = _kinds(pool)
    kinds = sorted(set(kind_of.values()))
    is_shared = {kind: num_of[kind] == len(pool) and len(kinds) > 1 for kind in kinds}
    wanted = {kind: max(1, num_per_aspect // 4) if is_shared[kind] else num_per_aspect for kind in kinds}
    chosen: list[tuple[Prompt, int]] = []
    for repeat in range(num_per_aspect):
        for i in order:
            kind = kind_of[pool[i].id]
            if wanted[kind] > 0:
                chosen.append((pool[i], repeat))
                wanted[kind] -= 1
    return chosen + _missing(pool, [int(i) for i in order], chosen, num_per_aspect)


def _missing(
    pool: list[Prompt], order: list[int], chosen: list[tuple[Prompt, int]], num_per_aspect: int
) -> list[tuple[Prompt, int]]:
    """What aspects lack that are the rarest of no prompt, or not of enough."""
    found: list[tuple[Prompt, int]] = []
    for aspect in sorted({aspect for prompt in pool for aspect in prompt.aspects}):
        taken = {(prompt.id, repeat) for prompt, repeat in chosen + found}
        have = sum(aspect in prompt.aspects for prompt, _ in chosen + found)
        rest = (
            (pool[i], repeat)
            for repeat in range(num_per_aspect)
            for i in order
            if aspect in pool[i].aspects and (pool[i].id, repeat) not in taken
        )
        found += islice(rest, max(0, num_per_aspect - have))
    return found


def prompts_to_show(prompts: Sequence[Prompt], num: int) -> list[int]:
    """Rows of at most `num` different prompts, the first of each set of aspects in turn: no aspect is left out."""
    rows_of: dict[tuple[str, ...], dict[str, int]] = {}
    for row, prompt in enumerate(prompts):
        rows_of.setdefault(prompt.aspects, {}).setdefault(prompt.id, row)
    turns = zip_longest(*(rows.values() for rows in rows_of.values()))
    return [row for turn in turns for row in turn if row is not None][:num]


def user_prompts(file: str | Path, config: PromptsConfig) -> list[Prompt]:
    """Prompts a user wrote for an evaluation; in the embedded world each must be of its language."""
    found, where = file_prompts(file, config.aspects), f"prompt file {str(file)!r}"
    if config.source == "shapes":
        try:
            found = [replace(prompt, aspects=parse(prompt.text).aspects) for prompt in found]
        except ValueError as error:
            raise ConfigError(f"{where}: {error}") from error
    return _about(found, config.aspects, where)


def check_prompt(text: str, config: PromptsConfig) -> None:
    """Raises: ConfigError for an empty prompt or, in the embedded world, one that is not of its language."""
    if not text.strip():
        raise ConfigError("the prompt is empty: say what to draw, such as 'a red circle left of a blue square'")
    if has_lone_surrogate(text):
        raise ConfigError(
            f"the prompt {text!r} holds bytes that are not UTF-8: give it in a terminal that speaks UTF-8"
        )
    if config.source == "shapes":
        try:
            parse(text)
        except ValueError as error:
            raise ConfigError(str(error)) from error
