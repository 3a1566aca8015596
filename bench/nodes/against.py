"""A warm request of this code beside the same request of another commit's.

Both nodes serve the same database, each with keys of its own in one Redis. They take turns in short
rounds, in both orders, so that a slow moment of the machine meets both.
"""

from __future__ import annotations

import http.client
import itertools
import os
import statistics
import subprocess
import time
from pathlib import Path
from urllib.parse import urlsplit

from stack.provision import environment
from stack.servers import Odoo, PostgreSQL, Redis, init_database, start_all, stop_all

from ..measure import load
from .login import log_in

DATABASE = "bench_against"
PAGES = "/odoo", "/web/health", "/web/webclient/load_menus"
REQUESTS = 40  # of a page in a round
SETTLING = 100  # of a page, before
ROOT = Path(__file__).resolve().parents[2]


def measure(folder: Path, commit: str, rounds: int) -> None:
    """Print the ratio of each page."""
    other = folder / "other" / environment.ADDON
    subprocess.run(
        ["git", "-C", str(ROOT), "worktree", "add", "--detach", str(other), commit],
        check=True, capture_output=True,
    )  # fmt: skip
    try:
        with (
            PostgreSQL(environment.home() / "bench/postgresql") as postgres,
            Redis(folder / "redis") as redis,
        ):
            postgres.dropdb(DATABASE)
            init_database(postgres, DATABASE, ["web"])
            own = str(environment.addons_path())
            nodes = [
                Odoo(
                    name, folder / name, postgres, database=DATABASE, workers=1,
                    config={"addons_path": path}, env={"PYTHONHASHSEED": "0"},
                    redis={"url": redis.url, "prefix": name},
                )
                for name, path in (("this", own), ("other", f"{other.parent},{_without(own)}"))
            ]  # fmt: skip
            start_all(*nodes)
            try:
                _compare(nodes, commit, rounds)
            finally:
                stop_all(*nodes)
                postgres.dropdb(DATABASE)
    finally:
        subprocess.run(
            ["git", "-C", str(ROOT), "worktree", "remove", "--force", str(other)], check=True
        )


def _without(path: str) -> str:
    """An addons path without the folder of this addon."""
    return ",".join(
        each for each in path.split(",") if not os.path.exists(f"{each}/{environment.ADDON}")
    )


class _Visitor:
    """Somebody who is logged in, on one connection."""

    def __init__(self, node: Odoo) -> None:
        self._headers = {"Cookie": log_in(node.url)}
        self._connection = http.client.HTTPConnection(urlsplit(node.url).netloc, timeout=60)

    def seconds(self, page: str, count: int) -> list[float]:
        """Seconds that each of so many requests takes."""
        took = []
        for _time in range(count):
            began = time.perf_counter()
            self._connection.request("GET", page, headers=self._headers)
            answer = self._connection.getresponse()
            answer.read()
            took.append(time.perf_counter() - began)
            assert answer.status == 200, f"{page}: {answer.status}"
        return took


def _compare(nodes: list[Odoo], commit: str, rounds: int) -> None:
    visitors = [_Visitor(node) for node in nodes]
    for visitor, page in itertools.product(visitors, PAGES):
        visitor.seconds(page, SETTLING)
    print(load(), flush=True)
    for page in PAGES:
        ratios, here = [], []
        for number in range(rounds):
            order = (0, 1) if number % 2 else (1, 0)
            medians = {
                which: statistics.median(visitors[which].seconds(page, REQUESTS)) for which in order
            }
            ratios.append(medians[0] / medians[1])
            here.append(medians[0])
        low, _middle, high = statistics.quantiles(ratios, n=4)
        print(
            f"{page:28} {statistics.median(here) * 1e3:7.2f} ms, {statistics.median(ratios):.3f} x"
            f" {commit} (half of the rounds: {low:.3f} to {high:.3f})",
            flush=True,
        )
    print(load())
