"""Before a run starts: whether the vision-language model answers at all, and how many questions it will be asked."""

import logging
from collections.abc import Iterable
from dataclasses import replace

import numpy as np

from itercomp_rl.config.schema import VlmConfig
from itercomp_rl.errors import ConfigError, JudgeError
from itercomp_rl.items import Prompt
from itercomp_rl.judges.vlm.atoms import atoms_by_rule
from itercomp_rl.judges.vlm.endpoint import EndpointVlm
from itercomp_rl.judges.vlm.model import Asked, Usage
from itercomp_rl.judges.vlm.questions import by_aspect, question_of
from itercomp_rl.plan import Plan

log = logging.getLogger(__name__)

_SIDE_PX = 64
_QUESTION = "Does this picture show a red square?"


def check_endpoint_answers(settings: VlmConfig) -> None:
    """Ask the endpoint one question about a red square.

    Raises: ConfigError with what it said if it does not answer by yes or no, or by a number; or if the key is missing.
    """
    picture = np.full((_SIDE_PX, _SIDE_PX, 3), 255, np.uint8)
    picture[_SIDE_PX // 4 : -_SIDE_PX // 4, _SIDE_PX // 4 : -_SIDE_PX // 4] = (255, 0, 0)
    vlm = EndpointVlm(replace(settings, max_retries=min(1, settings.max_retries)), Usage())
    where = f"judge.vlm.url is {settings.url!r} and its model {settings.model!r}"
    try:
        [verdict] = vlm.ask([Asked(image=picture, question=_QUESTION)])
    except JudgeError as error:
        raise ConfigError(f"{where}: {error}") from error
    if verdict.p_yes is None:
        raise ConfigError(
            f"{where}: a question about a picture of a red square was not answered ({verdict.how}): "
            f"{verdict.text}; start the endpoint, or change judge.vlm"
        )
    by = "log-probabilities" if verdict.how == "logprobs" else "numbers from 1 to 5, as it gives no log-probabilities"
    log.info("the vision-language model answers by %s: a red square is one with p = %.2f", by, verdict.p_yes)


def num_questions(plan: Plan) -> int:
    """Questions that a whole run asks a model, each image of each prompt once, with atoms by rule."""
    judge, aspects = plan.config.judge, plan.config.prompts.aspects

    def total(prompts: Iterable[Prompt]) -> int:
        return sum(num_questions_of(prompt, aspects) for prompt in prompts)

    first, num, waiting = {0: judge.first_round}, 0, 0
    for round_ in range(plan.rounds):
        waiting += len(plan.newcomers(round_))  # models whose gallery images the judge has not seen
        if first.get(round_, judge.later_rounds) == "vlm":
            num, waiting = num + waiting * total(plan.gallery_prompts), 0
    if plan.config.evaluation.judge == "vlm":
        num += sum(total(order.prompts) for order in plan.grading_orders(plan.evaluated()))
    return num


def num_questions_of(prompt: Prompt, aspects: Iterable[str]) -> int:
    """Different questions about one image of a prompt."""
    found = by_aspect(atoms_by_rule(prompt.text), [aspect for aspect in aspects if aspect in prompt.aspects])
    return len({question_of(atom) for atoms in found.values() for atom in atoms})


def check_budget(plan: Plan, *, is_whole: bool) -> None:
    """Log how many questions the run asks, and how many prompts say nothing that can be asked under some aspect.

    Args: is_whole: nothing of the run is taken over from another.
    Raises: ConfigError if judge.vlm.max_requests is certainly too small.
    """
    vlm, num = plan.config.judge.vlm, num_questions(plan)
    log.info("the vision-language model is asked about %d questions in all", num)
    for aspect in plan.config.prompts.aspects:
        about = [prompt for prompt in plan.gallery_prompts if aspect in prompt.aspects]
        silent = [prompt for prompt in about if not num_questions_of(prompt, [aspect])]
        if silent:
            log.warning(
                "%s: %d of %d gallery prompts state nothing that it can be asked, and are not judged, such as %r",
                aspect,
                len(silent),
                len(about),
                silent[0].text,
            )
    limit = vlm.max_requests
    if limit is None or num <= limit:
        return
    said = f"judge.vlm.max_requests is {limit}, and the run asks about {num} questions"
    if is_whole and vlm.atoms == "rule":
        raise ConfigError(
            f"{said}: raise it, or lower prompts.gallery, gallery.members or evaluation.images_per_aspect"
        )
    log.warning("%s", said)
