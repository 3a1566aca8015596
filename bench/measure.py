"""Interleaved timing and a table. Knows nothing of sessions."""

from __future__ import annotations

import os
import random
import statistics
import time
from collections.abc import Callable, Hashable, Iterable, Mapping
from pathlib import Path
from typing import TypeVar

Call = Callable[[], object]
Key = TypeVar("Key", bound=Hashable)


def medians(
    calls: Mapping[Key, Call], rounds: int, after: Mapping[Key, Call] | None = None
) -> dict[Key, float]:
    """The median of each call's time, in seconds.

    Each round makes every call once, in an order of its own: what one call leaves behind (cold
    caches, a sleeping server) falls on all the others alike.

    :param after: what to do, not timed, after each call of that name
    """
    clock, after = time.perf_counter, after or {}
    times: dict[Key, list[float]] = {name: [] for name in calls}
    items = list(calls.items())
    for _ in range(rounds):
        random.shuffle(items)
        for name, call in items:
            start = clock()
            call()
            times[name].append(clock() - start)
            if restore := after.get(name):
                restore()
    return {name: statistics.median(values) for name, values in times.items()}


def load() -> str:
    """How busy the machine is."""
    return (
        f"load {' '.join(Path('/proc/loadavg').read_text().split()[:3])} on {os.cpu_count()} CPUs"
    )


def table(header: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """Columns aligned: the first to the left, the others to the right; an empty row is a line."""
    lines = [list(header), [], *map(list, rows)]
    widths = [
        max(map(len, column)) for column in zip(*(line for line in lines if line), strict=True)
    ]
    rule = "-" * (sum(widths) + 2 * (len(widths) - 1))
    return "\n".join(_aligned(line, widths) if line else rule for line in lines)


def _aligned(cells: list[str], widths: list[int]) -> str:
    first, *others = zip(cells, widths, strict=True)
    return "  ".join([first[0].ljust(first[1]), *(cell.rjust(width) for cell, width in others)])
