"""What the ranking page knows: which images wait for whom, what people said, how far they agree. No HTTP in here."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import fmean

import numpy as np

from itercomp_rl.errors import ConfigError
from itercomp_rl.items import ASPECTS, ImageRef, Prompt
from itercomp_rl.ranking import people
from itercomp_rl.ranking.people import Said
from itercomp_rl.ranking.ranking import Places, kendall_tau
from itercomp_rl.ranking.records import prompt_of
from itercomp_rl.seeds import seed_of
from itercomp_rl.store.kinds import IMAGES
from itercomp_rl.store.store import Store

QUESTIONS = {
    "attribute": "Which image gives every object the colours, shapes and textures that the text says?",
    "spatial": "Which image puts the objects where the text says, to each other?",
    "non_spatial": "Which image shows the actions and relations that the text says?",
}
MAX_NAME = 40


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One prompt's images, to be ordered under one aspect."""

    id: str
    prompt: Prompt
    aspect: str
    images: Mapping[str, ImageRef]


def load_tasks(store: Store, aspects: Sequence[str] = ASPECTS) -> list[Task]:
    """Every prompt with two images or more, times its aspects, in an order that the prompts alone decide.

    Raises: ConfigError if there is none.
    """
    prompts: dict[str, Prompt] = {}
    images: dict[str, dict[str, ImageRef]] = {}
    for commit in store.commits(IMAGES):
        if commit.attrs.get("imported", False):  # others ranked these already
            continue
        set_aside = commit.attrs.get("set_aside", ())  # rows without an image: no sampler survived them
        for row, tree in enumerate(commit.attrs["prompts"]):
            prompt = prompt_of(tree)
            prompts[prompt.id] = prompt
            drawn = images.setdefault(prompt.id, {})
            if row not in set_aside:
                drawn[commit.attrs["model"]] = ImageRef(segment=commit.id, row=row)
    tasks = [
        Task(id=f"{prompt.id}-{aspect}", prompt=prompt, aspect=aspect, images=images[prompt.id])
        for prompt in prompts.values()
        for aspect in prompt.aspects
        if aspect in aspects and len(images[prompt.id]) > 1
    ]
    if not tasks:
        raise ConfigError(
            f"the store {store.url} holds no prompt with two images under {', '.join(aspects)}: a run draws them in "
            "its gallery phase"
        )
    return sorted(tasks, key=lambda task: seed_of(0, "rank page", task.id))


class Session:
    """Everyone's ranking of one store's tasks; several people work through the same order, each at their own pace."""

    def __init__(self, store: Store, tasks: Sequence[Task], clock: Callable[[], float] = time.time) -> None:
        self._store, self._clock = store, clock
        self._tasks = {task.id: task for task in tasks}
        self._said: dict[tuple[str, str], Said] = {}  # (rater, task id), oldest first
        for said in people.load(store):
            self._said[said.rater, _task_id(said)] = said

    def task(self, id_: str) -> Task:
        """The task of an id. Raises: ValueError if there is none."""
        if id_ not in self._tasks:
            raise ValueError(f"there is no task {id_!r}")
        return self._tasks[id_]

    def next_task(self, rater: str) -> Task | None:
        """The first task that a person has neither ranked nor skipped."""
        return next((task for id_, task in self._tasks.items() if (rater, id_) not in self._said), None)

    def slots(self, rater: str, task: Task) -> list[str]:
        """The models of a task in the order in which this person sees their images; it tells nothing about them."""
        models = sorted(task.images)
        order = np.random.default_rng(seed_of(0, "slots", rater, task.id)).permutation(len(models))
        return [models[i] for i in order]

    def rank(self, rater: str, id_: str, places: Sequence[Sequence[int]]) -> None:
        """Commit an order of slots, best place first, tied ones together.

        Raises: ValueError unless every slot stands in exactly one place.
        """
        task = self.task(id_)
        slots = self.slots(rater, task)
        if sorted(slot for place in places for slot in place) != list(range(len(slots))) or not all(places):
            raise ValueError(f"places are {places!r}: must hold each of 0..{len(slots) - 1} once, and no empty place")
        self._say(rater, task, "ranked", tuple(tuple(slots[slot] for slot in place) for place in places))

    def skip(self, rater: str, id_: str) -> None:
        """Say nothing about a task, for good."""
        self._say(rater, self.task(id_), "skipped", ())

    def undo(self, rater: str) -> bool:
        """Take back a person's last word, so that its task comes next; False if there is none."""
        mine = [id_ for (name, id_) in self._said if name == rater and id_ in self._tasks]
        if not mine:
            return False
        self._say(rater, self._tasks[mine[-1]], "undone", ())
        return True

    def progress(self, rater: str) -> dict[str, int]:
        """How many tasks a person has ranked and skipped, of how many."""
        mine = [said.act for (name, id_), said in self._said.items() if name == rater and id_ in self._tasks]
        return {"ranked": mine.count("ranked"), "skipped": mine.count("skipped"), "total": len(self._tasks)}

    def agreement(self) -> list[dict[str, str | float | int]]:
        """Mean Kendall tau of every two people over the tasks that both ranked, and how many those are."""
        ranked: dict[str, dict[str, Places]] = {}
        for (rater, id_), said in self._said.items():
            if said.act == "ranked":
                ranked.setdefault(rater, {})[id_] = said.places
        found: list[dict[str, str | float | int]] = []
        for one, other in combinations(sorted(ranked), 2):
            common = ranked[one].keys() & ranked[other].keys()
            taus = [
                tau for id_ in sorted(common) if (tau := kendall_tau(ranked[one][id_], ranked[other][id_])) is not None
            ]
            if taus:
                found.append({"one": one, "other": other, "tau": round(fmean(taus), 3), "tasks": len(taus)})
        return found

    def _say(self, rater: str, task: Task, act: people.Act, places: Places) -> None:
        said = Said(
            prompt=task.prompt,
            aspect=task.aspect,
            rater=rater,
            time_s=self._clock(),
            act=act,
            places=places,
            images=task.images,
        )
        people.publish(self._store, said)
        self._said.pop((rater, task.id), None)
        if act != "undone":
            self._said[rater, task.id] = said


def checked_name(name: object) -> str:
    """A person's name as given. Raises: ValueError unless it is 1 to 40 printable characters."""
    text = str(name).strip() if isinstance(name, str) else ""
    if not 1 <= len(text) <= MAX_NAME or not text.isprintable():
        raise ValueError(f"your name must be 1 to {MAX_NAME} printable characters")
    return text


def _task_id(said: Said) -> str:
    return f"{said.prompt.id}-{said.aspect}"
