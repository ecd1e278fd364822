"""A model's answers in the store, by image, question and model: nothing is asked twice, whoever asks."""

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from itercomp_rl.judges.vlm.model import Asked, Verdict
from itercomp_rl.store.kinds import ANSWERS
from itercomp_rl.store.layout import record_place
from itercomp_rl.store.store import Store


def checksum(image: NDArray[np.uint8]) -> str:
    """Of an image's size and pixels."""
    return hashlib.sha256(json.dumps(image.shape).encode() + np.ascontiguousarray(image).tobytes()).hexdigest()


def answer_id(image_checksum: str, question: str, model: str) -> str:
    """The id of the record that keeps an answer."""
    return hashlib.sha256(json.dumps([image_checksum, question, model]).encode()).hexdigest()[:32]


def load_answers(store: Store, ids: Sequence[str], max_tokens: int) -> dict[str, Verdict]:
    """The answers that are there, by id, and of the others the failures of answers up to `max_tokens`."""
    found = {}
    for commit in store.find_all(
        record_place(ANSWERS, name) for id_ in ids for name in (_failed(id_, max_tokens), id_)
    ):
        id_ = commit.marker.rsplit("/", 1)[1].removesuffix(".json").partition("-")[0]
        names = ("p_yes", "how", "text", "tokens_in", "tokens_out")
        found[id_] = Verdict(**{name: commit.attrs[name] for name in names})
    return found


def keep_answer(store: Store, id_: str, asked: Asked, model: str, verdict: Verdict, max_tokens: int) -> None:
    """Publish an answer, or why there is none unless it may come later.

    A failure is kept apart for each `max_tokens`: an answer that was cut off is worth asking for again with more.
    """
    if verdict.is_final:
        attrs = {
            "model": model,
            "question": asked.question,
            "p_yes": verdict.p_yes,
            "how": verdict.how,
            "text": verdict.text,
            "tokens_in": verdict.tokens_in,
            "tokens_out": verdict.tokens_out,
        }
        store.put(ANSWERS, id_ if verdict.p_yes is not None else _failed(id_, max_tokens), {}, attrs)


def _failed(id_: str, max_tokens: int) -> str:
    return f"{id_}-{max_tokens}"


def answers_tree(store: Store) -> dict[str, Any]:
    """What a run's model was asked, for results.json: questions by what came of them, and tokens; {} if nothing was."""
    outcomes, tokens = Counter[str](), Counter[str]()
    ids = store.ids(ANSWERS)
    answered = {id_ for id_ in ids if "-" not in id_}
    kept = [id_ for id_ in ids if id_ in answered or id_.partition("-")[0] not in answered]
    for commit in store.find_all(record_place(ANSWERS, id_) for id_ in kept):
        outcomes[commit.attrs["how"]] += 1
        tokens.update({name: commit.attrs[name] for name in ("tokens_in", "tokens_out")})
    return {"questions": outcomes.total(), "by_outcome": dict(outcomes), **tokens} if outcomes else {}


def answers_sentence(tree: Mapping[str, Any]) -> str:
    """The same in words."""
    lost = sum(num for how, num in tree["by_outcome"].items() if how not in ("logprobs", "scale"))
    return (
        f"The vision-language model was asked {tree['questions']} questions, {lost} of which could not be judged; "
        f"{tree['tokens_in']} tokens in, {tree['tokens_out']} out."
    )
