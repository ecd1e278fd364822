"""A language model's answer as its readers take it: without thinking, fences and markup, the last statement alone.

Chat models wrap a plan in ways that the plan's form does not know. All three readers (regions, layout_text, canvas)
pass an answer through here first. They read what is left strictly, or refuse it.
"""

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

from itercomp_rl.errors import PlanError

MAX_CHARACTERS = 64_000  # of an answer without its thinking; a longer one is refused unread
CUT_REASONS = ("length", "max_tokens", "max_output_tokens", "model_length")  # finish_reason of servers, in lower case

# Tags around thinking: DeepSeek, Qwen and others; Magistral; Kimi.
_THINKING = re.compile(r"<(/?)think(?:ing)?>|<(/?)(?:thought|reasoning)>|\[(/?)THINK\]|◁(/?)think▷", re.IGNORECASE)
_FINAL_CHANNEL = re.compile(r"<\|channel\|>\s*final\s*<\|message\|>|<\|end\|>|<\|return\|>")  # gpt-oss
_FENCE_LINE = re.compile(r"^[ \t>]*(?:```|~~~)[^\n`]*$", re.MULTILINE)
_FENCE = re.compile(r"^[ \t>]*(```|~~~)[^\n`]*\n(.*?)(?:^[ \t>]*\1|\1|\Z)", re.MULTILINE | re.DOTALL)
_ASCII = str.maketrans("，：；（）［］｛｝【】＝“”„‟‘’‚‛、", ",:;()[]{}[]=\"\"\"\"'''',")
_PAIRS = {'"': '"', "'": "'", "“": "”", "‘": "’", "„": "“", "«": "»", "「": "」", "『": "』"}
_MARKS = " \t\n*_`"  # emphasis and code


def cut_off(max_tokens: int) -> PlanError:
    """The error for an answer that the model did not finish, whatever it holds so far."""
    return PlanError(
        f"the planner's answer was cut off after {max_tokens} tokens and is not read: raise the planner's max_tokens"
    )


def final_text(answer: str) -> str:
    """The answer after the model's thinking.

    Raises: PlanError if the thinking never ends (the answer was cut off within it), or if the rest is too long.
    """
    text, start, is_thinking = [], 0, False
    answer = answer.replace("\r\n", "\n")
    for tag in _THINKING.finditer(answer):
        is_end = any(tag.groups())
        if is_end and not is_thinking:
            text = []  # the chat template opened the thinking before the answer began
        elif not is_thinking:
            text.append(answer[start : tag.start()])
        is_thinking, start = not is_end, tag.end()
    if is_thinking:
        raise PlanError("the planner's answer ends within its thinking, so it holds no plan: raise its max_tokens")
    found = "".join([*text, answer[start:]])
    if "<|channel|>" in found:
        parts = re.split(r"<\|channel\|>\s*final\s*<\|message\|>", found)
        if len(parts) == 1:
            raise PlanError("the planner's answer ends within its thinking, so it holds no plan: raise its max_tokens")
        found = _FINAL_CHANNEL.sub("", parts[-1])
    if len(found) > MAX_CHARACTERS:
        raise PlanError(f"the planner's answer has {len(found)} characters; at most {MAX_CHARACTERS} are read")
    return found


def without_markup(text: str) -> str:
    """The text without the lines that open and close fences, and without bold."""
    return _FENCE_LINE.sub("", text).replace("**", "")


def fenced(text: str) -> list[str]:
    """What stands in fences, in order; a last fence may lack its end."""
    return [match[2] for match in _FENCE.finditer(text)]


def in_ascii(text: str) -> str:
    """Brackets, commas, colons and quotation marks in their ASCII forms, as Python reads them."""
    return text.translate(_ASCII)


def plain_numbers(text: str) -> str:
    """A value of digits and separators in ASCII: `１，2` becomes `1,2`."""
    return in_ascii(unicodedata.normalize("NFKC", text))


@dataclass(frozen=True, slots=True, kw_only=True)
class Statement:
    """What follows one label up to the next: Statement(label="objects", text="[...]")."""

    label: str  # in lower case, as in `labels`
    text: str


def statements(text: str, labels: Sequence[str]) -> list[Statement]:
    """Every `label: text` in order; text before the first label is left out.

    A label may stand anywhere in a line, in quotes, emphasised or in the plural. As a heading on its own line it needs
    no colon.
    """
    names = "|".join(re.escape(label).replace(r"\ ", r"[ _]") for label in labels)
    mark = re.compile(
        r"(?P<line>^)?(?P<open>[#>*_`\"'“‘「『{ \t]{0,12})"  # counts are limited: no answer may take long to search
        rf"\b(?P<name>{names})s?"
        r"(?:[ \t]{0,3}\([^()\n]{0,60}\))?"  # Final split ratio (from left to right):
        r"[*_`\"'”’」』 \t]{0,12}(?(line)(?:[:：=]|$)|[:：=])[*_`]{0,4}",
        re.IGNORECASE | re.MULTILINE,
    )
    found = list(mark.finditer(text))
    ends = [*(match.start() for match in found[1:]), len(text)] if found else []
    return [
        Statement(
            label=match["name"].lower().replace("_", " "),
            text=_closed(text[match.end() : end], match["open"]),
        )
        for match, end in zip(found, ends, strict=True)
    ]


def _closed(text: str, opened: str) -> str:
    """The text without the end of a quotation that began before its label, and without the rest of a JSON object."""
    text = text.strip()
    if "{" in opened or any(mark in opened for mark in _PAIRS):
        text = text.rstrip("}, \t\n")
    for mark in opened:
        if mark in _PAIRS and text.endswith(_PAIRS[mark]) and text.count(mark) % 2 == (mark == _PAIRS[mark]):
            text = text[:-1].rstrip()
    return text


def unwrapped(text: str) -> str:
    """The text without emphasis, code marks or quotation marks around the whole of it."""
    while True:
        text = text.strip(_MARKS)
        end = _PAIRS.get(text[:1])
        if len(text) < 2 or end is None or not text.endswith(end) or {text[0], end} & set(text[1:-1]):
            return text
        text = text[1:-1]


def first_sentence(text: str) -> str:
    """The statement alone, in one line; remarks after it are left out.

    It ends with its line, unless the next line goes on in lower case or this one ends with a comma: a wrapped line.
    """
    lines = [line.strip() for line in text.strip().split("\n")]
    kept = [lines[0]]
    for line in lines[1:]:
        if not line or not (line[0].islower() or kept[-1].endswith(",")):
            break
        kept.append(line)
    return unwrapped(" ".join(kept))
