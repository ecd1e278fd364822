"""Preferences that others stated: in a store that `itercomp preferences import` wrote, and in a run that has them."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from itercomp_rl.errors import ConfigError, StoreError
from itercomp_rl.items import PairRef
from itercomp_rl.ranking import pairs
from itercomp_rl.ranking.pairs import PairRules
from itercomp_rl.store.kinds import IMAGES, PREFERENCES
from itercomp_rl.store.layout import record_place
from itercomp_rl.store.store import Store, open_store


def load_pairs(store: Store, aspect: str, rules: PairRules) -> tuple[list[PairRef], list[PairRef]]:
    """The pairs of every preferences record of a run's store under an aspect: (to learn from, held out).

    Prompts are split as the judge's are. Margins and swaps are the judge's affair: these pairs stay as they were.
    """
    stated = replace(rules, margin=0.0, margins={}, flip=0.0)
    return pairs.load_pairs(store, store.ids(PREFERENCES), aspect, stated, PREFERENCES)


def open_preferences(folder: str) -> Store:
    """The store of imported preferences in a folder. Raises: ConfigError if there is none."""
    where = f"reward.preferences names {folder!r}"
    way_out = "give a folder that `itercomp preferences import` wrote"
    if not Path(folder).is_dir():
        raise ConfigError(f"{where}, where nothing is: {way_out}")
    try:
        store = open_store(Path(folder).absolute().as_uri())
    except StoreError as error:
        raise ConfigError(f"{where}, which is no store ({error}): {way_out}") from error
    if not store.ids(PREFERENCES):
        raise ConfigError(f"{where}, which holds no preferences: {way_out}")
    return store


def count_rankings(store: Store) -> Counter[str]:
    """How many rankings there are under each aspect."""
    found = Counter[str]()
    for commit in store.commits(PREFERENCES):
        found.update(aspect for entry in commit.attrs["prompts"] for aspect in entry["rankings"])
    return found


def take_in(store: Store, folders: Sequence[str]) -> int:
    """Copy imported preferences with their images into a run's store; returns how many records were new there.

    Images come first: a preferences record is not there before all that it refers to.
    Raises: ConfigError if the run's store holds preferences that none of the folders has; then nothing is copied.
    """
    sources = [open_preferences(folder) for folder in folders]
    known = {id_ for source in sources for id_ in source.ids(PREFERENCES)}
    if others := [id_ for id_ in store.ids(PREFERENCES) if id_ not in known]:
        raise ConfigError(
            "reward.preferences holds other preferences than this run began with: its store has "
            f"{', '.join(others[:3])}, which none of {', '.join(folders)} has. Name the folders that it began with, or "
            "give run.name another name to begin a run with these"
        )
    new = 0
    for source in sources:
        for kind in (IMAGES, PREFERENCES):
            new += sum(store.copy(source, record_place(kind, id_)) for id_ in source.ids(kind))
    return new
