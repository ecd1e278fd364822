"""How many prompts that should be held out were trained on: near copies count, as a model learns both alike."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from itercomp_rl.plan import Plan
from itercomp_rl.prompts import same_text


@dataclass(frozen=True, slots=True, kw_only=True)
class Overlap:
    """Overlap(num_prompts=40, num_trained_on=2, example="a red cup"): of 40 held-out prompts 2 were trained on."""

    num_prompts: int
    num_trained_on: int
    example: str | None  # a held-out prompt that was trained on

    def tree(self) -> dict[str, Any]:
        """As results.json has it, under `held_out_prompts`."""
        return {"prompts": self.num_prompts, "trained_on": self.num_trained_on, "example": self.example}


def overlap(held_out: Iterable[str], trained: Iterable[str]) -> Overlap:
    """Held-out texts, each once, that are a trained one but for case, blanks and the composition of letters."""
    known = {same_text(text) for text in trained}
    texts = list(dict.fromkeys(held_out))
    found = [text for text in texts if same_text(text) in known]
    return Overlap(num_prompts=len(texts), num_trained_on=len(found), example=found[0] if found else None)


def overlap_of(plan: Plan) -> Overlap:
    """The overlap of a run's held-out prompts with those that its gallery draws and its policy learns from."""
    held_out = (prompt.text for order in plan.evaluation_orders(plan.policy(-1)) for prompt in order.prompts)
    return overlap(held_out, (prompt.text for prompt in (*plan.gallery_prompts, *plan.policy_prompts)))


def probe_overlap(plan: Plan) -> Overlap:
    """The overlap of the prompts of a run's probes with those that its gallery draws and its policy learns from."""
    trained = (prompt.text for prompt in (*plan.gallery_prompts, *plan.policy_prompts))
    return overlap((prompt.text for prompt, _ in plan.probe_prompts), trained)


def overlap_sentence(tree: dict[str, Any]) -> str | None:
    """What readers of the scores must know, from `held_out_prompts` of results.json; None where no prompt is shared."""
    if not tree.get("trained_on"):
        return None
    return (
        f"{tree['trained_on']} of {tree['prompts']} held-out prompts were trained on too, such as {tree['example']!r}: "
        "scores on these are not held out."
    )
