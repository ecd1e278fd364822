"""A layout: what stands where in a picture, as planners give it and layout-based gallery models take it."""

from dataclasses import dataclass

from itercomp_rl.errors import PlanError

MAX_BOXES = 30  # what GLIGEN and InstanceDiffusion have room for


def check_text(text: str) -> str:
    """The text. Raises: PlanError for half a surrogate pair, which no tokenizer and no file takes."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise PlanError(f"{text[:80]!r} holds half a character: {error}") from error
    return text


@dataclass(frozen=True, slots=True, kw_only=True)
class Box:
    """One object: Box(phrase="a red cup", left=0.1, top=0.4, right=0.5, bottom=0.9), in shares of width and height."""

    phrase: str
    left: float
    top: float
    right: float
    bottom: float

    def __post_init__(self) -> None:
        """Raises: PlanError if the phrase is empty or the box has no area within the picture."""
        if not self.phrase.strip():
            raise PlanError("a box has no phrase: every box needs words for what it holds")
        check_text(self.phrase)
        if not (0 <= self.left < self.right <= 1 and 0 <= self.top < self.bottom <= 1):
            raise PlanError(
                f"the box of {self.phrase!r} is ({self.left}, {self.top}, {self.right}, {self.bottom}): "
                "0 <= left < right <= 1 and 0 <= top < bottom <= 1 are needed"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """Boxes on a background: Layout(prompt="a red cup left of a plate", boxes=(...), background="a table")."""

    prompt: str
    boxes: tuple[Box, ...]
    background: str = ""

    def __post_init__(self) -> None:
        """Raises: PlanError if there are more boxes than any layout model takes."""
        if len(self.boxes) > MAX_BOXES:
            raise PlanError(f"the layout of {self.prompt!r} has {len(self.boxes)} boxes; at most {MAX_BOXES} are taken")
