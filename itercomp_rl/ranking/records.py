"""Rankings records of the store: per prompt its images and one ranking per aspect."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from itercomp_rl.items import ImageRef, Prompt, RankOrder
from itercomp_rl.ranking.ranking import Ranking
from itercomp_rl.store.kinds import RANKINGS
from itercomp_rl.store.store import Store


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """One aspect's ranking of a prompt's images, and the scores of those models that the first judge scored.

    Newcomers that a reward model placed have none: its scale is not the judge's.
    """

    ranking: Ranking
    scores: Mapping[str, float]


def rankings_attrs(order: RankOrder, rankings: Sequence[Mapping[str, Judged]]) -> dict[str, Any]:
    """The document of a rankings record: per prompt its images and one ranking per aspect."""
    return {
        "round": order.round,
        "reward_version": order.reward_version,
        "prompts": [
            prompt_tree(prompt, images, by_aspect)
            for prompt, images, by_aspect in zip(order.prompts, order.images, rankings, strict=True)
        ],
    }


def prompt_tree(prompt: Prompt, images: Mapping[str, ImageRef], rankings: Mapping[str, Judged]) -> dict[str, Any]:
    """One prompt of such a document, as load_rankings reads it."""
    return {
        "prompt": asdict(prompt),
        "images": {model: [ref.segment, ref.row] for model, ref in images.items()},
        "rankings": {
            aspect: {"places": judged.ranking.places, "scores": dict(judged.scores)}
            for aspect, judged in rankings.items()
        },
    }


def prompt_of(tree: Mapping[str, Any]) -> Prompt:
    """A Prompt from its JSON form."""
    return Prompt(id=tree["id"], text=tree["text"], aspects=tuple(tree["aspects"]))


def load_rankings(
    store: Store, id_: str, kind: str = RANKINGS
) -> list[tuple[Prompt, dict[str, ImageRef], dict[str, Judged]]]:
    """Every prompt of a rankings record, or of one of another kind in that form, with its images and rankings."""
    found = []
    for entry in store.get(kind, id_).attrs["prompts"]:
        prompt = prompt_of(entry["prompt"])
        images = {model: ImageRef(segment=segment, row=row) for model, (segment, row) in entry["images"].items()}
        rankings = {
            aspect: Judged(
                ranking=Ranking(
                    prompt_id=prompt.id, aspect=aspect, places=tuple(tuple(place) for place in judged["places"])
                ),
                scores=judged["scores"],
            )
            for aspect, judged in entry["rankings"].items()
        }
        found.append((prompt, images, rankings))
    return found
