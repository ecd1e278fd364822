"""Fixed scorers as configs name them: a published one by its kind, a file or folder, a class, or an address.

pickscore                            the published checkpoint, from the hub
hpsv2:models/HPS_v2.1_compressed.pt  the same kind, from a file here
clipscore:openai/clip-vit-large-patch14
python:mine.scorers:Sharpness        a class that the environment can import
http://127.0.0.1:8900/score          a process of its own
embedded:trunk, models/mine, owner/name:file.pt     reward models of this project, and official files
"""

import re
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

# Kind -> the checkpoint on the hub that it stands for.
PUBLISHED = {
    "pickscore": "yuvalkirstain/PickScore_v1",
    "hpsv2": "xswu/HPSv2:HPS_v2.1_compressed.pt",
    "clipscore": "openai/clip-vit-base-patch32",
    "aesthetic": "trl-lib/ddpo-aesthetic-predictor:aesthetic-model.pth",  # LAION's file, on the hub
    "imagereward": "zai-org/ImageReward:ImageReward.pt",
}
PYTHON, HTTP, OWN = "python", "http", ""  # the other kinds; OWN: a folder of this project or an official file
CLASS_PATH = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")
_MOVED = {"THUDM/ImageReward": "zai-org/ImageReward"}  # repositories that the hub knows by two names
_PORTS = {"http": 80, "https": 443}


class ScorerName(NamedTuple):
    """A name taken apart: ScorerName(kind="pickscore", checkpoint="yuvalkirstain/PickScore_v1").

    The checkpoint is the dotted path of a class for `python`, and the address for `http`.
    """

    kind: str
    checkpoint: str


def parse_scorer(source: str) -> ScorerName:
    """The kind and the checkpoint of a source. A folder that has the name of a kind is written `./pickscore`."""
    if source.lower().startswith(("http://", "https://")):
        return ScorerName(HTTP, source)
    head, _, rest = source.partition(":")
    if head == PYTHON:
        return ScorerName(PYTHON, rest)
    if head in PUBLISHED:
        return ScorerName(head, rest or PUBLISHED[head])
    return ScorerName(OWN, source)


def with_checkpoint(name: ScorerName, checkpoint: str) -> str:
    """The source whose kind stays and whose checkpoint is another."""
    return f"{name.kind}:{checkpoint}" if name.kind else checkpoint


def identity(source: str) -> str:
    """The same text for every way to name one source, so that it cannot grade itself under another name.

    Kinds are left out: PickScore's checkpoint scores the same order whether it is called `pickscore` or `clipscore`.
    Paths are resolved, addresses are compared without letter case, default port and closing slash.
    """
    kind, checkpoint = parse_scorer(source)
    if kind == PYTHON:
        return f"{PYTHON}:{checkpoint}"
    if kind == HTTP:
        return _plain_address(checkpoint)
    if (path := _expanded(checkpoint)).exists():
        return str(path.resolve())
    repository, colon, file = checkpoint.partition(":")
    return f"{_MOVED.get(repository, repository)}{colon}{file}"


def _expanded(checkpoint: str) -> Path:
    try:
        return Path(checkpoint).expanduser()
    except RuntimeError:  # of a user that there is not: refused, by its setting, where paths are settled
        return Path(checkpoint)


def _plain_address(url: str) -> str:
    parts = urlsplit(url)
    port = parts.port or _PORTS.get(parts.scheme)
    return f"{parts.scheme}://{(parts.hostname or '').lower()}:{port}{parts.path.rstrip('/')}"
