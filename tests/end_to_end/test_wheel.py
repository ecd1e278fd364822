"""A wheel, installed in a fresh environment and used from another folder, has its configs, weights and template."""

import json
import os
import subprocess
import sys
import venv
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

ROOT = Path(__file__).resolve().parent.parent.parent


def output(*command: str | Path, cwd: Path) -> str:
    environment = {
        key: value for key, value in os.environ.items() if not key.startswith("RAY_") and key != "PYTHONPATH"
    }
    found = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False, timeout=800)
    assert found.returncode == 0, found.stdout[-2000:] + found.stderr[-3000:]
    return found.stdout


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a fresh environment in which the wheel is installed and its dependencies are seen through a .pth file."""
    folder = tmp_path_factory.mktemp("wheel")
    output(
        *(sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-q", "-w", folder, ROOT),
        cwd=folder,
    )
    (wheel,) = folder.glob("itercomp_rl-*.whl")
    venv.create(folder / "env", with_pip=False)
    python = folder / "env" / "bin" / "python"
    pip = (sys.executable, "-m", "pip", f"--python={python}")
    output(*pip, "install", "-q", "--no-deps", "--no-index", wheel, cwd=folder)
    purelib = Path(output(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=folder).strip())
    # Its entries come after the environment's own packages, and .pth files in them (an editable install) are not read.
    seen = [path for path in sys.path if path.endswith("site-packages")]
    (purelib / "dependencies.pth").write_text("\n".join(seen) + "\n")
    return python


def test_the_wheel_brings_its_configs_and_weights(python: Path, tmp_path: Path) -> None:
    code = (
        "import itercomp_rl, json; from itercomp_rl.config.load import load_config, preset; "
        "from itercomp_rl.files.checkpoint_path import checkpoint_path; load_config('quickstart'); "
        "print(json.dumps([itercomp_rl.__file__, str(preset('base')), checkpoint_path('embedded:base')]))"
    )
    places = json.loads(output(python, "-c", code, cwd=tmp_path))
    assert [place for place in places if not place.startswith(str(python.parent.parent))] == []
    prompts = (
        "from itercomp_rl.prompt_sets.compbench import BENCHMARK, read_split; "
        "print(len(read_split('train')), len(read_split('test')), (BENCHMARK / 'LICENSE.txt').is_file())"
    )
    assert output(python, "-c", prompts, cwd=tmp_path).split() == ["5594", "2400", "True"]
    findings = json.loads(output(python.parent / "itercomp", "doctor", "--json", cwd=tmp_path))
    assert [finding for finding in findings if finding["state"] == "missing"] == []


def test_a_run_from_the_wheel_ends_with_its_report(python: Path, tmp_path: Path) -> None:
    printed = output(python.parent / "itercomp", "run", "tiny", cwd=tmp_path)
    assert printed.splitlines()[-1] == f"report:  {tmp_path / 'runs' / 'tiny' / 'report.html'}"
    assert "Scores on held-out prompts" in (tmp_path / "runs" / "tiny" / "report.html").read_text(encoding="utf-8")
