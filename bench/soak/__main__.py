"""Let people work on two nodes while Redis fails in one way after the other; see what they notice.

A primary with two replicas, watched by three sentinels, each server behind a proxy; one threaded
node and one of two workers. 50 users click; others read what is cached while somebody changes it;
others log in on one node and out on the other. Every 20 seconds something happens to Redis.

Exits with 1 if a user was logged out who should not be, a logout did not hold, something stale was
read, an answer was wrong, a request waited too long for Redis, or a process did not go back to what
it was.
"""

from __future__ import annotations

import argparse
import random
import tempfile
from pathlib import Path

from ..command import finish
from .course import run


def arguments() -> argparse.Namespace:
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("bench/soak/run", description=__doc__, formatter_class=form)
    parser.add_argument("--minutes", type=float, default=15, help="how long it takes (15)")
    parser.add_argument(
        "--seed", type=int, default=random.randrange(10**6), help="of the order of what happens"
    )
    parser.add_argument("--chart", type=Path, help="where to draw what happened, as SVG")
    return parser.parse_args()


def main() -> int:
    options = arguments()
    with tempfile.TemporaryDirectory(prefix="bench-soak-") as folder:
        return run(Path(folder), options.minutes * 60, options.seed, options.chart)


if __name__ == "__main__":
    finish("soak", main)
