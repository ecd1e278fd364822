"""A small store of images to rank: a few prompts of the embedded world, drawn by its renderer under three names."""

import numpy as np

from itercomp_rl.items import ImageRef, Prompt, RankOrder
from itercomp_rl.prompts import shapes_prompts
from itercomp_rl.ranking.ranking import Ranking
from itercomp_rl.ranking.records import Judged, rankings_attrs
from itercomp_rl.shapes.render import place, render
from itercomp_rl.shapes.scenes import World, parse
from itercomp_rl.store.store import Store, open_store

MODELS = ("one", "three", "two")


def make_rank_store(url: str = "memory://", num: int = 4) -> tuple[Store, list[Prompt]]:
    """The store and its prompts; "one" drew what was asked, the others drew the next prompts' scenes."""
    store = open_store(url, create=True, durable=False)
    prompts = shapes_prompts(World(), "train", num, seed=0)
    scenes = [parse(prompt.text) for prompt in prompts]
    for shift, model in enumerate(MODELS):
        drawn = [scenes[(i + shift) % num] for i in range(num)]
        images = render(drawn, [place(scene, np.random.default_rng(7)) for scene in drawn])
        attrs = {"model": model, "prompts": [{"id": p.id, "text": p.text, "aspects": list(p.aspects)} for p in prompts]}
        store.put("images", f"{model}-00000", {"images": images}, attrs)
    return store, prompts


def put_rankings(store: Store, prompts: list[Prompt], id_: str = "r000-00000") -> str:
    """A rankings record of those images for learners: "one" is first, the others share a place."""
    order = RankOrder(
        id=id_,
        round=0,
        prompts=tuple(prompts),
        images=tuple(
            {model: ImageRef(segment=f"{model}-00000", row=row) for model in MODELS} for row in range(len(prompts))
        ),
    )
    judged = [
        {
            aspect: Judged(
                ranking=Ranking(prompt_id=prompt.id, aspect=aspect, places=(("one",), ("three", "two"))), scores={}
            )
            for aspect in prompt.aspects
        }
        for prompt in prompts
    ]
    store.put("rankings", id_, {}, rankings_attrs(order, judged))
    return id_
