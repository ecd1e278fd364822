"""What the judge asks of a vision-language model, whichever way it runs; and what asking cost."""

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from itercomp_rl.errors import IterCompError, JudgeError


class UnansweredError(IterCompError):
    """The model does not answer one question: it refuses, or its answer cannot be read. Others it may answer."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Asked:
    """One question about one image [H, W, 3]."""

    image: NDArray[np.uint8]
    question: str  # without words on how to answer it


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """Verdict(p_yes=0.93, how="logprobs", text="Yes"); p_yes is None where the question could not be judged."""

    p_yes: float | None
    how: str  # logprobs | scale | refused | unreadable | failed
    text: str  # the answer as it was, or why there is none
    tokens_in: int = 0
    tokens_out: int = 0

    @property
    def is_final(self) -> bool:
        """Whether asking again would change nothing: all but a connection that failed."""
        return self.how != "failed"


@dataclass(kw_only=True)
class Usage:
    """What one process asked so far, and how much it still may; safe to use from several threads.

    Raises: JudgeError from `begin_request` once `max_requests` are spent.
    """

    max_requests: int | None = None
    limit: str = ""  # where the limit comes from, for the error
    requests: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def begin_request(self) -> None:
        """Count a request that is about to be made."""
        with self._lock:
            if self.max_requests is not None and self.requests >= self.max_requests:
                raise JudgeError(
                    f"judge.vlm.max_requests is spent ({self.limit}): raise it and go on with --resume; what was "
                    "answered is kept"
                )
            self.requests += 1

    def add_tokens(self, tokens_in: int, tokens_out: int) -> None:
        """Count the tokens of one answer."""
        with self._lock:
            self.tokens_in += tokens_in
            self.tokens_out += tokens_out


class Vlm(Protocol):
    """A vision-language model that can be asked."""

    usage: Usage

    def ask(self, asked: Sequence[Asked]) -> Iterator[Verdict]:
        """The probability that each answer is yes, in order, as answers come.

        Raises: JudgeError if asking further questions is pointless.
        """
        ...

    def tell(self, instruction: str, prompt: str) -> str:
        """The answer to a text without an image. Raises: UnansweredError, JudgeError."""
        ...
