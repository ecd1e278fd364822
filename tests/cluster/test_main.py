"""The command line: help is quick, mistakes end in one line and their own exit code, before anything starts."""

import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from cluster.main import main


def invoke(*arguments: str) -> tuple[int, str]:
    found = CliRunner().invoke(main, list(arguments))
    return found.exit_code, found.output


def test_help_names_the_commands_and_imports_neither_torch_nor_ray() -> None:
    code = (
        "import sys; from click.testing import CliRunner; from cluster.main import main; "
        "out = CliRunner().invoke(main, ['--help']).output; assert 'evaluate' in out and 'generate' in out, out; "
        "sys.exit(any(m in sys.modules for m in ('torch', 'ray', 'diffusers')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("arguments", "code", "reason"),
    [
        (["run", "quickstart", "policy.updatez=3"], 2, "did you mean policy.updates"),
        (["run", "quickstart", "policy.updates=-3"], 2, "policy.updates is -3"),
        (["run", "nowhere.yaml"], 2, "does not exist"),
        (["run", "quickstart", "policy.model=/no/such/folder"], 3, "/no/such/folder"),
        (["run", "quickstart", "gallery.members.base.model=embedded:none"], 3, "not shipped"),
        (["run", "quickstart", "gallery.members.base.system=rpg"], 2, "gallery.members.base.planner is None"),
        (["run", "quickstart", "prompts.gallery=100000"], 2, "lower the number"),
        (["run", "quickstart", "prompts.world.colours=[red,pink]"], 2, "'pink'"),
        (["evaluate", "no-such-run"], 2, "is no run"),
        (["generate", "a red circle", "--run", "no-such-run"], 2, "is no run"),
    ],
)
def test_a_mistake_ends_with_its_reason_and_exit_code(
    arguments: list[str], code: int, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    if arguments[0] == "run":
        arguments = [*arguments, f"run.dir={tmp_path}"]
    found, output = invoke(*arguments)
    assert (found, reason in output) == (code, True), output
    assert not any(tmp_path.iterdir()), "something was written"


def test_a_config_mistake_is_told_in_under_two_seconds() -> None:
    began = time.process_time()
    code = "from cluster.main import main; main(['run', 'quickstart', 'policy.mid_high=99'])"
    found = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", code], capture_output=True, text=True, check=False
    )
    assert found.returncode == 2
    assert " torch\n" not in found.stderr, "torch was imported before the config was checked"
    assert time.process_time() - began < 2
