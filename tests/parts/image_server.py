"""Answers of an endpoint of the OpenAI images protocol, for json_server, and pictures of the embedded world to give."""

import base64
import io
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from itercomp_rl.shapes.render import place, render
from itercomp_rl.shapes.scenes import parse
from tests.parts.json_server import Reply


def world_picture(text: str, seed: int) -> NDArray[np.uint8]:
    """A faultless picture of a prompt of the world, laid out by the seed."""
    scene = parse(text)
    return render([scene], [place(scene, np.random.default_rng(seed))])[0]


def file_of(pixels: NDArray[np.uint8], kind: str = "PNG") -> bytes:
    """The bytes of a picture's file."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


def said_image(data: bytes, **more: Any) -> Reply:
    """A whole answer with one image."""
    return 200, {"created": 0, "data": [{"b64_json": base64.b64encode(data).decode(), **more}]}


def by_world(body: dict[str, Any]) -> Reply:
    """Draws each prompt of the world without a fault, by the seed that is sent."""
    return said_image(file_of(world_picture(body["prompt"], body["seed"])))
