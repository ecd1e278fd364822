"""Where prompts come from: the embedded world, whose splits share no combination, T2I-CompBench, or files."""

import hashlib
import logging
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import count, islice, zip_longest
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

VALIDATION_SHARE = 12  # one in so many of the policy's prompts is kept for probes, as of the world's combinations


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


def training_prompts(
    config: PromptsConfig, seed: int, *, spares_validation: bool = False
) -> tuple[list[Prompt], list[Prompt]]:
    """The gallery's prompts and the policy's, both of the training split.

    Args: spares_validation: leave out the prompts of files that `validation_pool` then takes, as the run is probed. The
    embedded world has combinations for validation that no training split ever holds.
    """
    if config.source == "shapes":
        world = world_of(config)
        gallery = shapes_prompts(world, "train", config.gallery, seed_of(seed, "gallery prompts"))
        return gallery, shapes_prompts(world, "train", config.policy, seed_of(seed, "policy prompts"))
    is_spared = spares_validation and not config.validation_file
    if config.source == "t2i_compbench":
        pool = _in_turn(_trained_pool(config, "train_file", is_spared), seed_of(seed, "gallery prompts"))
        for key, num in (("gallery", config.gallery), ("policy", config.policy)):
            if num > len(pool):
                raise ConfigError(
                    f"prompts.{key} is {num}, but T2I-CompBench has {len(pool)} training prompts about prompts.aspects "
                    f"({', '.join(config.aspects)}): lower the number, or give files of your own (prompts.source=files)"
                )
        return pool[: config.gallery], pool[: config.policy]
    gallery = _shuffled(_trained_pool(config, "train_file", is_spared), seed_of(seed, "gallery prompts"))
    policy = gallery
    if config.policy_file:
        policy = _shuffled(_trained_pool(config, "policy_file", is_spared), seed_of(seed, "policy prompts"))
    _require_enough("gallery", config.gallery, "train_file", config.train_file, gallery, is_spared=is_spared)
    key = "policy_file" if config.policy_file else "train_file"
    _require_enough("policy", config.policy, key, getattr(config, key), policy, is_spared=is_spared)
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
    """The prompts of the file that a key of `prompts` names, or those of T2I-CompBench that stand for it."""
    if config.source == "t2i_compbench":
        return _benchmark_prompts(config, "test" if key == "test_file" else "train")
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


def _require_enough(
    key: str, num: int, file_key: str, file: str | None, pool: list[Prompt], *, is_spared: bool
) -> None:
    if len(pool) < num:
        spared = f" beside the one in {VALIDATION_SHARE} that is kept for probes" if is_spared else ""
        way_out = ", or give prompts.validation_file" if is_spared else ""
        raise ConfigError(
            f"prompts.{key} is {num}, but prompts.{file_key} {file!r} holds {len(pool)} prompts{spared}: lower the "
            f"number, or add prompts to the file{way_out}"
        )


def _trained_pool(config: PromptsConfig, key: str, is_spared: bool) -> list[Prompt]:
    """The prompts of a file that a run learns from."""
    return [prompt for prompt in _pool(config, key) if not (is_spared and _is_for_validation(prompt))]


def _is_for_validation(prompt: Prompt) -> bool:
    """Whether a prompt of a file is kept for probes; near copies of a text go the same way."""
    digest = hashlib.sha256(f"validation {same_text(prompt.text)}".encode()).digest()
    return int.from_bytes(digest[:4], "big") % VALIDATION_SHARE == 0


def validation_pool(config: PromptsConfig) -> list[Prompt]:
    """The prompts that probes choose from, never one of the test prompts.

    They are the embedded world's validation combinations, those of prompts.validation_file, or the share of the
    policy's prompts that `training_prompts` spares. Raises: ConfigError if there is none, or none about an aspect.
    """
    if config.source == "shapes":
        pool = [p for p in _world_pool(world_of(config), "validation") if set(p.aspects) & set(config.aspects)]
        where = "the validation split of prompts.world"
    else:
        key = "validation_file" if config.validation_file else "policy_file" if config.policy_file else "train_file"
        tested = {same_text(prompt.text) for prompt in _pool(config, "test_file")}
        found = [prompt for prompt in _pool(config, key) if key == "validation_file" or _is_for_validation(prompt)]
        pool = [prompt for prompt in found if same_text(prompt.text) not in tested]
        is_file = config.source == "files"
        where = f"prompts.{key} {getattr(config, key)!r}" if is_file else f"prompts.source {config.source!r}"
        if len(pool) < len(found):
            log.warning("%s: %d prompts are not probed, as they are test prompts too", where, len(found) - len(pool))
        if key != "validation_file":
            where = f"the one in {VALIDATION_SHARE} prompts of {where} that is kept for them"
    for aspect in config.aspects:
        if not any(aspect in prompt.aspects for prompt in pool):
            way_out = "allow more colours or shapes" if config.source == "shapes" else "give prompts.validation_file"
            raise ConfigError(
                f"evaluation.probe_every asks for probes, and {where} holds no prompt about {aspect!r} that is no test "
                f"prompt: {way_out}, or set evaluation.probe_every=0"
            )
    return pool


def probe_prompts(config: PromptsConfig, num_images: int, seed: int) -> list[tuple[Prompt, int]]:
    """What a probe draws: half as many prompts as images, each with two repeat numbers, one after the other.

    Prompts are taken in turn from those about each set of aspects. Where there are too few, they come again with other
    repeat numbers. Raises: ConfigError as `validation_pool`.
    """
    pool = _shuffled(validation_pool(config), seed_of(seed, "probe prompts"))
    turns = [pool[row] for row in prompts_to_show(pool, len(pool))]
    places = ((prompt, 2 * lap + repeat) for lap in count() for prompt in turns for repeat in (0, 1))
    return list(islice(places, num_images))


def _world_pool(world: World, split: str) -> list[Prompt]:
    """Every prompt of a split of the embedded world."""
    return [
        Prompt(id=prompt_id(text), text=text, aspects=scene.aspects)
        for scene in world.scenes(split)
        for text in dict.fromkeys(caption(scene, way) for way in range(4))
    ]


def held_out_prompts(
    config: PromptsConfig, num_per_aspect: int, seed: int, split: str = "test", *, spares_validation: bool = False
) -> list[tuple[Prompt, int]]:
    """Prompts of a split, each with a repeat number, until every aspect has `num_per_aspect` images.

    Args: spares_validation: as of `training_prompts`, for the split "train".
    Raises: ConfigError if there is no such split.
    """
    if config.source == "shapes":
        pool = _world_pool(world_of(config), split)
    else:
        if split == "validation" and not config.validation_file:
            raise ConfigError(
                f"prompts.source {config.source!r} has no validation split without prompts.validation_file: take test, "
                "or train, or give a file (--prompts)"
            )
        # What the policy learned by heart is of its own prompts.
        own = "policy_file" if config.policy_file else "train_file"
        is_spared = split == "train" and spares_validation and not config.validation_file
        pool = _trained_pool(config, {"test": "test_file", "validation": "validation_file"}.get(split, own), is_spared)
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
