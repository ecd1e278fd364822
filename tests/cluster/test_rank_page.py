"""The ranking page's server: answers, refusals, and who may reach it."""

import asyncio
from collections.abc import Awaitable, Callable
from io import BytesIO

import pytest
from aiohttp import CookieJar
from aiohttp.test_utils import TestClient, TestServer
from PIL import Image

from cluster.rank_page import is_loopback, make_app
from itercomp_rl.ranking import people
from itercomp_rl.ranking.page.session import Session, load_tasks
from tests.parts.rank_store import MODELS, make_rank_store


def visit(script: Callable[[TestClient], Awaitable[None]], token: str | None = None):
    """Runs `script` against a fresh server; returns its store."""
    store, _ = make_rank_store()

    async def run() -> None:
        server = TestServer(make_app(store, Session(store, load_tasks(store)), token))
        async with TestClient(server, cookie_jar=CookieJar(unsafe=True)) as client:
            await script(client)

    asyncio.run(run())
    return store


def test_ranking_over_http_lands_in_the_store_and_images_do_not_say_whose_they_are() -> None:
    async def script(client: TestClient) -> None:
        state = await (await client.post("/api/next", json={"rater": "ann"})).json()
        task = state["task"]
        assert not any(model in image for image in task["images"] for model in MODELS)
        answer = await client.get(f"/{task['images'][0]}")
        with Image.open(BytesIO(await answer.read())) as image:
            assert image.format == "PNG"
        body = {"rater": "ann", "task": task["id"], "places": [[2], [0, 1]]}
        after = await (await client.post("/api/rank", json=body)).json()
        assert after["progress"]["ranked"] == 1
        assert after["task"]["id"] != task["id"]

    (said,) = people.load(visit(script))
    assert (said.rater, [len(place) for place in said.places]) == ("ann", [1, 2])


@pytest.mark.parametrize(
    ("path", "body", "reason"),
    [
        ("next", {"rater": ""}, "printable"),
        ("next", ["ann"], "JSON object"),
        ("rank", {"rater": "ann", "task": "none", "places": []}, "no task"),
        ("rank", {"rater": "ann", "task": "none", "places": 7}, "no task"),
        ("undo", {"rater": "ann"}, "nothing to undo"),
    ],
)
def test_a_bad_request_gets_its_reason(path: str, body: object, reason: str) -> None:
    async def script(client: TestClient) -> None:
        answer = await client.post(f"/api/{path}", json=body)
        assert answer.status == 400
        assert reason in (await answer.json())["error"]

    visit(script)


def test_malformed_places_and_forms_are_refused() -> None:
    async def script(client: TestClient) -> None:
        task = (await (await client.post("/api/next", json={"rater": "ann"})).json())["task"]["id"]
        for places in ([["x"], [1], [2]], [1, 2, 0], {"0": 1}, "012"):
            body = {"rater": "ann", "task": task, "places": places}
            assert (await client.post("/api/rank", json=body)).status == 400, places
        assert (await client.post("/api/next", data={"rater": "ann"})).status == 400
        assert (await client.get(f"/image/{task}/99/ann")).status == 404
        assert (await client.get("/image/none/0/ann")).status == 404

    assert people.load(visit(script)) == []


def test_the_page_forbids_scripts_of_others() -> None:
    async def script(client: TestClient) -> None:
        for path in ("/", "/page.css", "/page.js"):
            answer = await client.get(path)
            assert answer.status == 200
            assert "default-src 'self'" in answer.headers["Content-Security-Policy"]

    visit(script)


def test_with_a_token_only_its_bearer_comes_in() -> None:
    async def script(client: TestClient) -> None:
        assert (await client.get("/")).status == 403
        assert (await client.post("/api/next", json={"rater": "ann"})).status == 403
        assert (await client.get("/?token=wrong")).status == 403
        assert (await client.get("/?token=secret")).status == 200
        assert (await client.post("/api/next", json={"rater": "ann"})).status == 200

    visit(script, token="secret")


def test_on_loopback_another_host_name_is_refused() -> None:
    async def script(client: TestClient) -> None:
        assert (await client.get("/", headers={"Host": "evil.example"})).status == 403

    visit(script)


@pytest.mark.parametrize(
    ("host", "loopback"),
    [("127.0.0.1", True), ("localhost", True), ("::1", True), ("0.0.0.0", False), ("10.0.0.5", False), ("box", False)],
)
def test_loopback_addresses_are_known(host: str, loopback: bool) -> None:
    assert is_loopback(host) is loopback
