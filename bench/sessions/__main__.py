"""Measure the session store beside raw redis-py, Odoo's files and OCA's session_db.

All calls of a comparison are made in one process, in turn, in an order shuffled each round; what is
shown are medians. `get` and `save` are of one of 100 logged-in sessions. The servers are started
for the occasion and are the development stack's: PostgreSQL without fsync, Redis without
persistence.

Only a quiet machine gives figures worth quoting: the load is shown above and below the table.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from ..command import finish
from .benchmark import run


def counts(text: str) -> list[int]:
    """The numbers of `--sessions`, from the smallest."""
    numbers = sorted({int(word) for word in text.split(",")})
    if numbers[0] < 1000:
        raise argparse.ArgumentTypeError(
            "at least 1000: half of 2,000 identifiers are looked up and found"
        )
    return numbers


def arguments() -> argparse.Namespace:
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        "bench/sessions/run", description=__doc__, formatter_class=form
    )
    parser.add_argument(
        "--rounds", type=int, default=2000, help="calls of `get` and `save` per store (2000)"
    )
    parser.add_argument(
        "--sessions", type=counts, default=[1000, 100_000], metavar="N,N",
        help="how many sessions are stored meanwhile (1000,100000)",
    )  # fmt: skip
    return parser.parse_args()


def main() -> int:
    options = arguments()
    with tempfile.TemporaryDirectory(prefix="bench-sessions-") as folder:
        run(Path(folder), options.rounds, options.sessions)
    return 0


if __name__ == "__main__":
    finish("sessions", main)
