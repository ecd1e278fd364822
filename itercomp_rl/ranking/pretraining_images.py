"""The gallery images on which the policy's pre-training loss keeps it from collapsing."""

from collections.abc import Collection, Sequence

from itercomp_rl.items import ImageRef, Prompt
from itercomp_rl.ranking.records import load_rankings
from itercomp_rl.store.store import Store


def load_pretraining_images(
    store: Store, ids: Sequence[str], *, winners: bool = False, models: Collection[str] | None = None
) -> list[tuple[Prompt, ImageRef]]:
    """Prompt and image of every gallery image that rankings records list, each once.

    Args:
        winners: only the images that are in the first place under an aspect of their prompt.
        models: only the images of these models; None: of all.
    """
    found = []
    for id_ in ids:
        for prompt, images, rankings in load_rankings(store, id_):
            first = {model for judged in rankings.values() for model in judged.ranking.places[0]}
            found += [
                (prompt, ref)
                for model, ref in images.items()
                if (models is None or model in models) and (not winners or model in first)
            ]
    return found
