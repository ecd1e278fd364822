"""The command line: help is quick, mistakes end in one line and their own exit code, before anything starts."""

import errno
import os
import resource
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from cluster.main import EXIT_CODES, main, way_out
from itercomp_rl import errors


def invoke(*arguments: str) -> tuple[int, str]:
    found = CliRunner().invoke(main, list(arguments))
    return found.exit_code, found.output


def every_command(command: click.Command = main, path: tuple[str, ...] = ()) -> dict[tuple[str, ...], click.Command]:
    """The program's commands by the words that call them, groups included."""
    found = {path: command}
    if isinstance(command, click.Group):
        for name, part in command.commands.items():
            found |= every_command(part, (*path, name))
    return found


def test_no_help_imports_torch_or_ray() -> None:
    paths = [list(path) for path in every_command()]
    code = (
        "import sys; from click.testing import CliRunner; from cluster.main import main\n"
        f"for path in {paths!r}:\n"
        "    found = CliRunner().invoke(main, [*path, '--help'])\n"
        "    assert found.exit_code == 0 and found.output.startswith('Usage: '), (path, found.output)\n"
        "    heavy = [m for m in ('torch', 'ray', 'diffusers', 'zarr', 'numpy') if m in sys.modules]\n"
        "    assert not heavy, (path, heavy)"
    )
    found = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert found.returncode == 0, found.stderr


@pytest.mark.parametrize("path", [(), ("run",), ("store", "trace"), ("evaluate", "t2i-compbench")])
def test_help_costs_less_than_half_a_second_of_processor_time(path: tuple[str, ...]) -> None:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-m", "cluster.main", *path, "--help"], check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 0.5


def test_every_command_has_a_short_line_that_is_not_cut_and_begins_with_what_it_does() -> None:
    for path, command in every_command().items():
        if path:
            line = command.get_short_help_str(limit=62)  # what a terminal of 80 columns has room for
            assert line.endswith(".") and not line.endswith("..."), (path, line)
            assert line[0].isupper() and not line.startswith(("The ", "A ", "What ", "How ", "Where ")), (path, line)


def test_every_run_argument_is_completed() -> None:
    for path, command in every_command().items():
        for parameter in command.params:
            if isinstance(parameter, click.Argument) and str(parameter.metavar).startswith("RUN"):
                assert parameter._custom_shell_complete is not None, (path, parameter.name)


def test_every_exit_code_is_documented_in_the_help_and_belongs_to_an_error() -> None:
    _, output = invoke("--help")
    assert all(f"\n    {code}  " in output.partition("Exit codes")[2] for code in [0, 1, *EXIT_CODES.values()])
    assert all(issubclass(getattr(errors, name), errors.IterCompError) for name in EXIT_CODES)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts_name_the_program(shell: str) -> None:
    code, output = invoke("completion", shell)
    assert code == 0
    assert "_ITERCOMP_COMPLETE" in output


def test_completion_offers_configs_and_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "runs" / "mine").mkdir(parents=True)
    (tmp_path / "runs" / "mine" / "config.yaml").touch()
    monkeypatch.chdir(tmp_path)
    assert "quickstart" in completions("itercomp run qu", 2)
    assert "mine" in completions("itercomp report mi", 2)


def completions(words: str, place: int) -> str:
    return (
        CliRunner()
        .invoke(
            main,
            prog_name="itercomp",
            env={"_ITERCOMP_COMPLETE": "bash_complete", "COMP_WORDS": words, "COMP_CWORD": str(place)},
        )
        .output
    )


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
        (["report", "no-such-run"], 2, "is no run"),
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
    code = (
        "import sys; from click.testing import CliRunner; from cluster.main import main; "
        "found = CliRunner().invoke(main, ['run', 'quickstart', 'policy.mid_high=99']); print(found.output); "
        "sys.exit(found.exit_code if not {'torch', 'ray'} & set(sys.modules) else 99)"
    )
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert (found.returncode, "policy.mid_low..mid_high" in found.stdout) == (2, True), found.stdout + found.stderr
    assert (
        after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 2
    )  # of processor: the machine is shared


def test_what_a_terminal_cannot_show_ends_no_command_in_an_error() -> None:
    code = (
        "from cluster.main import main; import click\n"
        "main.add_command(click.Command('x', callback=lambda: click.echo('│ ± 模')))\n"
        "main(['x'])"
    )
    found = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONIOENCODING": "latin-1"},
        check=False,
        capture_output=True,
    )
    assert (found.returncode, found.stdout) == (0, "? ± ?\n".encode("latin-1")), found.stderr


@pytest.mark.parametrize(
    ("path", "number", "reason"),
    [
        ("{home}/.ray/auth_token", errno.EROFS, "set HOME to a folder"),
        ("{home}/.cache/huggingface", errno.EACCES, "set HOME to a folder"),
        ("{home}/runs/x", errno.EROFS, "mount it for writing"),
        ("/somewhere/x.png", errno.ENOENT, "make it first"),
        ("{tmp}/x", errno.EROFS, "set TMPDIR to a folder"),
    ],
)
def test_the_way_out_of_a_systems_error_depends_on_whose_path_it_names(
    path: str, number: int, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.setenv("TMPDIR", "/scratch/me")
    error = OSError(number, os.strerror(number), path.format(home="/home/me", tmp="/scratch/me"))
    assert reason in str(way_out(error))
