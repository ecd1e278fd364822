"""Rankings that people made in a browser, kept in the store as events: who ranked, skipped or took back what, and when.

One record per event, written once. The last event of a (rater, prompt, aspect) is what that person says.
"""

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from itercomp_rl.items import ImageRef, PairRef, Prompt
from itercomp_rl.ranking.pairs import PairRules
from itercomp_rl.ranking.ranking import Places, Ranking, pairs_of
from itercomp_rl.ranking.records import load_rankings, prompt_of
from itercomp_rl.store.kinds import PEOPLE
from itercomp_rl.store.store import Store

Act = Literal["ranked", "skipped", "undone"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """What one person did with one prompt under one aspect.

    Said(prompt=Prompt(...), aspect="spatial", rater="ann", time_s=1.79e9, act="ranked",
         places=(("flux",), ("sdxl", "sd3")), images={"flux": ImageRef(...), ...})
    """

    prompt: Prompt
    aspect: str
    rater: str
    time_s: float  # unix seconds
    act: Act
    places: Places  # empty unless ranked
    images: Mapping[str, ImageRef]


def publish(store: Store, said: Said) -> str:
    """Commit an event; returns its id, which sorts by time."""
    id_ = f"{round(said.time_s * 1000):014d}-{secrets.token_hex(4)}"
    store.put(PEOPLE, id_, {}, asdict(said))
    return id_


def load(store: Store) -> list[Said]:
    """What every person says now of every prompt and aspect, in the order in which they said it."""
    latest: dict[tuple[str, str, str], Said] = {}
    for commit in store.commits(PEOPLE):
        said = _said(commit.attrs)
        key = (said.rater, said.prompt.id, said.aspect)
        latest.pop(key, None)
        latest[key] = said
    return [said for said in latest.values() if said.act != "undone"]


def load_pairs(store: Store, ids: Sequence[str], aspect: str, rules: PairRules) -> tuple[list[PairRef], list[PairRef]]:
    """The pairs of people's rankings of the prompts that rankings records rank: (to learn from, held out).

    Each pair comes as often as people said it. Prompts are split as the judge's are, so none is on both sides.
    """
    everything = load(store)
    if not everything:
        return [], []
    prompts = {prompt.id: prompt for id_ in ids for prompt, _, _ in load_rankings(store, id_)}
    train: list[PairRef] = []
    kept: list[PairRef] = []
    for said in everything:
        if said.act != "ranked" or said.aspect != aspect or said.prompt.id not in prompts:
            continue
        side = kept if rules.keeps(said.prompt) else train
        for pair in pairs_of(Ranking(prompt_id=said.prompt.id, aspect=aspect, places=said.places)):
            prompt, images = prompts[said.prompt.id], said.images
            side.append(PairRef(prompt=prompt, winner=images[pair.winner], loser=images[pair.loser]))
    return train, kept


def _said(tree: Mapping[str, Any]) -> Said:  # Any: JSON of a store record
    places: Sequence[Sequence[str]] = tree["places"]
    return Said(
        prompt=prompt_of(tree["prompt"]),
        aspect=tree["aspect"],
        rater=tree["rater"],
        time_s=tree["time_s"],
        act=tree["act"],
        places=tuple(tuple(place) for place in places),
        images={model: ImageRef(**ref) for model, ref in tree["images"].items()},
    )
