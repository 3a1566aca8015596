"""All caches are emptied while four prefork workers are busy: what they compute again.

Each client keeps to one worker, so each worker has to serve the whole journey. Spread at random, a
worker would serve a part of it, and how much is recomputed would be a matter of luck.
"""

from __future__ import annotations

import random
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

from stack.servers import PostgreSQL

from .arms import Arm, Node
from .journey import Client
from .report import Line, Samples, divided

MS, MB = 1e-3, 2**20
WORKERS = 4
SETTLING = 2  # passages after which a worker is warm


class Storm:
    """Storms in a server of each arm, both running all the time."""

    def __init__(self, arms: list[Arm], postgres: PostgreSQL) -> None:
        self.arms, self.postgres = arms, postgres
        self.samples = Samples()
        self._clients: dict[str, list[Client]] = {}

    def run(self, runs: int) -> None:
        """Measure; the samples are kept."""
        with ExitStack() as stack:
            nodes = [
                stack.enter_context(Node(arm, self.postgres, workers=WORKERS)) for arm in self.arms
            ]
            for node in nodes:
                clients = [Client(url, node.arm.database) for url in node.urls]
                for client in clients:
                    client.login()
                self._clients[node.arm.name] = clients
            for number in range(1, runs + 1):
                print(f"storms: run {number} of {runs}", file=sys.stderr, flush=True)
                for node in random.sample(nodes, len(nodes)):
                    self._storm(node)

    def _storm(self, node: Node) -> None:
        clients = self._clients[node.arm.name]
        self._settle(node)
        calm_queries, _, calm_seconds = self._passages(node, clients)
        weights = [node.probe("weigh", url=url)["memory"] for url in node.urls]
        node.clear()
        one_queries, _, _ = self._passages(node, clients[:1])
        self._settle(node)
        node.clear()
        storm_queries, storm_cpu, storm_seconds = self._passages(node, clients)
        self.samples.add(
            node.arm.name,
            calm_queries=calm_queries,
            calm_seconds=calm_seconds,
            uss=sum(weight["uss"] for weight in weights) / WORKERS,
            pss=sum(weight["pss"] for weight in weights) / WORKERS,
            one_excess=one_queries - calm_queries / WORKERS,
            storm_excess=storm_queries - calm_queries,
            storm_cpu=storm_cpu,
            storm_seconds=storm_seconds,
        )

    def _settle(self, node: Node) -> None:
        for _ in range(SETTLING):
            self._passages(node, self._clients[node.arm.name])

    def _passages(self, node: Node, clients: list[Client]) -> tuple[int, float, float]:
        """One passage of each client at once: queries and CPU time of all workers, and the time."""
        before = self._statuses(node)
        start = time.perf_counter()
        with ThreadPoolExecutor(len(clients)) as pool:
            passages = list(pool.map(Client.passage, clients))
        seconds = time.perf_counter() - start
        after = self._statuses(node)
        served = {answer.response.headers["X-Worker"] for answers in passages for answer in answers}
        if len(served) != len(clients) or before.keys() != after.keys():
            raise RuntimeError(f"{len(clients)} clients were served by {len(served)} workers")
        queries, cpu = (
            sum(after[pid][key] - before[pid][key] for pid in after) for key in ("queries", "cpu")
        )
        return queries, cpu, seconds

    @staticmethod
    def _statuses(node: Node) -> dict[int, dict[str, Any]]:
        """What each worker says of itself, by its id."""
        statuses = [node.probe(url=url) for url in node.urls]
        return {status["pid"]: status for status in statuses}

    def memory_lines(self) -> list[Line]:
        """What a worker weighs that shares with the others what was loaded before the fork."""
        pair, ratio = self.samples.pair, self.samples.ratio
        return [
            Line("prefork worker, USS, MB", pair("uss"), MB, 1, compared=ratio("uss")),
            Line("prefork worker, PSS, MB", pair("pss"), MB, 1, compared=ratio("pss")),
        ]

    def lines(self) -> list[Line]:
        """What a storm costs."""
        pair = self.samples.pair
        stock_one, storm = pair("one_excess")[0], pair("storm_excess")
        times = divided(storm[0], stock_one), divided(storm[1], stock_one)
        return [
            Line(f"queries of {WORKERS} warm journeys", pair("calm_queries")),
            Line("more after caches were cleared, 1 worker", pair("one_excess")),
            Line(
                f"more after caches were cleared, {WORKERS} workers",
                storm,
                compared=times[1],
                target=1.15,
            ),
            Line(f"{WORKERS} workers / stock's 1", times, digits=2),
            Line(f"{WORKERS} warm journeys at once, ms", pair("calm_seconds"), MS),
            Line(f"{WORKERS} journeys at once after clearing, ms", pair("storm_seconds"), MS),
            Line("... CPU of the workers, ms", pair("storm_cpu"), MS),
        ]
