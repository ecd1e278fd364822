"""Picture files that others made: decoded to RGB, and refused with a reason where that would guess."""

import io
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
_FORMATS = ("PNG", "JPEG", "WEBP")
_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr")  # 8 bits a channel


class PictureError(ValueError):
    """A file or an answer is no picture that can be used; the message says why, its caller where it is from."""


def decode(source: bytes | Path) -> NDArray[np.uint8]:
    """The pixels [H, W, 3] of a PNG, JPEG or WebP file, turned as its camera says, what is transparent on white.

    Raises: PictureError for anything else, a damaged file, more than 8 bits a channel, several frames, or one so large
    that it may be meant to fill the memory; OSError if there is no such file.
    """
    data = source.read_bytes() if isinstance(source, Path) else source
    try:
        with Image.open(io.BytesIO(data), formats=_FORMATS) as file:
            return _rgb(file)
    except Image.DecompressionBombError as error:
        raise PictureError(f"is too large: {error}") from error
    except (OSError, SyntaxError, ValueError) as error:  # what Pillow raises for damaged files
        if isinstance(error, PictureError):
            raise
        raise PictureError(f"is no whole PNG, JPEG or WebP file ({str(error).splitlines()[0]})") from error


def _rgb(file: Image.Image) -> NDArray[np.uint8]:
    if getattr(file, "n_frames", 1) > 1:
        raise PictureError("has several frames: save the one that is meant")
    if file.mode not in _MODES:
        raise PictureError(f"has pixels of mode {file.mode}: save it with 8 bits a channel")
    turned = ImageOps.exif_transpose(file)
    if turned.has_transparency_data:
        layers = turned.convert("RGBA")
        white = Image.new("RGBA", layers.size, "white")
        return np.asarray(Image.alpha_composite(white, layers).convert("RGB"))
    return np.asarray(turned.convert("RGB"))


def squared(picture: NDArray[np.uint8], side: int | None) -> NDArray[np.uint8]:
    """A square picture [S, S, 3] of the side that is asked for, resized by a Lanczos filter where it has another.

    Raises: PictureError if it is not square: cutting it could take away what the prompt names, and squeezing it would
    bend shapes.
    """
    height, width = picture.shape[:2]
    if height != width:
        raise PictureError(f"is {width}x{height} pixels: a square picture is needed, so cut or pad it")
    if side is None or side == height:
        return picture
    return np.asarray(Image.fromarray(picture).resize((side, side), Image.Resampling.LANCZOS))
