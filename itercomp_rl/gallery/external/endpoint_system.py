"""System `endpoint`: images are drawn by a server of the OpenAI images protocol."""

from collections.abc import Mapping, Sequence

import numpy as np

from itercomp_rl.config.schema import ImageEndpointConfig
from itercomp_rl.errors import ConfigError
from itercomp_rl.gallery.external.image_endpoint import ImageEndpoint
from itercomp_rl.gallery.system import Drawn
from itercomp_rl.items import ModelRef


class EndpointSystem:
    """Every endpoint of gallery.endpoints, opened on first use; satisfies GallerySystem.

    Whether the same seed gives the same image again is the server's affair.
    """

    def __init__(self, settings: Mapping[str, ImageEndpointConfig]) -> None:
        self._settings = settings
        self._endpoints: dict[str, ImageEndpoint] = {}

    def draw(self, model: ModelRef, prompts: Sequence[str], seeds: Sequence[int]) -> Drawn:
        """The endpoint's images, in the form of GallerySystem.draw.

        A row is missing if the endpoint refuses its prompt or does not answer in time.

        Raises also: GalleryError if the endpoint is down, or refuses many images in a row for one reason.
        """
        assert model.size_px is not None, "checked with the config"
        answers = self._endpoint(model.endpoint).draw(model, prompts, seeds)
        images = np.zeros((len(prompts), model.size_px, model.size_px, 3), np.uint8)
        for row, answer in enumerate(answers):
            if answer.image is not None:
                images[row] = answer.image
        return Drawn(
            images=images,
            notes=tuple({"missing": answer.why} if answer.image is None else answer.note for answer in answers),
            missing={row: str(answer.why) for row, answer in enumerate(answers) if answer.image is None},
        )

    def _endpoint(self, name: str | None) -> ImageEndpoint:
        if name is None or name not in self._settings:
            known = ", ".join(self._settings) or "none"
            raise ConfigError(f"endpoint is {name!r}: must be one of gallery.endpoints: {known}")
        if name not in self._endpoints:
            self._endpoints[name] = ImageEndpoint(name, self._settings[name])
        return self._endpoints[name]
