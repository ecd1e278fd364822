"""The documentation is built without a warning, its commands run or are checked, and the errors it explains exist."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import click
import pytest

from cluster.main import main
from itercomp_rl.config.load import load_config

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
FENCE = re.compile(r"(?:<!-- (not run|needs): (.+?) -->\n)?```(sh|yaml|python|diff)\n(.*?)```", re.DOTALL)
# Ray's own words
RAYS = ("Token authentication is enabled for this Ray cluster", "No available agent to submit job")
AFTER_TOUR = ("report.md", "tuning-ratios.md", "store.md", "judges.md")  # on the run that the tour makes
EXTEND = ("gallery-model", "policy-family", "judge", "aspect")
PACKAGES = ("actors", "cluster", "configs", "itercomp_rl", "learners", "tests")


def commands(page: str) -> list[str]:
    """What a reader does with a page, as shell lines: files named in their first line are written, diffs applied."""
    found = []
    for mark, _, language, body in FENCE.findall((DOCS / page).read_text(encoding="utf-8")):
        if mark == "not run":
            continue
        if language == "sh":
            found.append(body)
        elif language == "diff":
            found.append(f"git apply - <<'END'\n{body}END")
        elif body.startswith("# "):
            name, _, content = body.partition("\n")
            found.append(f"cat > {name[2:]} <<'FILE'\n{content}FILE")
    return found


def run(script: list[str], folder: Path, **extra: str) -> str:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")} | extra
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"
    whole = "set -eu\n" + "\n".join(script)
    found = subprocess.run(
        ["bash", "-c", whole], cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=900
    )
    assert found.returncode == 0, found.stdout[-3000:] + found.stderr[-3000:]
    return found.stdout


def source(folder: Path) -> dict[str, str]:
    """A copy of the checkout's code in a folder; the environment in which it is what Python imports."""
    for name in PACKAGES:
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("data", "__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", folder)
    return {"PYTHONPATH": str(folder), "GIT_CEILING_DIRECTORIES": str(folder.parent)}


@pytest.mark.slow
@pytest.mark.timeout(1000)
def test_the_commands_of_the_tour_and_what_follows_it_do_what_they_say(tmp_path: Path) -> None:
    output = run([line for page in ("tour.md", *AFTER_TOUR) for line in commands(page)], tmp_path)
    assert (tmp_path / "circle.png").exists()
    assert (tmp_path / "runs" / "tiny" / "report.html").exists()
    assert "report:  " in output
    assert any((tmp_path / "images").rglob("*.tar"))
    assert json.loads((tmp_path / "lineage.json").read_text())
    assert (tmp_path / "judged" / "all.csv").exists()


@pytest.mark.slow
def test_the_gallery_model_of_the_page_joins_in_the_second_round(tmp_path: Path) -> None:
    assert run(commands("extend/gallery-model.md"), tmp_path).strip() == "['generalist', 'policy-0']"


@pytest.mark.slow
def test_the_policy_family_of_the_page_draws_as_its_pipeline_and_learns(tmp_path: Path) -> None:
    output = run(commands("extend/policy-family.md"), tmp_path, **source(tmp_path))
    assert output.startswith("." * 10)


@pytest.mark.slow
@pytest.mark.timeout(1000)
def test_the_aspect_of_the_page_is_ranked_by_the_judge_of_the_page_and_learned(tmp_path: Path) -> None:
    script = [*commands("extend/judge.md"), *commands("extend/aspect.md")]
    output = run(script, tmp_path, **source(tmp_path))
    assert output.startswith(".")
    tree = json.loads((tmp_path / "runs" / "vivid" / "results.json").read_text())
    assert list(tree["aspects"]) == ["vivid"]
    assert tree["aspects"]["vivid"]["rounds"][0]["n"] >= 8
    assert "vivid" in (tmp_path / "runs" / "vivid" / "report.html").read_text(encoding="utf-8")


def test_every_page_with_commands_to_run_is_run() -> None:
    have = {page.relative_to(DOCS).as_posix() for page in pages() if commands(page.relative_to(DOCS).as_posix())}
    assert have == {"tour.md", *AFTER_TOUR, *(f"extend/{page}.md" for page in EXTEND)}


def test_every_command_that_is_written_anywhere_is_one_the_program_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, num in (("train", 10_000), ("test", 400)):
        (tmp_path / f"{name}.json").write_text(json.dumps([f"{name} prompt {i}" for i in range(num)]))
    monkeypatch.chdir(tmp_path)
    written = [(page.name, words) for page in (ROOT / "README.md", *pages()) for words in itercomp_lines(page)]
    assert len(written) > 40
    for page, words in written:
        try:
            taken = parsed(words)
        except click.UsageError as error:
            pytest.fail(f"{page}: itercomp {shlex.join(words)}: {error.format_message()}")
        config = taken.get("config")
        if config and not config.endswith(".yaml"):
            load_config(config, list(taken.get("overrides", ())))


