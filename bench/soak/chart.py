"""A soak over time: answers by the second, the longest wait for Redis, and what happened to it."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from soak_faults import FAULTS

from stack.crowd import RIGHT, UNAVAILABLE

if TYPE_CHECKING:
    from soak_run import Outcome

RIGHT_COLOUR, AWAY_COLOUR, WAIT_COLOUR = "#4c78a8", "#e45756", "#333333"


def draw(path: Path, outcome: Outcome, budget: float) -> None:
    """Draw it as SVG, with the seconds that a request may wait."""
    mpl.rcParams |= {"svg.fonttype": "none", "svg.hashsalt": "soak", "font.size": 9}
    seconds = int(outcome.ended - outcome.began) + 1
    counts = {verdict: [0] * seconds for verdict in (RIGHT, UNAVAILABLE)}
    waits: dict[int, float] = defaultdict(float)
    for answer in outcome.answers:
        second = int(answer.ended - outcome.began)
        if 0 <= second < seconds and answer.verdict in counts:
            counts[answer.verdict][second] += 1
            waits[second] = max(waits[second], answer.waited)
    colours = dict(zip(FAULTS, mpl.colormaps["tab20"].colors, strict=False))

    figure = Figure(figsize=(12, 6), layout="constrained")
    happening, answers, waiting = figure.subplots(3, sharex=True, height_ratios=[0.2, 3, 1])
    for fault in outcome.faults:
        began, ended = ((t - outcome.began) / 60 for t in (fault.began, fault.ended))
        happening.axvspan(began, ended, color=colours[fault.name], lw=0)
    happening.set_yticks([])
    times = [second / 60 for second in range(seconds)]
    answers.stackplot(
        times, counts[RIGHT], counts[UNAVAILABLE], colors=[RIGHT_COLOUR, AWAY_COLOUR], step="post"
    )
    answers.set_ylabel("answers per second")
    waiting.plot(times, [waits[second] for second in range(seconds)], color=WAIT_COLOUR, lw=0.7)
    waiting.axhline(budget, color=AWAY_COLOUR, ls="--", lw=0.8)
    waiting.set_ylabel("longest wait\nfor Redis, s")
    waiting.set_xlabel("minutes")
    for axes in (answers, waiting):
        axes.set_xlim(0, times[-1])
        axes.set_ylim(bottom=0)
        axes.spines[["top", "right"]].set_visible(False)
    happened = {fault.name for fault in outcome.faults}
    figure.legend(
        handles=[
            Patch(color=RIGHT_COLOUR, label="right"),
            Patch(color=AWAY_COLOUR, label="503"),
            *(
                Patch(color=colour, label=name)
                for name, colour in colours.items()
                if name in happened
            ),
        ],
        loc="outside upper center", ncols=7, frameon=False,
    )  # fmt: skip
    figure.savefig(path, format="svg", metadata={"Date": None})
