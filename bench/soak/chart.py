"""A soak over time: answers by the second, the longest wait for Redis, and what happened to it."""

from __future__ import annotations

import io
import math
import re
from pathlib import Path

import matplotlib as mpl
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from stack.load import RIGHT, UNAVAILABLE

from .faults import FAULTS
from .outcome import Outcome

RIGHT_COLOUR, AWAY_COLOUR, WAIT_COLOUR = "#4c78a8", "#e45756", "#333333"
MOST_BINS = 150  # each a step of whole seconds: the picture is to stay small


def draw(path: Path, outcome: Outcome, budget: float) -> None:
    """Draw it as SVG, with the seconds that a request may wait."""
    mpl.rcParams |= {"svg.fonttype": "none", "svg.hashsalt": "soak", "font.size": 9}
    width, right, away, waits = _binned(outcome)
    edges = [width * number / 60 for number in range(len(waits) + 1)]

    figure = Figure(figsize=(12, 6), layout="constrained")
    happening, answers, waiting = figure.subplots(3, sharex=True, height_ratios=[0.2, 3, 1])
    palette = mpl.colormaps["tab20"]
    colours = {name: to_hex(palette(number)) for number, name in enumerate(FAULTS)}
    for fault in outcome.faults:
        began, ended = ((t - outcome.began) / 60 for t in (fault.began, fault.ended))
        happening.axvspan(began, ended, color=colours[fault.name], lw=0)
    happening.set_yticks([])
    both = [sum(rates) for rates in zip(right, away, strict=True)]
    answers.stairs(both, edges, fill=True, color=AWAY_COLOUR, lw=0)
    answers.stairs(right, edges, fill=True, color=RIGHT_COLOUR, lw=0)  # covers the other's
    answers.set_ylabel("answers per second")
    waiting.stairs(waits, edges, baseline=None, color=WAIT_COLOUR, lw=0.9)
    waiting.axhline(budget, color=AWAY_COLOUR, ls="--", lw=0.8)
    below = {"xytext": (0, -3), "textcoords": "offset points", "ha": "right", "va": "top"}
    waiting.annotate("budget", (edges[-1], budget), color=AWAY_COLOUR, **below)
    waiting.set_ylabel("longest wait\nfor Redis, s")
    waiting.set_xlabel("minutes")
    for axes in (answers, waiting):
        axes.set_xlim(0, edges[-1])
        axes.set_ylim(bottom=0)
        axes.spines[["top", "right"]].set_visible(False)
    happened = {fault.name for fault in outcome.faults}
    patches = {"right": RIGHT_COLOUR, "503": AWAY_COLOUR}
    patches |= {name: colour for name, colour in colours.items() if name in happened}
    figure.legend(
        handles=[Patch(color=colour, label=name) for name, colour in patches.items()],
        loc="outside upper center", ncols=7, frameon=False,
    )  # fmt: skip
    drawn = io.StringIO()
    figure.savefig(drawn, format="svg", metadata={"Date": None})
    path.write_text(_compact(drawn.getvalue()))


def _binned(outcome: Outcome) -> tuple[int, list[float], list[float], list[float]]:
    """Seconds of a bin; then by bin: right answers and 503s a second, the longest wait."""
    seconds = outcome.ended - outcome.began
    width = math.ceil(seconds / MOST_BINS)
    bins = math.ceil(seconds / width)
    lengths = [min(width, seconds - width * number) for number in range(bins)]
    counts: dict[str, list[int]] = {verdict: [0] * bins for verdict in (RIGHT, UNAVAILABLE)}
    waits = [0.0] * bins
    for answer in outcome.answers:
        number = int((answer.ended - outcome.began) // width)
        if 0 <= number < bins and answer.verdict in counts:
            counts[answer.verdict][number] += 1
            waits[number] = max(waits[number], answer.waited)
    right, away = (
        [count / length for count, length in zip(counts[verdict], lengths, strict=True)]
        for verdict in (RIGHT, UNAVAILABLE)
    )
    return width, right, away, waits


def _compact(svg: str) -> str:
    """The same with two decimals, and each path on one line."""
    return re.sub(r" *\n(?=[LQz\"])", " ", re.sub(r"(\.\d\d)\d+", r"\1", svg))
