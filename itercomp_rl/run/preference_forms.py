"""The forms in which data sets of preferences are published, each recognised by its columns.

A row states a whole ranking (a pair is one of two places), or one place in a ranking that several rows share. Prompts
stand under `prompt`, `caption` or `text`. An image is a path, bytes, or {bytes, path} as `datasets` writes it.

    this project's export   ranking, prompt, image, aspect, place [model, seed, score]
    ImageRewardDB           prompt_id, prompt, rank, image_path (or image); rank 1 is best
    Pick-a-Pic              caption, jpg_0, jpg_1, label_0, label_1 [has_label, model_0, model_1]; label 1 wins
    HPDv2, training         prompt, image_path: [a, b], human_preference: [1, 0]; 1 is preferred
    HPDv2, test             prompt, image_path: [a, b, ...], rank: [2, 1, ...]; the place of each image
    HPDv3                   prompt, path1, path2 [model1, model2]; path1 is preferred
    pairs                   prompt, winner, loser (or chosen, rejected) [aspect]
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

Row = Mapping[str, Any]  # Any: JSON values, and images

PROMPTS = ("prompt", "caption", "text")


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """One image of a ranking: where the row has it, and its place.

    Shown(column="image_path", index=1, place=2, model="image 2")
    """

    column: str
    place: int  # 1 is best; tied images share a place
    model: str
    index: int | None = None  # of an image in a list
    seed: int | None = None
    score: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Stated:
    """What one row states of a prompt; `aspect` is None where the data set has none."""

    prompt: str
    shown: tuple[Shown, ...]
    ranking: str | None = None  # rows that share it state one ranking; None: this row is one
    aspect: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """One form: the columns that it has in any case, those that hold images, and how a row is read.

    `read` gets a row that may lack its images. It returns a reason, as text, for a row that states no preference.
    Raises: ValueError for a row that is wrong.
    """

    name: str
    needs: frozenset[str]  # besides the prompt
    images: frozenset[str]
    read: Callable[[Row], Stated | str]


def form_of(columns: Collection[str]) -> Form | None:
    """The first form whose columns are all there; None for an unknown one."""
    has_prompt = any(name in columns for name in PROMPTS)
    return next((form for form in FORMS if has_prompt and form.needs <= set(columns)), None)


def known_forms() -> str:
    """The forms and their columns, for who brought another."""
    return "; ".join(f"{form.name}: {'prompt, ' + ', '.join(sorted(form.needs))}" for form in FORMS)


def _prompt(row: Row) -> str:
    name = next(name for name in PROMPTS if name in row)
    text = row[name]
    if not isinstance(text, str) or not text.strip():
        raise ValueError(f"its {name} is {text!r}: a text is needed")
    return text.strip()


def _place(value: object, name: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int | float) or value % 1 != 0 or value < 1:
        raise ValueError(f"its {name} is {value!r}: places are whole numbers from 1, the best")
    return int(value)


def _seed(value: object) -> int | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or value % 1 != 0 or not -(2**63) <= value < 2**63:
        raise ValueError(f"its seed is {value!r:.80}: a whole number of 64 bits is needed")
    return int(value)


def _words(row: Row, name: str, default: str) -> str:
    value = row.get(name)
    return default if value is None else str(value)


def _own(row: Row) -> Stated:
    aspect, score = row["aspect"], row.get("score")
    if not isinstance(aspect, str) or not aspect:
        raise ValueError(f"its aspect is {aspect!r}: a name is needed")
    shown = Shown(
        column="image",
        place=_place(row["place"], "place"),
        model=_words(row, "model", "image"),
        seed=_seed(row.get("seed")),
        score=None if score is None else float(score),
    )
    return Stated(prompt=_prompt(row), shown=(shown,), ranking=str(row["ranking"]), aspect=aspect)


def _image_reward_db(row: Row) -> Stated:
    column = "image_path" if "image_path" in row else "image"
    shown = Shown(column=column, place=_place(row["rank"], "rank"), model="image")
    return Stated(prompt=_prompt(row), shown=(shown,), ranking=str(row["prompt_id"]))


def _pick_a_pic(row: Row) -> Stated | str:
    if row.get("has_label") is False:
        return "nobody labelled it"
    labels = row["label_0"], row["label_1"]
    if labels not in ((1, 0), (0, 1), (0.5, 0.5)):
        raise ValueError(f"its labels are {labels[0]!r} and {labels[1]!r}: one is 1 and the other 0, or both are 0.5")
    if labels[0] == labels[1]:
        return "a tie"
    shown = tuple(
        Shown(column=f"jpg_{i}", place=2 - int(label), model=_words(row, f"model_{i}", f"image {i + 1}"))
        for i, label in enumerate(labels)
    )
    return Stated(prompt=_prompt(row), shown=shown)


def _list(row: Row, name: str) -> list[Any]:
    values = row[name]
    if not isinstance(values, list) or len(values) < 2:
        raise ValueError(f"its {name} is {values!r}: a list of two or more is needed")
    if isinstance(images := row.get("image_path"), list) and len(images) != len(values):
        raise ValueError(f"it has {len(images)} images in image_path and {len(values)} values in {name}")
    return values


def _placed(row: Row, places: list[int]) -> Stated | str:
    if len(set(places)) == 1:
        return "a tie"
    shown = tuple(
        Shown(column="image_path", index=i, place=place, model=f"image {i + 1}") for i, place in enumerate(places)
    )
    return Stated(prompt=_prompt(row), shown=shown)


def _hpd2_training(row: Row) -> Stated | str:
    preferred = _list(row, "human_preference")
    if any(isinstance(value, bool) or value not in (0, 1) for value in preferred):
        raise ValueError(f"its human_preference is {preferred!r}: 1 for the preferred image and 0 for the others")
    return _placed(row, [2 - value for value in preferred])


def _hpd2_test(row: Row) -> Stated | str:
    return _placed(row, [_place(value, "rank") for value in _list(row, "rank")])


def _pair(winner: str, loser: str) -> Callable[[Row], Stated]:
    def read(row: Row) -> Stated:
        aspect = row.get("aspect")
        if aspect is not None and (not isinstance(aspect, str) or not aspect):
            raise ValueError(f"its aspect is {aspect!r}: a name is needed")
        names = (_words(row, "model1", "winner"), _words(row, "model2", "loser"))
        shown = tuple(
            Shown(column=column, place=place, model=model)
            for place, (column, model) in enumerate(zip((winner, loser), names, strict=True), 1)
        )
        return Stated(prompt=_prompt(row), shown=shown, aspect=aspect)

    return read


def _pairs(name: str, winner: str, loser: str) -> Form:
    return Form(
        name=name, needs=frozenset({winner, loser}), images=frozenset({winner, loser}), read=_pair(winner, loser)
    )


# A form stands before those whose columns it has too.
FORMS = (
    Form(
        name="this project's export",
        needs=frozenset({"ranking", "image", "aspect", "place"}),
        images=frozenset({"image"}),
        read=_own,
    ),
    Form(
        name="ImageRewardDB",
        needs=frozenset({"prompt_id", "rank", "image_path"}),
        images=frozenset({"image_path"}),
        read=_image_reward_db,
    ),
    Form(
        name="ImageRewardDB with its images",
        needs=frozenset({"prompt_id", "rank", "image"}),
        images=frozenset({"image"}),
        read=_image_reward_db,
    ),
    Form(
        name="Pick-a-Pic",
        needs=frozenset({"jpg_0", "jpg_1", "label_0", "label_1"}),
        images=frozenset({"jpg_0", "jpg_1"}),
        read=_pick_a_pic,
    ),
    Form(
        name="HPDv2, training",
        needs=frozenset({"image_path", "human_preference"}),
        images=frozenset({"image_path"}),
        read=_hpd2_training,
    ),
    Form(
        name="HPDv2, test", needs=frozenset({"image_path", "rank"}), images=frozenset({"image_path"}), read=_hpd2_test
    ),
    _pairs("HPDv3", "path1", "path2"),
    _pairs("pairs", "winner", "loser"),
    _pairs("pairs", "chosen", "rejected"),
)
