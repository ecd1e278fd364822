"""The control of a run: the same run in which no preference is learned, to see what learned preferences add."""

from dataclasses import replace
from pathlib import Path

from cluster.launch import run
from cluster.run_folder import load_run
from itercomp_rl.config.schema import ALL, Config
from itercomp_rl.evaluation.scores import load_grades, preferences_add
from itercomp_rl.plan import Plan
from itercomp_rl.report.html import write_report
from itercomp_rl.report.results import write_control


def control_of(config: Config) -> Config:
    """The same run under the name <name>-control, whose reward models make no update and are climbed as they are."""
    return replace(
        config,
        run=replace(config.run, name=f"{config.run.name}-control"),
        reward=replace(config.reward, updates=0, min_accuracy=0.0, rankings_first=ALL),
        policy=replace(config.policy, reward_updates_first=ALL),
        # A trunk that knows too little may well lead the policy astray: that is what the control is to show.
        evaluation=replace(config.evaluation, max_drop=None),
    )


def run_control(folder: Path, *, address: str | None = None) -> Path:
    """Run the control of the finished run in `folder`, and write what it reached beside that run's own results.

    The control takes over the images and rankings of the run, and goes on where an earlier attempt stopped.
    Returns: the control's folder. Raises: IterCompError as `launch.run` does.
    """
    config, store = load_run(folder)
    control = control_of(config)
    if not (control.run_folder / "results.json").exists():
        begun = (control.run_folder / "config.yaml").exists()
        run(control, resume=begun, address=address, reuse=None if begun else str(folder))
    control, control_store = load_run(control.run_folder)
    plan, control_plan = Plan(config=config), Plan(config=control)
    last = plan.policy(plan.rounds - 1)
    added = preferences_add(
        load_grades(store, plan, last), load_grades(control_store, control_plan, last), plan.config.prompts.aspects
    )
    write_control(folder, control.run_folder, added)
    write_report(store, plan, folder)
    return control.run_folder
