"""A small S3 on loopback that misbehaves as told: it throttles, loses answers, pages lists, overwrites."""

import re
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

import pytest

_TIME = "<LastModified>2026-01-01T00:00:00Z</LastModified>"
_OBJECT = "<Contents><Key>{}</Key><Size>{}</Size><ETag>x</ETag>" + _TIME + "</Contents>"


class SmallS3(ThreadingHTTPServer):
    """Objects in a dict, and the few S3 calls a store makes.

    Without `is_create_only_kept` If-None-Match is ignored. The next `throttled` requests are answered 503 SlowDown; the
    next `unheard` writes are done and then answered 500; a list has `page` keys at most; `requests` counts by method.
    """

    daemon_threads = True

    def __init__(self, *, is_create_only_kept: bool) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.objects: dict[str, bytes] = {}
        self.lock = threading.Lock()
        self.is_create_only_kept = is_create_only_kept
        self.throttled = self.unheard = 0
        self.page = 1000
        self.requests: Counter[str] = Counter()

    def takes(self, name: str) -> bool:
        """Whether one of the misdeeds that are left is due now."""
        with self.lock:
            left = getattr(self, name)
            setattr(self, name, max(0, left - 1))
            return left > 0


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # head and body in one packet: two wait for each other's acknowledgement
    server: SmallS3  # pyright: ignore[reportIncompatibleVariableOverride]

    def _answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), "ETag": '"x"', **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    @property
    def _key(self) -> str:
        return unquote(urlsplit(self.path).path).removeprefix("/bucket").lstrip("/")

    def _body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def _is_throttled(self) -> bool:
        self.server.requests[self.command] += 1
        if not self.server.takes("throttled"):
            return False
        self._body()
        self._answer(503, b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>")
        return True

    def do_PUT(self) -> None:
        if self._is_throttled():
            return
        body = self._body()
        is_create = self.headers.get("If-None-Match") == "*" and self.server.is_create_only_kept
        with self.server.lock:
            is_refused = is_create and self._key in self.server.objects
            if not is_refused:
                self.server.objects[self._key] = body
        is_unheard = not is_refused and self.server.takes("unheard")
        self._answer(412 if is_refused else 500 if is_unheard else 200)

    def do_GET(self) -> None:
        if self._is_throttled():
            return
        data = self.server.objects.get(self._key)
        modified = "Thu, 01 Jan 2026 00:00:00 GMT"
        span = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range", ""))
        if "list-type" in self.path:
            self._list({name: values[0] for name, values in parse_qs(urlsplit(self.path).query).items()})
        elif data is None:
            self._answer(404)
        elif span is None:
            self._answer(200, data, Last_Modified=modified)
        else:
            self._answer_range(data, span, modified)

    def _answer_range(self, data: bytes, span: re.Match[str], modified: str) -> None:
        first = int(span[1]) if span[1] else max(0, len(data) - int(span[2]))
        last = min(int(span[2]), len(data) - 1) if span[1] and span[2] else len(data) - 1
        at = f"bytes {first}-{last}/{len(data)}"
        self._answer(206, data[first : last + 1], Content_Range=at, Last_Modified=modified)

    do_HEAD = do_GET

    def _list(self, query: dict[str, str]) -> None:
        prefix, after = query.get("prefix", ""), max(query.get("start-after", ""), query.get("continuation-token", ""))
        with self.server.lock:
            sizes = {key: len(data) for key, data in self.server.objects.items()}
        keys = sorted(key for key in sizes if key.startswith(prefix) and key > after)
        if "delimiter" in query:
            self._list_level(prefix, keys, sizes)
            return
        page = keys[: self.server.page]
        objects = "".join(_OBJECT.format(escape(key), sizes[key]) for key in page)
        more = f"<NextContinuationToken>{escape(page[-1])}</NextContinuationToken>" if len(keys) > len(page) else ""
        head = f"<IsTruncated>{'true' if more else 'false'}</IsTruncated>{more}"
        self._answer(200, f"<ListBucketResult>{head}{objects}</ListBucketResult>".encode())

    def _list_level(self, prefix: str, keys: list[str], sizes: dict[str, int]) -> None:
        names = [key.removeprefix(prefix).split("/") for key in keys]
        folders = sorted({f"{prefix}{name[0]}/" for name in names if len(name) > 1})
        level = "".join(f"<CommonPrefixes><Prefix>{escape(folder)}</Prefix></CommonPrefixes>" for folder in folders)
        level += "".join(
            _OBJECT.format(escape(key), sizes[key]) for key, name in zip(keys, names, strict=True) if len(name) == 1
        )
        body = f"<ListBucketResult><IsTruncated>false</IsTruncated>{level}</ListBucketResult>"
        self._answer(200, body.encode())

    def do_DELETE(self) -> None:
        if self._is_throttled():
            return
        self.server.objects.pop(self._key, None)
        self._answer(204)

    def do_POST(self) -> None:  # DeleteObjects
        if self._is_throttled():
            return
        keys = re.findall(r"<Key>([^<]+)</Key>", self._body().decode())
        for key in keys:
            self.server.objects.pop(key, None)
        deleted = "".join(f"<Deleted><Key>{key}</Key></Deleted>" for key in keys)
        self._answer(200, f"<DeleteResult>{deleted}</DeleteResult>".encode())

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def small_s3(monkeypatch: pytest.MonkeyPatch, *, is_create_only_kept: bool = True) -> Iterator[SmallS3]:
    """The server, and the environment that makes `s3://bucket/run` mean it."""
    server = SmallS3(is_create_only_kept=is_create_only_kept)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    settings = {"ENDPOINT_URL": f"http://127.0.0.1:{server.server_port}", "ALLOW_HTTP": "true", "REGION": "us-east-1"}
    for name, value in {**settings, "SKIP_SIGNATURE": "true"}.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
