"""Images of a user's own, judged by a vision-language model; in this process, without a run."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from itercomp_rl.config.schema import Config
from itercomp_rl.errors import ConfigError
from itercomp_rl.items import Prompt
from itercomp_rl.judges.vlm.model import Usage
from itercomp_rl.judges.vlm.scorer import Answered, VlmScorer, open_vlm
from itercomp_rl.prompts import prompt_id
from itercomp_rl.store.store import open_store


def judge_images(config: Config, text: str, images: Sequence[Path]) -> list[list[Answered]]:
    """Every question that a prompt gives rise to, answered for each image.

    Raises: ConfigError for an image that cannot be read, or a prompt that states nothing of the config's aspects.
    """
    aspects, settings = config.prompts.aspects, config.judge.vlm
    pixels = [_pixels(path) for path in images]
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    vlm = open_vlm(settings, device, Usage(max_requests=settings.max_requests, limit=f"{settings.max_requests}"))
    scorer = VlmScorer(settings, aspects, open_store("memory://", create=True), vlm)
    prompt = Prompt(id=prompt_id(text), text=text, aspects=tuple(aspects))
    found = scorer.answers([prompt] * len(pixels), pixels)
    if not any(found):
        raise ConfigError(
            f"--prompt is {text!r}: it states nothing that can be asked about {', '.join(aspects)}; "
            "word it as a statement such as 'a red cup left of a white plate', or give --atoms model"
        )
    return found


def _pixels(path: Path) -> NDArray[np.uint8]:
    try:
        with Image.open(path) as image:
            return np.asarray(image.convert("RGB"))
    except (UnidentifiedImageError, OSError, Image.DecompressionBombError) as error:
        raise ConfigError(f"image {str(path)!r} cannot be read: {error}") from error
