"""The prompts that a run began with: its store knows them when the files have changed."""

from pathlib import Path

import pytest

from itercomp_rl.config.load import load_config
from itercomp_rl.errors import ConfigError
from itercomp_rl.plan import Plan
from itercomp_rl.run.prompts_record import put_prompts, trained_texts
from itercomp_rl.store.store import open_store
from tests.parts.small_run import small_run


def test_a_run_has_learned_from_the_prompts_that_it_ranked_and_rolled(tmp_path: Path) -> None:
    config, store = small_run(tmp_path)
    plan = Plan(config=config)
    ranked = {prompt.text for prompt in plan.gallery_prompts}
    assert trained_texts(store) == ranked
    put_prompts(store, plan)
    assert trained_texts(store) == ranked | set(plan.rolled_prompts)


def test_a_run_does_not_go_on_with_other_prompts_of_its_policy(tmp_path: Path) -> None:
    files = {name: tmp_path / f"{name}.txt" for name in ("train", "policy", "test")}
    for name, file in files.items():
        file.write_text("".join(f"a {name} prompt {i}\n" for i in range(4)))
    overrides = [f"prompts.{name}_file={file}" for name, file in files.items()]
    judges = ("judge.first_round=reward", "evaluation.judge=reward", "evaluation.allow_self_grading=true")
    overrides += ["prompts.source=files", "prompts.gallery=4", "prompts.policy=4", *judges]
    store = open_store("memory://", create=True)
    put_prompts(store, Plan(config=load_config("tiny", overrides)))
    put_prompts(store, Plan(config=load_config("tiny", overrides)))
    files["policy"].write_text("".join(f"another prompt {i}\n" for i in range(4)))
    with pytest.raises(
        ConfigError, match="prompts.policy_file .* no longer gives the prompts that this run began with"
    ):
        put_prompts(store, Plan(config=load_config("tiny", overrides)))
