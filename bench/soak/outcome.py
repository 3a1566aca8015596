"""What a soak leaves: all answers, and what happened to Redis."""

from __future__ import annotations

from typing import NamedTuple

from stack.load import Answer

from .faults import Fault


class Outcome(NamedTuple):
    """What was seen; times in seconds of the monotonic clock."""

    answers: list[Answer]
    faults: list[Fault]
    began: float
    ended: float
