"""What a run takes over from another: work that both would do alike, so that a sweep draws its gallery once.

Two pieces of work are alike if their orders are (models, prompts, seeds, steps) and the settings that they depend on.
What a policy of a run draws never is, nor what is learned after it.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

from itercomp_rl import people
from itercomp_rl.items import DrawOrder, MeasureOrder
from itercomp_rl.judges.reward import reward_role
from itercomp_rl.plan import Plan
from itercomp_rl.planning.planners import PLANS
from itercomp_rl.schema import Config
from itercomp_rl.store.layout import Place, record_place, version_place
from itercomp_rl.store.store import Store


def reusable(old: Plan, new: Plan) -> list[Place]:
    """Where everything lies that `new` would make just as `old` did, whether `old` has made it yet or not."""
    return list(_alike(old, new))


def take_over(places: list[Place], source: Store, store: Store) -> Counter[str]:
    """Copy what `source` holds at these places, checked as it is read; how many records of each kind were new.

    People's rankings and planners' answers come along where images do. Raises: StoreError, CorruptRecordError.
    """
    kinds = (people.KIND, PLANS) if any(place.marker.startswith("commits/images/") for place in places) else ()
    everything = [*places, *(record_place(kind, id_) for kind in kinds for id_ in source.ids(kind))]
    found = Counter[str]()
    with ThreadPoolExecutor(max_workers=8) as copiers:
        copied = copiers.map(lambda place: store.copy(source, place), everything)
        for place, is_new in zip(everything, copied, strict=True):
            found[place.marker.split("/")[1]] += is_new
    return +found


def _alike(old: Plan, new: Plan) -> Iterator[Place]:
    draws = _draws(old, new)
    for kind, id_ in draws:
        yield record_place(kind, id_)
        if kind == "evaluations" and _same(_grading, old, new):
            yield record_place("grades", id_)
    rankings = [new.rank_order(0, segment) for segment in range(len(new.segments()))]
    images = {id_ for kind, id_ in draws if kind == "images"}
    if not _same(_ranking, old, new) or len(old.segments()) != len(new.segments()):
        return
    for segment, order in enumerate(rankings):
        if order != old.rank_order(0, segment) or any(ref.segment not in images for ref in order.images[0].values()):
            return
    yield from (record_place("rankings", order.id) for order in rankings)
    if _same(_learning, old, new):
        yield from (version_place(reward_role(aspect), 0) for aspect in new.config.prompts.aspects)


def _draws(old: Plan, new: Plan) -> list[tuple[str, str]]:
    """Kind and id of images and losses that both runs order, of models that are no policy of a run."""
    if not _same(_drawing, old, new):
        return []
    ordered = {_key(order): order for order in _orders(old)}
    return [_key(order) for order in _orders(new) if ordered.get(_key(order)) == order]


def _orders(plan: Plan) -> Iterator[DrawOrder | MeasureOrder]:
    models = [plan.policy(-1)]
    for round_ in range(plan.rounds):
        models += plan.founders(round_)
        for segment in range(len(plan.segments())):
            yield from (order for order in plan.draw_orders(round_, segment) if order.model.role is None)
    frozen = [model for model in models if model.role is None]
    yield from plan.grading_orders(frozen)
    for model in frozen:
        yield from plan.measure_orders(model)


def _key(order: DrawOrder | MeasureOrder) -> tuple[str, str]:
    return (order.kind if isinstance(order, DrawOrder) else "losses", order.id)


def _same(settings: Callable[[Config], Any], old: Plan, new: Plan) -> bool:
    return settings(old.config) == settings(new.config)


# What each piece of work depends on beyond its order.


def _drawing(config: Config) -> Any:
    gallery = config.gallery
    return gallery.batch, gallery.dtype, gallery.attention, gallery.compile, gallery.planners


def _grading(config: Config) -> Any:
    return _judging(config, config.evaluation.judge)


def _ranking(config: Config) -> Any:
    return _judging(config, config.judge.first_round)


def _judging(config: Config, judge: str) -> Any:
    """What a judge of this name, or rank files there, score by."""
    settings = {
        "reward": (config.judge.reward_models, config.reward.trunk),
        "t2i_compbench": config.judge.t2i_compbench,
    }
    return judge, config.prompts.source, settings.get(judge)


def _learning(config: Config) -> Any:
    """What the loop alone reads, as it goes, may differ."""
    judge = config.judge
    free = replace(config.reward, weights={}, refresh=True, min_accuracy=0, on_bad_reward="", checkpoint_every=1)
    return config.run.seed, free, judge.margin, judge.flip, judge.pair_weights, config.policy.reward_updates_first
