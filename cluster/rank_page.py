"""The ranking page as a small web server: loopback by default, behind a token where others can reach it."""

import asyncio
import functools
import ipaddress
import secrets
import socket
from importlib import resources
from io import BytesIO
from pathlib import Path
from typing import Any
from urllib.parse import quote

import click
from aiohttp import web
from aiohttp.typedefs import Handler, Middleware
from PIL import Image

from itercomp_rl.errors import ConfigError
from itercomp_rl.items import ASPECTS
from itercomp_rl.ranking.page.export import export, judge_said, people_said
from itercomp_rl.ranking.page.session import QUESTIONS, Session, checked_name, load_tasks
from itercomp_rl.store.images import ImageReader
from itercomp_rl.store.store import Store

STATIC = {
    "/": ("page.html", "text/html"),
    "/page.css": ("page.css", "text/css"),
    "/page.js": ("page.js", "text/javascript"),
}
# Nothing from elsewhere may run or be shown here, and nobody may frame the page.
HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' data:; frame-ancestors 'none'; base-uri 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def check_address(host: str, port: int) -> None:
    """Raises: ConfigError if no server can listen at the address: no such host, not of this machine, or taken."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the server does
            probe.bind(address)
    except (OSError, UnicodeError) as error:
        raise ConfigError(
            f"--host is {host!r} and --port {port}, where no page can be served ({error}): give an address of this "
            "machine, such as 127.0.0.1 or 0.0.0.0, and a free port above 1023"
        ) from error


def serve(store: Store, session: Session, *, host: str, port: int) -> None:
    """Serve until interrupted; prints the address, with a fresh token in it if others can reach it."""
    token = None if is_loopback(host) else secrets.token_urlsafe(24)

    def told(*_: object) -> None:
        click.echo(f"ranking page: http://{host}:{port}/{f'?token={token}' if token else ''}  (Ctrl-C ends it)")

    web.run_app(make_app(store, session, token), host=host, port=port, print=told)


def make_app(store: Store, session: Session, token: str | None) -> web.Application:
    """The page's application; with a token, every request must bring it once and then its cookie."""
    page = _Page(store, session)
    app = web.Application(middlewares=[_guard(token)], client_max_size=64 * 1024)
    for path in STATIC:
        app.router.add_get(path, page.static)
    app.router.add_get("/image/{task}/{slot}/{rater}", page.image)
    for name in ("next", "rank", "skip", "undo"):
        app.router.add_post(f"/api/{name}", functools.partial(page.api, name))
    return app


def _is_same(given: str, token: str) -> bool:
    return secrets.compare_digest(given.encode(), token.encode())  # of texts it takes ASCII alone


def _guard(token: str | None) -> Middleware:
    @web.middleware
    async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
        if token is None:
            # A foreign page that has its own name resolve to this machine must not speak to it.
            if not is_loopback(request.url.host or ""):
                raise web.HTTPForbidden(text="open this page by its loopback address")
        elif _is_same(request.query.get("token", ""), token):
            entrance = web.HTTPFound("/")
            entrance.set_cookie("token", token, httponly=True, samesite="Strict")
            raise entrance
        elif not _is_same(request.cookies.get("token", ""), token):
            raise web.HTTPForbidden(text="this page needs the address with ?token= that itercomp rank printed")
        answer = await handler(request)
        answer.headers.update(HEADERS)
        return answer

    return guard


class _Page:
    """Turns requests into calls of the session, one at a time, off the event loop."""

    def __init__(self, store: Store, session: Session) -> None:
        self._session, self._images = session, ImageReader(store)
        self._one = asyncio.Lock()

    async def static(self, request: web.Request) -> web.StreamResponse:
        name, kind = STATIC[request.path]
        file = resources.files("itercomp_rl.ranking.page") / name
        return web.Response(text=file.read_text(encoding="utf-8"), content_type=kind)

    async def image(self, request: web.Request) -> web.StreamResponse:
        found = request.match_info
        async with self._one:
            try:
                task = self._session.task(found["task"])
                model = self._session.slots(found["rater"], task)[int(found["slot"])]
            except (ValueError, IndexError) as error:
                raise web.HTTPNotFound(text="no such image") from error
            pixels = (await asyncio.to_thread(self._images.load, [task.images[model]]))[0]
        file = BytesIO()
        Image.fromarray(pixels).save(file, "png")
        return web.Response(
            body=file.getvalue(), content_type="image/png", headers={"Cache-Control": "private, max-age=3600"}
        )

    async def api(self, act: str, request: web.Request) -> web.StreamResponse:
        try:
            if request.content_type != "application/json":  # what a form of another site could not send
                raise ValueError("send JSON")
            body = await request.json()
            if not isinstance(body, dict):
                raise ValueError("send a JSON object")
            async with self._one:
                return web.json_response(await asyncio.to_thread(self._act, act, body))
        except (ValueError, TypeError) as error:
            return web.json_response({"error": str(error)}, status=400)

    def _act(self, act: str, body: dict[str, Any]) -> dict[str, Any]:  # Any: JSON
        session, rater = self._session, checked_name(body.get("rater"))
        if act == "rank":
            session.rank(rater, str(body.get("task")), body.get("places") or [])
        elif act == "skip":
            session.skip(rater, str(body.get("task")))
        elif act == "undo" and not session.undo(rater):
            raise ValueError("there is nothing to undo")
        task = session.next_task(rater)
        told = task and {
            "id": task.id,
            "prompt": task.prompt.text,
            "question": QUESTIONS[task.aspect],
            "images": [f"image/{task.id}/{slot}/{quote(rater, safe='')}" for slot in range(len(task.images))],
        }
        return {"task": told, "progress": session.progress(rater), "agreement": session.agreement()}


def serve_page(store: Store, aspects: list[str], *, host: str, port: int) -> None:
    """Serve the page until interrupted. Raises: ConfigError for an unknown aspect or a store without images."""
    for aspect in aspects:
        if aspect not in ASPECTS:
            raise ConfigError(f"--aspect is {aspect!r}: must be one of {', '.join(ASPECTS)}")
    serve(store, Session(store, load_tasks(store, aspects or ASPECTS)), host=host, port=port)


def export_ranks(store: Store, folder: Path, origin: str) -> dict[str, tuple[int, int]]:
    """Write rankings of people or of the judge to a new folder; counts per aspect as `export` gives them."""
    return export(store, people_said(store) if origin == "people" else judge_said(store), folder)
