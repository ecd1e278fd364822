"""How much a run will ask is known before it starts."""

from pathlib import Path

import pytest

from itercomp_rl.config.load import load_config
from itercomp_rl.errors import ConfigError
from itercomp_rl.items import Prompt
from itercomp_rl.judges.vlm.preflight import check_budget, num_questions, num_questions_of
from itercomp_rl.plan import Plan

VLM = ("judge.vlm.model=m", "judge.vlm.url=http://localhost:1/v1")


def plan(folder: Path, *overrides: str) -> Plan:
    # Two rounds of three founders, and the first round's policy, which joins in the second.
    return Plan(config=load_config("tiny", [f"run.dir={folder}", "prompts.gallery=30", *VLM, *overrides]))


def of_gallery(plan: Plan) -> int:
    return sum(num_questions_of(prompt, plan.config.prompts.aspects) for prompt in plan.gallery_prompts)


def test_every_image_of_the_gallery_is_asked_about_once(tmp_path: Path) -> None:
    first = plan(tmp_path, "judge.first_round=vlm")
    both = plan(tmp_path, "judge.first_round=vlm", "judge.later_rounds=vlm")
    later = plan(tmp_path, "judge.later_rounds=vlm")
    none = plan(tmp_path)
    assert num_questions(none) == 0
    assert num_questions(first) == 3 * of_gallery(first)
    assert num_questions(both) == num_questions(later) == 4 * of_gallery(both)


def test_images_that_two_models_share_count_once_in_evaluation(tmp_path: Path) -> None:
    found = plan(tmp_path, "evaluation.judge=vlm", "evaluation.seen_images_per_aspect=0")
    orders = found.grading_orders(found.evaluated())
    aspects = found.config.prompts.aspects
    assert num_questions(found) == sum(num_questions_of(p, aspects) for order in orders for p in order.prompts)


def test_questions_of_an_aspect_that_a_prompt_is_not_about_do_not_count() -> None:
    prompt = Prompt(id="p", text="a red cup left of a dog", aspects=("spatial",))
    assert num_questions_of(prompt, ("attribute", "spatial")) == 1
    assert num_questions_of(prompt, ("attribute",)) == 0


def test_a_budget_that_is_certainly_too_small_is_refused_with_the_number(tmp_path: Path) -> None:
    small = plan(tmp_path, "judge.first_round=vlm", "judge.vlm.max_requests=10")
    with pytest.raises(
        ConfigError, match=f"judge.vlm.max_requests is 10, and the run asks about {num_questions(small)} "
    ):
        check_budget(small, is_whole=True)


def test_it_is_a_warning_where_work_of_another_run_may_spare_questions(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    check_budget(plan(tmp_path, "judge.first_round=vlm", "judge.vlm.max_requests=10"), is_whole=False)
    assert "judge.vlm.max_requests is 10" in caplog.text


def test_prompts_that_state_nothing_of_an_aspect_are_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name, texts in (("train", ["a cup", "a red cup left of a dog"]), ("test", ["a hat"])):
        (tmp_path / f"{name}.txt").write_text("\n".join(texts))
    files = [f"prompts.{name}_file={tmp_path / name}.txt" for name in ("train", "test")]
    counts = ["prompts.source=files", "prompts.gallery=2", "prompts.policy=2", "prompts.aspects=[spatial]"]
    judges = ["judge.first_round=vlm", "evaluation.judge=reward", "evaluation.allow_self_grading=true"]
    check_budget(plan(tmp_path, *judges, *files, *counts), is_whole=True)
    assert (
        "spatial: 1 of 2 gallery prompts state nothing that it can be asked, and are not judged, such as 'a cup'"
        in (caplog.text)
    )