def itercomp_lines(page: Path) -> list[list[str]]:
    """Arguments of every `itercomp` line in a page's blocks, and of its manifests' `python -m cluster.main`."""
    text = page.read_text(encoding="utf-8").replace("\\\n", " ")
    lines = re.findall(r"^ *(?:itercomp|python -m cluster\.main) (.+)$", text, re.MULTILINE)
    return [shlex.split(line, comments=True) for line in lines]


def parsed(words: list[str]) -> dict:
    """Parameters that the last command of a line gets; nothing is invoked."""
    command, context = main, main.make_context("itercomp", list(words))
    while isinstance(command, click.Group):
        name, command, rest = command.resolve_command(context, [*context._protected_args, *context.args])
        assert name and command
        context = command.make_context(name, rest, parent=context)
    return context.params


def test_every_make_target_that_is_written_anywhere_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    texts = [page.read_text(encoding="utf-8") for page in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *pages())]
    named = {name for text in texts for name in re.findall(r"(?:^ *|`)make ([a-z-]+)", text, re.MULTILINE)}
    assert {"install", "test", "quickstart"} <= named <= targets


def pages() -> list[Path]:
    return sorted(DOCS.rglob("*.md"))


def test_every_page_is_in_the_navigation() -> None:
    nav = (ROOT / "mkdocs.yml").read_text(encoding="utf-8").partition("\nnav:")[2]
    assert [page.name for page in pages() if page.relative_to(DOCS).as_posix() not in nav] == []


@pytest.mark.slow
def test_the_site_is_built_without_a_warning_and_asks_nobody_for_anything(tmp_path: Path) -> None:
    if shutil.which("mkdocs", path=str(Path(sys.executable).parent)) is None and not _has_mkdocs():
        pytest.skip("needs mkdocs: pip install -e '.[docs]'")
    shutil.copytree(DOCS, tmp_path / "docs")
    shutil.copy(ROOT / "mkdocs.yml", tmp_path)
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet"]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}  # the theme's notice about another project's plans
    found = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, env=environment)
    assert found.returncode == 0, found.stderr
    assert "WARNING" not in found.stderr
    page = (tmp_path / "site" / "algorithm" / "index.html").read_text(encoding="utf-8")
    assert "<math" in page
    assert "$$" not in page
    assert re.findall(r"<(?:script|link|img)[^>]+(?:src|href)=\"?https?://[^\s\">]+", page) == []


def _has_mkdocs() -> bool:
    return subprocess.run([sys.executable, "-c", "import material"], check=False, capture_output=True).returncode == 0


def test_every_error_that_is_explained_is_one_the_code_can_raise() -> None:
    headings = re.findall(r"^## (.+)$", (DOCS / "troubleshooting.md").read_text(encoding="utf-8"), re.MULTILINE)
    sources = "".join(
        path.read_text(encoding="utf-8")
        for layer in ("itercomp_rl", "learners", "actors", "cluster")
        for path in sorted((ROOT / layer).rglob("*.py"))
    )
    text = re.sub(r'"\s*\n\s*f?"', "", sources)  # strings that go on in the next line
    assert len(headings) > 8
    assert [heading for heading in headings if heading not in text and heading not in RAYS] == []


def test_settings_named_in_the_documentation_exist() -> None:
    base = (ROOT / "configs" / "base.yaml").read_text(encoding="utf-8")
    keys = {
        f"{section}.{key}"
        for section in ("judge", "reward", "policy", "tracking", "actors", "evaluation", "prompts")
        for key in re.findall(
            r"^  (\w+):", re.split(rf"^{section}:", base, flags=re.MULTILINE)[1].split("\n\n")[0], re.MULTILINE
        )
    }
    named = {
        name
        for page in DOCS.glob("*.md")
        for name in re.findall(
            r"`((?:judge|reward|policy|tracking|actors|evaluation|prompts)\.\w+)", page.read_text(encoding="utf-8")
        )
    }
    assert len(named) > 15
    assert named - keys == set()


def test_no_page_has_a_place_that_is_still_to_be_filled() -> None:
    pages = [ROOT / "README.md", *DOCS.rglob("*.md")]
    assert [str(page) for page in pages if re.search(r"@@\w+@@", page.read_text(encoding="utf-8"))] == []
