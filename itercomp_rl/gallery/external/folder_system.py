"""System `folder`: a member's images are read from a folder instead of being drawn."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from itercomp_rl.errors import GalleryError
from itercomp_rl.gallery.external.image_folder import ImageFolder, PromptImage, load_image, open_folder
from itercomp_rl.gallery.system import Drawn, Note
from itercomp_rl.items import ModelRef


class FolderSystem:
    """The images of folders, each opened on first use; satisfies GallerySystem.

    A seed is the number of the prompt's image, from 0 (plan.py).
    """

    def __init__(self) -> None:
        self._folders: dict[str, ImageFolder] = {}

    def draw(self, model: ModelRef, prompts: Sequence[str], seeds: Sequence[int]) -> Drawn:
        """The folder's images, in the form of GallerySystem.draw.

        A row is missing where its prompt has no image of that number.
        Raises: ConfigError that names a file which cannot be read, or whose size is not that of the others.
        """
        if model.checkpoint not in self._folders:
            self._folders[model.checkpoint] = open_folder(model.checkpoint)
        folder = self._folders[model.checkpoint]
        found: dict[int, PromptImage] = {}
        missing: dict[int, str] = {}
        for row, (prompt, seed) in enumerate(zip(prompts, seeds, strict=True)):
            own = folder.images_of(prompt)
            if seed < len(own):
                found[row] = own[seed]
            else:
                missing[row] = f"the folder holds {len(own)} images of the prompt" if own else "no image of the prompt"
        side = side_of(model, next(iter(found.values()), None))
        images = np.zeros((len(prompts), side, side, 3), np.uint8)
        for row, image in found.items():
            images[row] = _sized(image, load_image(image, model.size_px), side)
        notes: tuple[Note, ...] = tuple(
            {"file": found[row].file.name} if row in found else {"missing": missing[row]} for row in range(len(prompts))
        )
        return Drawn(images=images, notes=notes, missing=missing)


def side_of(model: ModelRef, first: PromptImage | None) -> int:
    """The side of all images: the member's, or that of the first image that is used, or 1 where none is used."""
    if model.size_px is not None:
        return model.size_px
    return 1 if first is None else load_image(first, None).shape[0]


def _sized(image: PromptImage, pixels: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """Raises: GalleryError if the image is not of this side, as a file that came after the check may be."""
    if pixels.shape[0] != side:
        raise GalleryError(
            f"image {str(image.file)!r} has {pixels.shape[0]} pixels a side and others {side}: set the member's size_px"
        )
    return pixels
