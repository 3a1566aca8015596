"""The table that `bench/ormcache/run` prints: figures of both arms, and targets met or missed."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..measure import table

HEADER = ["", "stock", "addon", "compared", "target", ""]
Pair = tuple["float | None", "float | None"]  # of stock and of the addon


class Samples:
    """What was measured, by arm and name, once per run."""

    def __init__(self) -> None:
        self._values: defaultdict[tuple[str, str], list[float]] = defaultdict(list)

    def add(self, arm: str, **values: float) -> None:
        """Note values of one run."""
        for name, value in values.items():
            self._values[arm, name].append(value)

    def all(self, arm: str, name: str) -> list[float]:
        """The values of all runs."""
        return self._values.get((arm, name), [])

    def median(self, arm: str, name: str) -> float | None:
        """The median of the runs; None if it was not measured."""
        values = self.all(arm, name)
        return statistics.median(values) if values else None

    def pair(self, name: str) -> Pair:
        """The medians of both arms."""
        return self.median("stock", name), self.median("addon", name)

    def ratios(self, name: str) -> list[float]:
        """Addon / stock of each run."""
        pairs = zip(self.all("addon", name), self.all("stock", name), strict=False)
        return [addon / stock for addon, stock in pairs]

    def ratio(self, name: str) -> float | None:
        """The median of the ratios."""
        ratios = self.ratios(name)
        return statistics.median(ratios) if ratios else None


@dataclass(frozen=True)
class Line:
    """A line of the table.

    :param unit: what one is, of the figures shown
    :param compared: what has to meet the target
    :param at_least: whether the target is the least it may be, not the most
    """

    title: str
    values: Pair = (None, None)
    unit: float = 1
    digits: int = 0
    compared: float | None = None
    target: float | None = None
    at_least: bool = False
    percent: bool = False

    def cells(self) -> list[str]:
        shown = [
            "" if value is None else f"{value / self.unit:,.{self.digits}f}"
            for value in self.values
        ]
        return [self.title, *shown, self._number(self.compared), *self._verdict()]

    def _number(self, value: float | None) -> str:
        if value is None:
            return ""
        return f"{value:.1%}" if self.percent else f"{value:.3g}" if value > 10 else f"{value:.2f}"

    def _verdict(self) -> list[str]:
        if self.target is None:
            return ["", ""]
        target = f"{'>=' if self.at_least else '<='} {self._number(self.target)}"
        if self.compared is None:
            return [target, "not measured"]
        met = self.compared >= self.target if self.at_least else self.compared <= self.target
        return [target, "met" if met else "MISSED"]


@dataclass(frozen=True)
class Answers:
    """A line that says which arm's answers are right.

    :param values: the share of the runs in which they are
    :param target: whether the addon's are to be right wherever stock's are
    """

    title: str
    values: Pair
    target: bool = True

    def cells(self) -> list[str]:
        stock, addon = self.values
        verdict = ["", ""]
        if self.target:
            met = addon is None or addon >= (1.0 if stock is None else stock)
            verdict = ["as stock", "not measured" if addon is None else "met" if met else "MISSED"]
        return [self.title, *map(self._word, self.values), "", *verdict]

    @staticmethod
    def _word(share: float | None) -> str:
        if share is None:
            return ""
        return "right" if share == 1 else "wrong" if share == 0 else f"right {share:.0%}"


def divided(above: float | None, below: float | None) -> float | None:
    """A ratio; None where there is none."""
    return above / below if above is not None and below else None


def report(sections: Mapping[str, Sequence[Line | Answers]]) -> str:
    """All sections as one table."""
    rows: list[list[str]] = []
    for title, lines in sections.items():
        rows += [*([[]] if rows else []), [title, *[""] * (len(HEADER) - 1)]]
        rows += [[f"  {first}", *others] for first, *others in (line.cells() for line in lines)]
    return table(HEADER, rows)
