"""The report in a real browser: no errors, no failed request, nothing wider than a phone, no accessibility fault."""

import importlib.util
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, sync_playwright

from itercomp_rl.report.html import write_report
from tests.parts.report_of_a_run import HandMade

pytestmark = pytest.mark.slow

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("needs a browser: apt-get install chromium")
    with sync_playwright() as playwright:
        # A container often runs tests as root, where Chromium needs its sandbox off; the page is our own.
        with playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"]) as browser:
            yield browser


@pytest.fixture(scope="module")
def report(hand_made: HandMade, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report(hand_made.store, hand_made.plan, hand_made.folder, tmp_path_factory.mktemp("page") / "r.html")


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280], ids=["phone", "desktop"])
def test_the_report_is_sound_in_a_browser(browser: Browser, report: Path, theme: str, width: int) -> None:
    spec = importlib.util.find_spec("axe_playwright_python")
    assert spec is not None
    assert spec.origin
    axe = Path(spec.origin).with_name("axe.min.js").read_text(encoding="utf-8")
    complaints: list[str] = []
    context = browser.new_context(viewport={"width": width, "height": 844}, color_scheme=theme, offline=True)  # type: ignore[arg-type]
    tab = context.new_page()
    tab.on("console", lambda message: complaints.append(message.text))
    tab.on("pageerror", lambda error: complaints.append(str(error)))
    tab.on("requestfailed", lambda request: complaints.append(request.url))
    tab.goto(report.as_uri())
    assert complaints == []
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    assert tab.evaluate("[...document.images].every(i => i.complete && i.naturalWidth > 0)")
    background = tab.evaluate("getComputedStyle(document.body).backgroundColor")
    assert background == {"light": "rgb(255, 255, 255)", "dark": "rgb(20, 23, 27)"}[theme]
    tab.evaluate(axe)
    violations = tab.evaluate("axe.run()")["violations"]
    assert [(found["id"], [node["target"] for node in found["nodes"]]) for found in violations] == []
    context.close()
