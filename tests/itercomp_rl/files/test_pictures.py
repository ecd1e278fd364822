"""Pictures that others made: what is read as it is, what is resized, and what is refused with a reason."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from itercomp_rl.files.pictures import PictureError, decode, squared

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (12, 12, 3), dtype=np.uint8)


def saved(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def test_a_lossless_file_comes_back_bit_for_bit_from_bytes_and_from_disk(tmp_path: Path) -> None:
    for kind, options in (("PNG", {}), ("WEBP", {"lossless": True})):
        data = saved(Image.fromarray(PIXELS), kind, **options)
        (tmp_path / "a").write_bytes(data)
        np.testing.assert_array_equal(decode(data), PIXELS)
        np.testing.assert_array_equal(decode(tmp_path / "a"), PIXELS)


def test_grey_palette_and_cmyk_become_rgb_and_what_is_transparent_is_white() -> None:
    assert decode(saved(Image.new("L", (8, 8), 128)))[0, 0].tolist() == [128, 128, 128]
    palette = Image.new("RGB", (8, 8), (0, 255, 0)).convert("P", palette=Image.Palette.ADAPTIVE)
    assert decode(saved(palette))[0, 0].tolist() == [0, 255, 0]
    assert decode(saved(Image.new("CMYK", (8, 8), (0, 0, 0, 0)), "JPEG"))[0, 0].tolist() == [255, 255, 255]
    # Half of red over white: (255 + 255) / 2, (0 + 255) / 2.
    half = decode(saved(Image.new("RGBA", (8, 8), (255, 0, 0, 128))))[0, 0]
    assert np.abs(half.astype(int) - [255, 127, 127]).max() <= 1
    assert decode(saved(Image.new("RGBA", (8, 8), (9, 9, 9, 0))))[0, 0].tolist() == [255, 255, 255]


def test_a_picture_is_turned_as_its_camera_says() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter, clockwise
    image = Image.new("RGB", (8, 16))
    assert decode(saved(image, "JPEG", exif=exif)).shape == (8, 16, 3)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "no whole PNG, JPEG or WebP file"),
        (b"<html>not found</html>", "no whole PNG, JPEG or WebP file"),
        (saved(Image.fromarray(PIXELS))[:-60], "no whole PNG, JPEG or WebP file"),
        (saved(Image.fromarray(PIXELS), "JPEG")[:-60], "no whole PNG, JPEG or WebP file"),
        (saved(Image.fromarray(PIXELS), "BMP"), "no whole PNG, JPEG or WebP file"),
        (saved(Image.new("I;16", (8, 8))), "mode I;16: save it with 8 bits a channel"),
        (
            saved(Image.new("RGB", (8, 8)), "WEBP", save_all=True, append_images=[Image.new("RGB", (8, 8), "red")]),
            "several frames",
        ),
    ],
)
def test_what_is_no_picture_is_refused_with_the_reason(data: bytes, why: str) -> None:
    with pytest.raises(PictureError, match=why):
        decode(data)


def test_a_picture_that_would_fill_the_memory_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 70)  # Pillow refuses what has twice as many
    with pytest.raises(PictureError, match="is too large"):
        decode(saved(Image.fromarray(PIXELS)))


def test_a_square_picture_is_resized_and_stays_as_it_is_at_its_own_side() -> None:
    np.testing.assert_array_equal(squared(PIXELS, 12), PIXELS)
    np.testing.assert_array_equal(squared(PIXELS, None), PIXELS)
    flat = np.full((24, 24, 3), 77, np.uint8)
    np.testing.assert_array_equal(squared(flat, 8), np.full((8, 8, 3), 77, np.uint8))
    with pytest.raises(PictureError, match="is 12x6 pixels: a square picture is needed"):
        squared(PIXELS[:6], 8)
