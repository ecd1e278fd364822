"""The documentation is built without a warning, its commands run, and the errors it explains are those of the code."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
FENCE = re.compile(r"(?:<!-- (not run|needs): (.+?) -->\n)?```(sh|yaml)\n(.*?)```", re.DOTALL)
RAY = "Token authentication is enabled for this Ray cluster"  # Ray's own words


def commands(page: str) -> list[str]:
    """Shell lines of a page that a test can run; YAML that begins with a file's name is written as that file."""
    found = []
    for mark, _, language, body in FENCE.findall((DOCS / page).read_text(encoding="utf-8")):
        if language == "yaml" and body.startswith("# "):
            name, _, content = body.partition("\n")
            found.append(f"cat > {name[2:]} <<'END'\n{content}END")
        elif language == "sh" and mark != "not run":
            found.append(body)
    return found


def run(script: list[str], folder: Path) -> str:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"
    whole = "set -eu\n" + "\n".join(script)
    found = subprocess.run(
        ["bash", "-c", whole], cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=900
    )
    assert found.returncode == 0, found.stdout[-3000:] + found.stderr[-3000:]
    return found.stdout


@pytest.mark.slow
@pytest.mark.timeout(1000)
def test_the_commands_of_tour_and_report_page_do_what_they_say(tmp_path: Path) -> None:
    output = run([*commands("tour.md"), *commands("report.md")], tmp_path)
    assert (tmp_path / "circle.png").exists()
    assert (tmp_path / "runs" / "tiny" / "report.html").exists()
    assert "report:  " in output


@pytest.mark.slow
def test_the_gallery_model_of_the_page_joins_in_the_second_round(tmp_path: Path) -> None:
    assert run(commands("extend.md"), tmp_path).strip() == "['generalist', 'policy-0']"


@pytest.mark.slow
def test_the_site_is_built_without_a_warning_and_asks_nobody_for_anything(tmp_path: Path) -> None:
    if shutil.which("mkdocs", path=str(Path(sys.executable).parent)) is None and not _has_mkdocs():
        pytest.skip("needs mkdocs: pip install -e '.[docs]'")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}  # the theme's notice about another project's plans
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, env=environment)
    assert found.returncode == 0, found.stderr
    assert "WARNING" not in found.stderr
    page = (tmp_path / "algorithm" / "index.html").read_text(encoding="utf-8")
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
    assert [heading for heading in headings if heading not in text and heading != RAY] == []


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
