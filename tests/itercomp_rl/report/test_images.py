"""The picture of a run: small images enlarged so that they are seen, large ones as they are."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from itercomp_rl.report.images import save_grid


@pytest.mark.parametrize(
    ("side", "most", "shown"), [(32, None, 128), (32, 512, 128), (640, None, 640), (640, 512, 512)]
)
def test_a_picture_is_never_shown_smaller_than_it_is_unless_asked(
    side: int, most: int | None, shown: int, tmp_path: Path
) -> None:
    image = np.zeros((side, side, 3), np.uint8)
    save_grid(tmp_path / "grid.png", [[image, image]], ["a cat"], ["base", "round 1"], most)
    with Image.open(tmp_path / "grid.png") as sheet:
        assert sheet.width == 190 + 2 * (shown + 6)
        assert sheet.height == 24 + shown + 6
