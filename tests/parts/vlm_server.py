"""A small server of the OpenAI chat protocol that is asked about images, and settings of a judge that asks it."""

import base64
import contextlib
import io
import json
import math
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from itercomp_rl.config.load import load_config
from itercomp_rl.config.schema import VlmConfig

Reply = tuple[int, Any] | tuple[int, Any, dict[str, str]] | float | str
_ASKED = re.compile(r"Does this picture show (?:exactly )?\"?(.+?)\"?(?:, no more and no fewer)?\?")


@contextmanager
def vlm_server(reply: Callable[[dict[str, Any]], Reply]) -> Iterator[tuple[str, list[dict[str, Any]]]]:
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


def vlm_settings(url: str | None, **changes: Any) -> VlmConfig:
    """base.yaml's settings for an endpoint, without patience unless asked for."""
    settings = load_config("base").judge.vlm
    return replace(settings, **({"model": "m", "url": url, "timeout_s": 20.0, "max_retries": 0} | changes))


def said_with(p_yes: float, before: str = "") -> tuple[int, Any]:
    """An answer of one word whose log-probabilities say P(yes); `before` is a token of reasoning before it."""
    p = min(max(p_yes, 1e-12), 1 - 1e-12)
    logprobs = {"Yes": math.log(p), "No": math.log1p(-p)}
    word = max(logprobs, key=lambda name: logprobs[name])
    top = [{"token": token, "logprob": value} for token, value in logprobs.items()]
    tokens = [{"token": word, "logprob": logprobs[word], "top_logprobs": top}]
    if before:
        other = {"token": before, "logprob": -0.1}
        tokens.insert(0, other | {"top_logprobs": [other]})
    return said(before + word, logprobs={"content": tokens})


def said(text: Any, reason: str = "stop", **fields: Any) -> tuple[int, Any]:
    """An answer without log-probabilities, or with those in `fields`."""
    message = {"role": "assistant", "content": text}
    used = {"prompt_tokens": 100, "completion_tokens": 2}
    return 200, {"choices": [{"finish_reason": reason, "message": message, **fields}], "usage": used}


def image_of(body: dict[str, Any]) -> NDArray[np.uint8]:
    """The image [H, W, 3] that a request is about."""
    url = body["messages"][0]["content"][0]["image_url"]["url"]
    with Image.open(io.BytesIO(base64.b64decode(url.partition("base64,")[2]))) as image:
        return np.asarray(image)


def words_of(body: dict[str, Any]) -> str:
    """What a request asks, with the words on how to answer."""
    return body["messages"][0]["content"][1]["text"]


def statement_of(body: dict[str, Any]) -> str:
    """What the image of a request is asked to show."""
    found = _ASKED.match(words_of(body))
    assert found is not None, words_of(body)
    return found[1]
