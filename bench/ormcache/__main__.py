"""Measure the shared ormcache: Odoo with this addon beside the same Odoo without.

fresh   a journey of one user and one visitor over HTTP, in a worker whose caches are empty
        and in a warm one: time, queries, Redis commands, how long the registry takes to load
away    the same warm passages after Redis was killed and all caches were cleared
memory  what such a worker weighs when it is warm: its own pages alone (USS), and with its share
        of the others (PSS); `storm` adds workers that share what was loaded before the fork
hit     one value found in the process's own cache, in one process, in turn
storm   all caches cleared under four prefork workers: what they compute again together
slow-paths
        what may cost much more than in stock Odoo, and what may be wrong: a transaction that is
        older than a signal, an import whose rows fail, a value that somebody else has claimed,
        caches cleared while Redis is far away, commits and signals in unusual orders

Arms are measured in turn in the same run; what is shown are medians over the runs, of ratios too.
Two processes that run the same differ by some percent: for the ratio of warm ones, give more runs.
The database is made once and kept in the private folder. PostgreSQL is without fsync, Redis
without persistence, sessions are in files in both arms.

Only a quiet machine gives figures worth quoting: the load is shown above and below the table.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path

from ..command import finish
from .benchmark import run

PARTS, ARMS = ["fresh", "away", "hit", "storm", "slow-paths", "memory"], ["stock", "addon"]


def some_of(names: list[str]) -> Callable[[str], list[str]]:
    """A parser of some of these names, with commas between; given back in their order."""

    def parse(text: str) -> list[str]:
        words = text.split(",")
        if unknown := set(words) - set(names):
            raise argparse.ArgumentTypeError(f"{', '.join(unknown)}: not of {','.join(names)}")
        return [name for name in names if name in words]

    return parse


def arguments() -> argparse.Namespace:
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        "bench/ormcache/run", description=__doc__, formatter_class=form
    )
    parser.add_argument("--runs", type=int, default=5, help="new processes per arm and part (5)")
    parser.add_argument(
        "--rounds", type=int, default=20, help="warm passages per process: fresh, away (20)"
    )
    parser.add_argument("--only", type=some_of(PARTS), default=PARTS, metavar="PART,PART")
    parser.add_argument("--arms", type=some_of(ARMS), default=ARMS, metavar="ARM,ARM")
    parser.add_argument(
        "--details", action="store_true", help="show what a fresh worker's time is spent in"
    )
    parser.add_argument(
        "--control", action="store_true",
        help="leave the addon out of its arm too: how far apart are two that are the same?",
    )  # fmt: skip
    return parser.parse_args()


def main() -> int:
    options = arguments()
    with tempfile.TemporaryDirectory(prefix="bench-ormcache-") as folder:
        run(
            Path(folder), options.runs, options.rounds, options.only, options.arms,
            details=options.details, control=options.control,
        )  # fmt: skip
    return 0


if __name__ == "__main__":
    finish("ormcache", main)
