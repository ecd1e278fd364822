"""The ranking page in a real browser: a session by keyboard alone, drag and drop, no errors, accessible."""

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from aiohttp import web

from cluster.rank_page import make_app
from itercomp_rl.config.load import load_config
from itercomp_rl.items import RankOrder, RewardOrder, RewardReport
from itercomp_rl.ranking import people
from itercomp_rl.ranking.page.session import Session, load_tasks
from itercomp_rl.ranking.records import rankings_attrs
from itercomp_rl.store import weights
from itercomp_rl.store.store import Store
from learners.reward import RewardLearner
from tests.parts.browser import chromium
from tests.parts.rank_store import make_rank_store

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def browser() -> Iterator:
    with chromium() as found:
        yield found


@pytest.fixture
def served() -> Iterator[tuple[Store, str]]:
    """A fresh store and the address of its page."""
    store, _ = make_rank_store()
    loop, ready, address = asyncio.new_event_loop(), threading.Event(), []

    async def start() -> None:
        runner = web.AppRunner(make_app(store, Session(store, load_tasks(store)), None))
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        address.append(f"http://127.0.0.1:{runner.addresses[0][1]}/")
        ready.set()

    def run() -> None:
        loop.run_until_complete(start())
        loop.run_forever()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    assert ready.wait(20)
    yield store, address[0]
    loop.call_soon_threadsafe(loop.stop)
    thread.join()


class Visit:
    """One person's page; everything that the browser complains about is collected."""

    def __init__(self, browser, address: str, **look) -> None:
        self.complaints: list[str] = []
        self.page = browser.new_context(**look).new_page()
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.goto(address)

    def begin(self, name: str) -> None:
        self.page.keyboard.type(name)
        self.page.keyboard.press("Enter")
        self.page.wait_for_selector("#task:not([hidden]) .card img")

    def order(self) -> str:
        """Letters of the images, best first."""
        return "".join(self.page.locator(".place span:last-child").all_text_contents())

    def press(self, *keys: str) -> None:
        for key in keys:
            self.page.keyboard.press(key)

    def answered(self, num: int) -> None:
        self.told(f": {num} ranked")

    def told(self, progress: str) -> None:
        self.page.locator("#progress", has_text=progress).wait_for()


def test_a_whole_session_by_keyboard_lands_in_the_store_and_trains_a_reward_model(
    browser, served: tuple[Store, str]
) -> None:
    store, address = served
    visit = Visit(browser, address)
    visit.begin("Ann")
    total = len(load_tasks(store))
    for done in range(total):
        visit.press("Tab", "3")  # the first image becomes the last
        assert visit.order() == "BCA"
        visit.press("ArrowLeft")
        assert visit.order() == "BAC"
        visit.press("t")
        assert visit.page.locator("li.tied").count() == 1
        visit.press("Enter")
        visit.answered(done + 1)
    visit.page.wait_for_selector("#done:not([hidden])")
    said = people.load(store)
    session = Session(store, load_tasks(store))
    assert len(said) == total
    for one in said:
        slots = session.slots("Ann", session.task(f"{one.prompt.id}-{one.aspect}"))
        assert one.places == ((slots[1], slots[0]), (slots[2],))
    assert visit.complaints == []
    report = trained(store)
    assert report.num_pairs >= 2
    assert weights.versions(store, "reward-attribute") == [0]


def trained(store: Store) -> RewardReport:
    """What the attribute's reward learner publishes after two updates on what people said; no judge said anything."""
    prompts = list({said.prompt.id: said.prompt for said in people.load(store)}.values())
    images = tuple(next(said.images for said in people.load(store) if said.prompt == prompt) for prompt in prompts)
    order = RankOrder(id="r000-00000", round=0, prompts=tuple(prompts), images=images)
    store.put("rankings", order.id, {}, rankings_attrs(order, [{}] * len(prompts)))
    config = load_config("tiny", ["reward.batch=4"])
    learner = RewardLearner(store, config.reward, config.judge, Path("/nonexistent"), 0, torch.device("cpu"))
    learner.open(RewardOrder(aspect="attribute", round=0, version=0, start_version=None, rankings=(order.id,)))
    assert learner.advance(2)["loss"] > 0
    return learner.publish()


def test_skip_undo_and_coming_back(browser, served: tuple[Store, str]) -> None:
    store, address = served
    visit = Visit(browser, address)
    visit.begin("Bob")
    first = visit.page.text_content("#prompt")
    visit.press("s")
    visit.told("1 skipped")
    visit.press("u")
    visit.told("0 skipped")
    assert visit.page.text_content("#prompt") == first
    visit.press("Enter")
    visit.answered(1)
    again = Visit(browser, address)
    again.begin("Bob")
    again.answered(1)
    assert [said.act for said in people.load(store)] == ["ranked"]
    assert visit.complaints == again.complaints == []


def test_images_can_be_dragged_and_moved_by_buttons(browser, served: tuple[Store, str]) -> None:
    visit = Visit(browser, served[1])
    visit.begin("Eve")
    visit.page.drag_and_drop("#images li:nth-child(3) .card", "#images li:nth-child(1)")
    assert visit.order() == "CAB"
    visit.page.click("#images li:nth-child(2) .card")
    visit.page.click("#later")
    assert visit.order() == "CBA"
    visit.page.click("#tie")
    assert visit.page.locator("li.tied").count() == 1
    assert visit.complaints == []


def test_two_people_see_their_agreement(browser, served: tuple[Store, str]) -> None:
    for name in ("Ann", "Bob"):
        visit = Visit(browser, served[1])
        visit.begin(name)
        visit.press("Enter")
        visit.answered(1)
    assert "Ann and Bob" in (visit.page.text_content("#agreement") or "")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1200, 380])
def test_every_state_is_accessible_and_fits(
    scheme: str, width: int, browser, served: tuple[Store, str], tmp_path: Path
) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="needs axe-playwright-python").Axe()
    store, address = served
    look = {"color_scheme": scheme, "viewport": {"width": width, "height": 800}}
    other = Visit(browser, address, **look)
    other.begin("Other")
    other.press("Enter")
    other.answered(1)
    visit = Visit(browser, address, **look)

    def check(name: str) -> None:
        visit.page.screenshot(path=tmp_path / f"{name}-{scheme}-{width}.png", full_page=True)
        found = axe.run(visit.page)
        assert found.violations_count == 0, found.generate_report()
        assert visit.page.evaluate("document.documentElement.scrollWidth <= innerWidth"), name

    check("name")
    visit.begin("Ann")
    visit.press("Tab", "Tab", "t")
    check("task")
    for done in range(len(load_tasks(store))):
        visit.press("Enter")
        visit.answered(done + 1)
    check("done")
