"""T2I-CompBench's prompts (shipped, MIT): 700 to learn from and 300 held out in each of eight categories.

Source: T2I-CompBench (arXiv 2307.06350) and T2I-CompBench++, examples/dataset.
"""

import re
from importlib import resources
from pathlib import Path
from typing import Literal

from itercomp_rl.files.prompt_rows import read_prompt_lines

BENCHMARK = Path(str(resources.files("itercomp_rl.prompt_sets") / "t2i_compbench"))
CATEGORIES = ("color", "shape", "texture", "spatial", "3d_spatial", "numeracy", "non_spatial", "complex")
SPLITS = {"train": "train", "test": "val"}  # split of a run -> how the benchmark's files are called

ComplexKind = Literal["spatial", "action", "both"]
_SPATIAL = re.compile(r"the [\w ]+ (is|was|were) (on top of|next to|on the (left|right) of) ")
_PLACED = re.compile(r"\b(on top of|next to|near|on the (left|right) of)\b")
_BOTH_TOO = "the fiery, blazing sun sank below the horizon"  # in neither of the benchmark's two lists

# The three aspects of IterComp. Numbers are asked of a detector, as places are, so they count as spatial.
_ASPECTS = {
    "color": ("attribute",),
    "shape": ("attribute",),
    "texture": ("attribute",),
    "spatial": ("spatial",),
    "3d_spatial": ("spatial",),
    "numeracy": ("spatial",),
    "non_spatial": ("non_spatial",),
}
_COMPLEX: dict[ComplexKind, tuple[str, ...]] = {
    "spatial": ("attribute", "spatial"),
    "action": ("attribute", "non_spatial"),
    "both": ("attribute", "spatial", "non_spatial"),
}


def complex_kind(prompt: str) -> ComplexKind:
    """Whether a complex prompt is about places, actions or both, besides attributes.

    On the 300 validation prompts this gives the benchmark's own lists: 58 spatial, 212 action, 30 both.
    """
    text = prompt.lower()
    if _SPATIAL.match(text):
        return "spatial"
    return "both" if _PLACED.search(text) or text.startswith(_BOTH_TOO) else "action"


def aspects_of(category: str, prompt: str) -> tuple[str, ...]:
    """The aspects that a prompt of a category is about: what the benchmark's metric of the category looks at."""
    return _COMPLEX[complex_kind(prompt)] if category == "complex" else _ASPECTS[category]


def read_split(split: str) -> list[tuple[str, tuple[str, ...]]]:
    """(text, aspects) of every prompt of a split, "train" or "test", category after category; some texts repeat.

    Training prompts that the benchmark holds out too, but for case and punctuation, are left out: six of 5,600.
    """
    rows = _rows(split)
    if split == "test":
        return rows
    held_out = {_words(text) for text, _ in _rows("test")}
    return [(text, aspects) for text, aspects in rows if _words(text) not in held_out]


def _rows(split: str) -> list[tuple[str, tuple[str, ...]]]:
    return [
        (row.text, aspects_of(category, row.text))
        for category in CATEGORIES
        for row in read_prompt_lines(BENCHMARK / f"{category}_{SPLITS[split]}.txt")
    ]


def _words(text: str) -> tuple[str, ...]:
    return tuple(re.findall(r"\w+", text.casefold()))
