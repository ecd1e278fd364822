"""A small HTTP server that answers JSON as a test decides: in time, late, slowly or wrongly."""

import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Reply = tuple[int, Any] | tuple[int, Any, dict[str, str]] | float | str


@contextmanager
def json_server(reply: Callable[[dict[str, Any]], Reply]) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """The address of a server that answers each request by `reply` of its body, and the requests so far.

    A reply is (status, JSON or text), with headers if need be; a number is a silence of so many seconds; a text comes a
    byte at a time, each a tenth of a second after the other.
    """
    asked: list[dict[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            asked.append({"path": self.path, "key": self.headers.get("Authorization"), **body})
            found = reply(body)
            if isinstance(found, float):
                time.sleep(found)
                return
            if isinstance(found, str):
                self.send_response(200)
                self.send_header("Content-Length", str(len(found)))
                self.end_headers()
                with contextlib.suppress(OSError):  # whoever asked has hung up
                    for character in found:
                        self.wfile.write(character.encode())
                        time.sleep(0.1)
                return
            status, tree, *headers = found
            self.send_response(status)
            for name, value in (headers[0] if headers else {}).items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write((tree if isinstance(tree, str) else json.dumps(tree)).encode())

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1", asked
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
