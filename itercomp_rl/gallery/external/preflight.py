"""Before a run starts: what folders hold of the run's prompts, and whether endpoints draw at all."""

import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from os import cpu_count

from itercomp_rl.config.schema import EXTERNAL
from itercomp_rl.errors import ConfigError, GalleryError
from itercomp_rl.gallery.external.folder_system import side_of
from itercomp_rl.gallery.external.image_endpoint import ImageEndpoint
from itercomp_rl.gallery.external.image_folder import ImageFolder, PromptImage, load_image, open_folder
from itercomp_rl.items import DrawOrder, ModelRef
from itercomp_rl.plan import Plan

log = logging.getLogger(__name__)

NUM_TRIED = 3  # prompts of which an endpoint must draw one: a filter may refuse the first


def check_external(plan: Plan) -> None:
    """Read every image that the run takes from folders, and ask each endpoint for one image.

    Logs how many images are missing, how many belong to other prompts, and how many an endpoint is asked for.
    Raises: ConfigError, naming file and row, for a folder that lacks all of the gallery's prompts or holds an image
    that cannot be used; also if an endpoint draws nothing, or no gallery prompt has two images to compare.
    """
    folders = {}
    for model in _external(plan):
        if model.system == "folder":
            folders[model.name] = _check_folder(plan, model)
        else:
            _check_endpoint(plan, model)
    if plan.config.reward.preferences:
        return
    founders = plan.founders(0)
    for prompt in plan.gallery_prompts:
        if sum(m.name not in folders or bool(folders[m.name].images_of(prompt.text)) for m in founders) >= 2:
            return
    raise ConfigError(
        "gallery.members with join_round 0 share no gallery prompt of which two have an image, so there is no pair to "
        "learn from: give a folder more images, or add a member"
    )


def _external(plan: Plan) -> Iterator[ModelRef]:
    for round_ in range(plan.rounds):
        yield from (model for model in plan.founders(round_) if model.system in EXTERNAL)


def _orders(plan: Plan, model: ModelRef) -> tuple[list[DrawOrder], list[DrawOrder]]:
    """What a member is asked for: the gallery's images, and held-out ones."""
    round_ = plan.config.gallery.members[model.name].join_round
    segments = range(len(plan.segments()))
    gallery = [order for i in segments for order in plan.draw_orders(round_, i) if order.model == model]
    return gallery, plan.evaluation_orders(model)


def _check_folder(plan: Plan, model: ModelRef) -> ImageFolder:
    key = f"gallery.members.{model.name}"
    gallery, held_out = _orders(plan, model)
    try:
        folder = open_folder(model.checkpoint)
        used = _found(folder, model, "gallery", gallery) + _found(folder, model, "held-out", held_out)
        _check_images(model, used)
    except ConfigError as error:
        raise ConfigError(f"{key}.model is {model.checkpoint!r}: {error}") from error
    if others := folder.others_than(prompt.text for order in gallery + held_out for prompt in order.prompts):
        log.warning(
            "%s: %d images are of no prompt that this run asks for, such as %s (%s)",
            key,
            len(others),
            others[0].file,
            others[0].named_by,
        )
    return folder


def _found(folder: ImageFolder, model: ModelRef, what: str, orders: list[DrawOrder]) -> list[PromptImage]:
    """The images that a folder has for orders; logs how many it lacks.

    Raises: ConfigError if it has none of the gallery's.
    """
    rows = [(prompt.text, seed) for order in orders for prompt, seed in zip(order.prompts, order.seeds, strict=True)]
    found = [images[seed] for text, seed in rows if seed < len(images := folder.images_of(text))]
    if len(found) == len(rows):
        log.info("gallery.members.%s: the folder has all %d %s images", model.name, len(rows), what)
        return found
    lacking = next(text for text, seed in rows if seed >= len(folder.images_of(text)))
    if not found and what == "gallery":
        first = next(iter(folder.images.values()))[0]
        raise ConfigError(
            f"none of its images is of one of the {len(rows)} gallery prompts, such as {lacking!r}: the first is "
            f"{first.file} ({first.named_by}); name files for prompts, or write a manifest (docs/gallery.md)"
        )
    log.warning(
        "gallery.members.%s: the folder lacks %d of %d %s images, such as one of %r; they take part in nothing",
        model.name,
        len(rows) - len(found),
        len(rows),
        what,
        lacking,
    )
    return found


def _check_images(model: ModelRef, used: list[PromptImage]) -> None:
    """Raises: ConfigError for the first image that cannot be used."""
    images = list(dict.fromkeys(used))
    side = side_of(model, images[0] if images else None)

    def side_of_image(image: PromptImage) -> int:
        return load_image(image, model.size_px).shape[0]

    with ThreadPoolExecutor(cpu_count()) as threads:
        for image, own in zip(images, threads.map(side_of_image, images), strict=True):
            if own != side:
                raise ConfigError(
                    f"image {str(image.file)!r} ({image.named_by}) has {own} pixels a side, and the first has {side}: "
                    f"set gallery.members.{model.name}.size_px to resize all of them"
                )


def _check_endpoint(plan: Plan, model: ModelRef) -> None:
    assert model.endpoint is not None
    settings = plan.config.gallery.endpoints[model.endpoint]
    endpoint = ImageEndpoint(model.endpoint, replace(settings, max_retries=min(1, settings.max_retries)))
    gallery, held_out = _orders(plan, model)
    first, tried, why = gallery[0], 0, ""
    for prompt, seed in list(zip(first.prompts, first.seeds, strict=True))[:NUM_TRIED]:
        try:
            [answer] = endpoint.draw(model, [prompt.text], [seed])
        except GalleryError as error:
            raise ConfigError(str(error)) from error
        if answer.image is not None:
            counts = [sum(len(order.prompts) for order in orders) for orders in (gallery, held_out)]
            log.info(
                "gallery.members.%s: the endpoint draws; it is asked for %d gallery and %d held-out images",
                model.name,
                *counts,
            )
            return
        tried, why = tried + 1, str(answer.why)
        if not answer.is_refused:  # what is down is not waited for again
            break
    raise ConfigError(
        f"gallery.members.{model.name}: gallery.endpoints.{model.endpoint}.url is {settings.url!r} and its model "
        f"{model.checkpoint!r}, which drew no image of {tried} gallery prompts, such as {first.prompts[0].text!r}. The "
        f"last time it {why}; start it, or change the member"
    )
