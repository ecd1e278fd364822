"""Where prompts come from: the embedded world's language, or files; training and held-out ones never mix."""

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from itertools import islice, zip_longest
from pathlib import Path

import numpy as np

from itercomp_rl.config.schema import PromptsConfig
from itercomp_rl.errors import ConfigError
from itercomp_rl.items import ASPECTS, Prompt
from itercomp_rl.seeds import seed_of
from itercomp_rl.shapes.scenes import World, caption, draw_scenes, parse


def prompt_id(text: str) -> str:
    """A stable name for a prompt's text."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


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


def file_prompts(file: str | Path, aspects: list[str]) -> list[Prompt]:
    """Prompts of a text file (one a line) or a JSON list of strings or {"text", "aspects"?}; repeated texts count once.

    Raises: ConfigError if the file is missing, unreadable, no list, empty or holds an empty prompt or unknown aspect.
    """
    path = Path(file)
    try:
        content = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"prompt file {str(file)!r} cannot be read: {error}") from error
    if path.suffix == ".json":
        try:
            rows = json.loads(content)
        except json.JSONDecodeError as error:
            raise ConfigError(f"prompt file {str(file)!r} is not JSON: {error}") from error
        if not isinstance(rows, list):
            raise ConfigError(f'prompt file {str(file)!r} must hold a list, such as [{{"text": "a red circle"}}]')
        rows = [row if isinstance(row, dict) else {"text": row} for row in rows]
    else:
        rows = [{"text": line} for line in content.splitlines() if line.strip()]
    found: dict[str, Prompt] = {}
    for place, row in enumerate(rows, 1):
        text = str(row.get("text", "")).strip()
        if not text:
            raise ConfigError(f"prompt file {str(file)!r}: entry {place} has no text")
        own = row.get("aspects", aspects)
        if not isinstance(own, list) or not own or any(aspect not in ASPECTS for aspect in own):
            raise ConfigError(
                f"prompt file {str(file)!r}: aspects of entry {place} are {own!r}; "
                f"they must be a list of some of {', '.join(ASPECTS)}"
            )
        found.setdefault(text, Prompt(id=prompt_id(text), text=text, aspects=tuple(own)))
    if not found:
        raise ConfigError(f"prompt file {str(file)!r} holds no prompt")
    return list(found.values())


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
    assert config.train_file
    found = file_prompts(config.train_file, config.aspects)
    order = np.random.default_rng(seed_of(seed, "gallery prompts")).permutation(len(found))
    shuffled = [found[i] for i in order]
    if len(found) < config.gallery:
        raise ConfigError(f"prompts.gallery is {config.gallery}, but {config.train_file!r} holds {len(found)} prompts")
    return shuffled[: config.gallery], shuffled[: config.policy]


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
        assert config.train_file and config.test_file
        if split == "validation":
            raise ConfigError("prompt files have no validation split: take test, or train, or give a file (--prompts)")
        pool = file_prompts(config.test_file if split == "test" else config.train_file, config.aspects)
    if not pool:
        raise ConfigError(f"there is no prompt in the {split} split of prompts.world: allow more colours or shapes")
    order = np.random.default_rng(seed_of(seed, "held out", split)).permutation(len(pool))
    # A prompt counts for the rarest of its aspects. An aspect that every prompt has is then measured by all of them,
    # and of prompts that have it alone a quarter of the number is enough.
    num_of = Counter(aspect for prompt in pool for aspect in prompt.aspects)
    kind_of = {prompt.id: min(reversed(prompt.aspects), key=num_of.__getitem__) for prompt in pool}
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
    found = file_prompts(file, config.aspects)
    if config.source != "shapes":
        return found
    try:
        return [Prompt(id=p.id, text=p.text, aspects=parse(p.text).aspects) for p in found]
    except ValueError as error:
        raise ConfigError(f"prompt file {str(file)!r}: {error}") from error


def check_prompt(text: str, config: PromptsConfig) -> None:
    """Raises: ConfigError for an empty prompt or, in the embedded world, one that is not of its language."""
    if not text.strip():
        raise ConfigError("the prompt is empty: say what to draw, such as 'a red circle left of a blue square'")
    if config.source == "shapes":
        try:
            parse(text)
        except ValueError as error:
            raise ConfigError(str(error)) from error
