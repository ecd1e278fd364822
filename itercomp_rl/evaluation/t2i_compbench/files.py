"""T2I-CompBench on disk: lists of prompts in its form, image names, and results as its tools write them.

DIR/<model>/<category>/samples/<prompt>_<number:06>.png     number = 10 * prompt + image, as the benchmark counts
DIR/<model>/<category>/annotation_blip/vqa_result.json      [{"question_id": number, "answer": score}, ...]
"""

import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from itercomp_rl.errors import ConfigError
from itercomp_rl.files.prompt_rows import read_prompt_lines
from itercomp_rl.files.whole import write_whole

NAME_BYTES = 200  # of a prompt in a file name; file systems allow 255 for all of it


def pick(names: Sequence[str], known: Sequence[str]) -> tuple[str, ...]:
    """The named categories in the benchmark's order, all without a name. Raises: ConfigError for an unknown one."""
    for name in names:
        if name not in known:
            raise ConfigError(f"--category is {name!r}: must be one of {', '.join(known)}")
    return tuple(name for name in known if not names or name in names)


def parse_shard(text: str) -> tuple[int, int]:
    """(1, 4) of "1/4". Raises: ConfigError unless 0 <= I < N."""
    part, _, total = text.partition("/")
    if not (part.isdecimal() and total.isdecimal() and int(part) < int(total)):
        raise ConfigError(f"--shard is {text!r}: must be I/N with I from 0 to N-1, such as 0/4")
    return int(part), int(total)


def read_prompts(folder: Path, category: str) -> list[str]:
    """The validation prompts of a category, from <folder>/<category>_val.txt: one a line, up to a tab.

    Raises: ConfigError if the file is missing, empty or no such list.
    """
    path = folder / f"{category}_val.txt"
    prompts = [row.text for row in read_prompt_lines(path)]
    if not prompts:
        raise ConfigError(f"{path} holds no prompt: write one a line")
    return prompts


def image_name(prompt: str, number: int) -> str:
    """<prompt>_<number>.png, of which any system can make a file.

    Characters that change folder or break a line become %XX, as does _, up to which the benchmark's tools read the
    prompt; a long prompt is cut and marked with a hash.
    """
    safe = "".join(f"%{ord(c):02X}" if c in '/\\:*?"<>|_%' or ord(c) < 32 else c for c in prompt)
    safe = safe.lstrip(".") or "%2E"
    if len(safe.encode()) > NAME_BYTES:
        mark = hashlib.sha256(prompt.encode()).hexdigest()[:8]
        safe = f"{safe.encode()[: NAME_BYTES - 9].decode(errors='ignore')}~{mark}"
    return f"{safe}_{number:06d}.png"


def write_result(folder: Path, numbers: Iterable[int], scores: Sequence[float]) -> None:
    """vqa_result.json in `folder`, in one piece; BLIP-VQA's answers are text with four decimals, others numbers."""
    folder.mkdir(parents=True, exist_ok=True)
    is_text = folder.name == "annotation_blip"
    rows = [
        {"question_id": number, "answer": f"{score:.4f}" if is_text else score}
        for number, score in zip(numbers, scores, strict=True)
    ]
    write_whole(folder / "vqa_result.json", json.dumps(rows))


def read_result(folder: Path) -> dict[int, float] | None:
    """Scores by number, None if there is no vqa_result.json."""
    path = folder / "vqa_result.json"
    if not path.is_file():
        return None
    return {int(row["question_id"]): float(row["answer"]) for row in json.loads(path.read_text(encoding="utf-8"))}
