"""What a run takes over from another: work that both would do alike, so that a sweep draws its gallery once.

Two pieces of work are alike if their orders are (models, prompts, seeds, steps) and the settings that they depend on.
What a policy of a run draws never is, nor what is learned after it.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

from itercomp_rl.config.judging_sources import for_evaluation
from itercomp_rl.config.schema import ALL, Config
from itercomp_rl.errors import ConfigError
from itercomp_rl.items import DrawOrder, MeasureOrder, ModelRef, Prompt
from itercomp_rl.plan import Plan
from itercomp_rl.ranking.records import prompt_of
from itercomp_rl.store.kinds import EVALUATIONS, GRADES, IMAGES, LOSSES, PEOPLE, PLANS, RANKINGS, reward_role
from itercomp_rl.store.layout import Place, record_place, version_place
from itercomp_rl.store.store import Store


@dataclass(frozen=True, slots=True, kw_only=True)
class Shared:
    """A record that two runs would both make, and the prompts that its images are of."""

    place: Place
    prompts: tuple[Prompt, ...] = ()

    @property
    def kind(self) -> str:
        """images, evaluations, ... or a role of weights."""
        return self.place.marker.split("/")[1]


def reusable(old: Plan, new: Plan) -> list[Shared]:
    """What `new` would make just as `old` did, where `old` came so far."""
    return list(_alike(old, new))


def take_over(shared: list[Shared], source: Store, store: Store) -> Counter[str]:
    """Copy what `source` holds of this, checked as it is read; how many records of each kind were new.

    Planners' answers come along where images do, and people's rankings of no other images; where people ranked any, the
    reward models do not, which may have been learned before.
    Raises: StoreError, CorruptRecordError.
    """
    places = [one.place for one in shared]
    if images := {record_id(one.place) for one in shared if one.kind == IMAGES}:
        said = source.commits(PEOPLE)
        if said:
            places = [place for place in places if not place.marker.startswith("versions/")]
        places += [record_place(PEOPLE, one.id) for one in said if _segments(one.attrs) <= images]
        places += [record_place(PLANS, id_) for id_ in source.ids(PLANS)]
    found = Counter[str]()
    with ThreadPoolExecutor(max_workers=4) as copiers:  # each holds a segment's images
        copied = copiers.map(lambda place: store.copy(source, place), places)
        for place, is_new in zip(places, copied, strict=True):
            found[place.marker.split("/")[1]] += is_new
    return +found


def record_id(place: Place) -> str:
    """The id of the record at a place."""
    return place.marker.rsplit("/", 1)[1].removesuffix(".json")


def _segments(said: dict[str, Any]) -> set[str]:
    return {ref["segment"] for ref in said["images"].values()}


def check_prompts(shared: list[Shared], source: Store) -> None:
    """Orders are planned from prompt files as they are now; the images there are of those that were.

    Raises: ConfigError if these differ.
    """
    prompts = {one.place.marker: one.prompts for one in shared if one.prompts}
    for commit in source.find_all(one.place for one in shared if one.prompts):
        if tuple(map(prompt_of, commit.attrs["prompts"])) != prompts[commit.marker]:
            raise ConfigError(
                f"--reuse of {source.url}: {commit.marker} holds images of other prompts than "
                "prompts.train_file and prompts.test_file now name: give it the old files, or leave --reuse out"
            )


def _alike(old: Plan, new: Plan) -> Iterator[Shared]:
    draws = _draws(old, new)
    for order in draws:
        kind, id_ = _key(order)
        yield Shared(place=record_place(kind, id_), prompts=order.prompts if isinstance(order, DrawOrder) else ())
        if kind == EVALUATIONS and _same(_grading, old, new):
            yield Shared(place=record_place(GRADES, id_))
    rankings = [new.rank_order(0, segment) for segment in range(len(new.segments()))]
    images = {order.id for order in draws if isinstance(order, DrawOrder) and order.kind == IMAGES}
    if not _same(_ranking, old, new) or len(old.segments()) != len(new.segments()):
        return
    for segment, order in enumerate(rankings):
        if order != old.rank_order(0, segment) or any(ref.segment not in images for ref in order.images[0].values()):
            return
    yield from (Shared(place=record_place(RANKINGS, order.id)) for order in rankings)
    # Learning that began before all was ranked depends on who was how fast, and a policy would miss its early models.
    is_in_order = new.config.reward.rankings_first == ALL and new.config.policy.reward_updates_first == ALL
    if is_in_order and _same(_learning, old, new):
        yield from (Shared(place=version_place(reward_role(aspect), 0)) for aspect in new.config.prompts.aspects)


def _draws(old: Plan, new: Plan) -> list[DrawOrder | MeasureOrder]:
    """Images and losses that both runs order, of models that are no policy of a run."""
    if not _same(_drawing, old, new):
        return []
    ordered = {_key(order): order for order in _orders(old)}
    both = [
        order
        for order in _orders(new)
        if ordered.get(_key(order)) == order and _url(old, order.model) == _url(new, order.model)
    ]
    evaluations = {order.id for order in both if isinstance(order, DrawOrder)}
    return [
        order
        for order in both
        if isinstance(order, DrawOrder) or all(ref.segment in evaluations for ref in order.images)
    ]


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
    return (order.kind if isinstance(order, DrawOrder) else LOSSES, order.id)


def _url(plan: Plan, model: ModelRef) -> str | None:
    """Where a model behind an endpoint draws; None for any other."""
    return None if model.endpoint is None else plan.config.gallery.endpoints[model.endpoint].url


def _same(settings: Callable[[Config], Any], old: Plan, new: Plan) -> bool:
    return settings(old.config) == settings(new.config)


# What each piece of work depends on beyond its order.


def _drawing(config: Config) -> Any:
    gallery = config.gallery
    return gallery.batch, gallery.dtype, gallery.attention, gallery.compile, gallery.planners


def _grading(config: Config) -> Any:
    return _judging(for_evaluation(config), config.evaluation.judge), config.evaluation.metrics


def _ranking(config: Config) -> Any:
    return _judging(config, config.judge.first_round)


def _judging(config: Config, judge: str) -> Any:
    """What a judge of this name, or rank files there, score by."""
    settings = {
        "oracle": None,
        "reward": (config.judge.reward_models, config.reward.trunk),
        "t2i_compbench": config.judge.t2i_compbench,
        "vlm": (config.judge.vlm.model, config.judge.vlm.url, config.judge.vlm.atoms),
    }
    members = list(config.gallery.members)  # official rank files count models in this order
    return judge, config.prompts.source, config.prompts.aspects, settings.get(judge, members)


def _learning(config: Config) -> Any:
    """What the loop alone reads, as it goes, may differ."""
    judge = config.judge
    free = replace(config.reward, weights={}, refresh=True, min_accuracy=0, on_bad_reward="", checkpoint_every=1)
    return (
        config.run.seed,
        free,
        judge.margin,
        judge.margins,
        judge.flip,
        judge.pair_weights,
        config.policy.reward_updates_first,
    )
