"""Formulas between dollars become MathML, which browsers draw without a script; other readers see the dollars."""

import re
from typing import Any

from latex2mathml.converter import convert

_CODE = re.compile(r"(```.*?```|`[^`\n]*`)", re.DOTALL)
_BLOCK = re.compile(r"\$\$(.+?)\$\$", re.DOTALL)
_INLINE = re.compile(r"(?<![\\$\w])\$([^$\n]+?)\$(?![\w$])")


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Every formula of a page outside code."""
    parts = _CODE.split(markdown)
    for i in range(0, len(parts), 2):
        parts[i] = _BLOCK.sub(lambda found: f"\n\n{convert(found[1].strip(), display='block')}\n\n", parts[i])
        # A line that began with <math> would be a block of its own.
        parts[i] = _INLINE.sub(lambda found: f"<span>{convert(found[1])}</span>", parts[i])
    return "".join(parts)
