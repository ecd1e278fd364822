"""What a newcomer finds at the repository's root is whole."""

import re
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

from tests.test_layers import LAYERS

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def test_the_licence_of_every_requirement_is_named() -> None:
    named = (ROOT / "THIRD_PARTY.md").read_text(encoding="utf-8")
    extras = [line for lines in PROJECT["optional-dependencies"].values() for line in lines]
    required = {Requirement(line).name for line in [*PROJECT["dependencies"], *extras]}
    assert [name for name in sorted(required) if not re.search(rf"(?<![\w-]){re.escape(name)}(?![\w-])", named)] == []


def test_every_licence_file_in_the_packages_is_named() -> None:
    named = (ROOT / "THIRD_PARTY.md").read_text(encoding="utf-8")
    found = list((ROOT / "itercomp_rl").rglob("LICENSE*"))
    assert found
    assert [path for path in found if path.parent.relative_to(ROOT).as_posix() not in named] == []


@pytest.mark.parametrize("name", ["CITATION.cff", ".pre-commit-config.yaml"])
def test_root_files_are_yaml(name: str) -> None:
    assert isinstance(yaml.safe_load((ROOT / name).read_text(encoding="utf-8")), dict)


def test_the_citation_is_of_this_version() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert (citation["version"], citation["license"]) == (PROJECT["version"], PROJECT["license"])
    assert {"cff-version", "title", "message", "authors"} <= citation.keys()


def test_issue_forms_have_what_a_forge_needs() -> None:
    forms = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"))
    assert {form.stem for form in forms} >= {"bug", "idea", "result"}
    for form in forms:
        tree = yaml.safe_load(form.read_text(encoding="utf-8"))
        assert {"name", "description", "body"} <= tree.keys(), form
        ids = [part["id"] for part in tree["body"]]
        assert len(ids) == len(set(ids))


def test_hooks_run_programs_that_are_installed_for_development() -> None:
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))["repos"][0]["hooks"]
    wanted = {Requirement(line).name for line in PROJECT["optional-dependencies"]["dev"]}
    assert {hook["entry"].split()[0].removeprefix(".venv/bin/") for hook in hooks} <= wanted


def test_a_wheel_holds_every_folder_of_code() -> None:
    listed = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"])
    folders = {file.parent for layer in LAYERS for file in (ROOT / layer).rglob("*.py")}
    assert {".".join(folder.relative_to(ROOT).parts) for folder in folders} <= listed
