"""A fresh worker beside a warm one: the journey's time and queries, Redis commands, memory."""

from __future__ import annotations

import random
import statistics
import sys
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import redis

from stack.servers import PostgreSQL, Redis

from ..measure import table
from .arms import Arm, Node
from .journey import Client
from .report import Line, Samples, divided

MS, MB = 1e-3, 2**20
METHODS_SHOWN = 25
SETTLING = 4  # passages: Python still collects the garbage of the first one


@dataclass(frozen=True)
class Passage:
    """What one journey cost the process that served it.

    :param cpu: seconds
    :param methods: misses and seconds by cached method, as Odoo counts
    :param shared: what the probe's `shared_counters` says of it
    """

    requests: int
    seconds: float
    cpu: float
    queries: int
    methods: dict[str, tuple[int, float]]
    shared: dict[str, float]


class Fresh:
    """Runs of the journey in processes that have just loaded their registry.

    In each run one process per arm is started. Each makes the journey once, fresh; then they make
    it in turn, warm. Redis was filled by a process that was there before.

    :param rounds: warm passages per process and run
    :param away: whether to make as many after Redis was killed
    """

    def __init__(
        self, arms: list[Arm], postgres: PostgreSQL, server: Redis, rounds: int, *, away: bool
    ) -> None:
        self.arms, self.postgres, self.rounds, self.away = arms, postgres, rounds, away
        self.server = server
        self.redis = redis.Redis.from_url(server.url)
        self.samples = Samples()
        self.methods: dict[str, dict[str, tuple[int, float]]] = {}
        self._clients = {arm.name: Client("", arm.database) for arm in arms}

    def run(self, runs: int) -> None:
        """Measure; the samples are kept."""
        for arm in self.arms:
            self._log_in(arm)
        self._fill(measured=True)
        for number in range(1, runs + 1):
            _say(f"fresh workers: run {number} of {runs}")
            with ExitStack() as stack:
                # The same in both arms, another than that of the process that filled Redis: a key
                # that depends on the order of a set will not be found.
                seed = random.randrange(2**32)
                nodes = [Node(arm, self.postgres, seed=seed) for arm in self._shuffled(self.arms)]
                for node in nodes:
                    stack.enter_context(node)
                    self._fresh(node)
                self._warm(nodes)
                if self.away:
                    self._without_redis(nodes)
            if self.away:
                self.server.start()
                self._fill()

    def _log_in(self, arm: Arm) -> None:
        """And touch what a database reads for the first time."""
        client = self._clients[arm.name]
        with Node(arm, self.postgres) as node:
            client.url = node.url
            client.login()
            client.passage()
            client.passage()

    def _fill(self, *, measured: bool = False) -> None:
        """Fill Redis, by a process with the addon."""
        for arm in self.arms:
            if arm.name == "addon":
                self.redis.flushall()
                with Node(arm, self.postgres) as node:
                    first = self._passage(node)
                    self._clients[arm.name].passage()
                if measured:
                    self.samples.add(
                        "addon",
                        filling_seconds=first.seconds,
                        filling_queries=first.queries,
                        redis_keys=self.redis.dbsize(),
                        redis_bytes=self.redis.info("memory")["used_memory"],
                    )

    def _fresh(self, node: Node) -> None:
        self.redis.config_resetstat()
        passage = self._passage(node)
        status = node.probe()
        self.methods[node.arm.name] = passage.methods
        self.samples.add(
            node.arm.name,
            fresh_seconds=passage.seconds,
            fresh_cpu=passage.cpu,
            fresh_queries=passage.queries,
            fresh_commands=self._commands(),
            misses=sum(misses for misses, _ in passage.methods.values()),
            method_seconds=sum(seconds for _, seconds in passage.methods.values()),
            **{key: status[key] for key in ("start_seconds", "registry_seconds")},
            **{f"shared_{key}": value for key, value in passage.shared.items()},
        )

    def _warm(self, nodes: list[Node]) -> None:
        """Make passages in turn, after some that settle what the fresh one left."""
        self._settle(nodes)
        self.redis.config_resetstat()
        passages = self._in_turn(nodes)
        commands = self._commands()
        for node in nodes:
            name = node.arm.name
            made = passages[name]
            self.samples.add(
                name,
                requests=made[0].requests,
                warm_seconds=statistics.median(passage.seconds for passage in made),
                warm_cpu=statistics.median(passage.cpu for passage in made),
                warm_queries=statistics.median(passage.queries for passage in made),
                warm_commands=commands / self.rounds / made[0].requests,
                **node.probe("weigh")["memory"],
            )

    def _without_redis(self, nodes: list[Node]) -> None:
        """Kill it, clear all caches, and make passages in turn again."""
        self.server.kill()
        for node in self._shuffled(nodes):
            node.clear()
            self.samples.add(node.arm.name, cleared_seconds=self._passage(node).seconds)
        self._settle(nodes)
        for name, made in self._in_turn(nodes).items():
            seconds = statistics.median(passage.seconds for passage in made)
            self.samples.add(name, away_seconds=seconds)

    def _settle(self, nodes: list[Node]) -> None:
        for _ in range(SETTLING):
            for node in nodes:
                self._clients[node.arm.name].passage()

    def _in_turn(self, nodes: list[Node]) -> dict[str, list[Passage]]:
        """`rounds` passages each, by arm; measured as a fresh one is."""
        passages: dict[str, list[Passage]] = {node.arm.name: [] for node in nodes}
        for _ in range(self.rounds):
            for node in self._shuffled(nodes):
                passages[node.arm.name].append(self._passage(node))
        return passages

    def _passage(self, node: Node) -> Passage:
        """Make the journey there."""
        client = self._clients[node.arm.name]
        client.url = node.url
        before = node.probe()
        answers = client.passage()
        after = node.probe()
        if {answer.response.headers["X-Worker"] for answer in answers} != {str(node.pid)}:
            raise RuntimeError("another process answered")
        shared, methods = after["shared"] or {}, {}
        for name, (misses, seconds) in after["methods"].items():
            misses_before, seconds_before = before["methods"].get(name, (0, 0.0))
            if misses > misses_before:
                methods[name] = misses - misses_before, seconds - seconds_before
        return Passage(
            requests=len(answers),
            seconds=sum(answer.seconds for answer in answers),
            cpu=after["cpu"] - before["cpu"],
            queries=after["queries"] - before["queries"],
            methods=methods,
            shared={key: shared[key] - before["shared"].get(key, 0) for key in shared},
        )

    def _commands(self) -> int:
        """How many commands Redis was given since its counters were reset, ours left out."""
        stats = self.redis.info("commandstats")
        ours = ("cmdstat_config", "cmdstat_info")
        return sum(stat["calls"] for name, stat in stats.items() if not name.startswith(ours))

    @staticmethod
    def _shuffled(items: Iterable[Any]) -> list[Any]:
        return random.sample(items := list(items), len(items))

    # --- what it comes to

    def fresh_lines(self) -> list[Line]:
        """Time and queries, fresh and warm."""
        s = self.samples
        pair, ratio = s.pair, s.ratio
        fresh_ms, fresh_queries = pair("fresh_seconds"), pair("fresh_queries")
        warm_ms, warm_queries = pair("warm_seconds"), pair("warm_queries")
        commands = pair("warm_commands")[1]
        own_ms = divided(fresh_ms[0], warm_ms[0]), divided(fresh_ms[1], warm_ms[1])
        own_queries = (
            divided(fresh_queries[0], warm_queries[0]),
            divided(fresh_queries[1], warm_queries[1]),
        )
        return [
            Line(
                "fresh worker, ms", fresh_ms, MS,
                compared=divided(fresh_ms[1], warm_ms[0]), target=1.2,
            ),
            Line(
                "fresh worker, queries", fresh_queries,
                compared=divided(fresh_queries[1], warm_queries[0]), target=1.2,
            ),
            Line("warm worker, ms", warm_ms, MS, 1, compared=ratio("warm_seconds"), target=1.03),
            Line("warm worker, queries", warm_queries, compared=ratio("warm_queries")),
            Line(
                "Redis commands per warm request",
                (None, commands), digits=2, compared=commands, target=0,
            ),
            Line("fresh worker, CPU ms", pair("fresh_cpu"), MS),
            Line("warm worker, CPU ms", pair("warm_cpu"), MS, 1, compared=ratio("warm_cpu")),
            Line("fresh / its own warm, time", own_ms, digits=2),
            Line("fresh / its own warm, queries", own_queries, digits=2),
            Line("fresh worker while Redis is empty, ms (once)", pair("filling_seconds"), MS),
            Line("fresh worker while Redis is empty, queries (once)", pair("filling_queries")),
            Line("Redis commands of a fresh journey", (None, pair("fresh_commands")[1])),
            Line("keys in Redis", pair("redis_keys")),
            Line("memory of Redis, MB", pair("redis_bytes"), MB, 1),
            Line(
                "loading the registry, s",
                pair("registry_seconds"), digits=2, compared=ratio("registry_seconds"),
            ),
            Line(
                "from start to ready, s",
                pair("start_seconds"), digits=2, compared=ratio("start_seconds"),
            ),
        ]  # fmt: skip

    def share_lines(self) -> list[Line]:
        """What a fresh worker did not have to compute."""
        pair = self.samples.pair
        (_, computed), (_, saved) = pair("shared_computed"), pair("shared_saved")
        share = None if computed is None or saved is None else divided(saved, computed + saved)
        return [
            Line("misses, as Odoo counts", pair("misses")),
            Line("in cached methods, as Odoo counts, ms", pair("method_seconds"), MS),
            Line("computed, ms", (None, computed), MS),
            Line(
                "saved by the shared cache, ms", (None, saved), MS,
                compared=share, target=0.95, at_least=True, percent=True,
            ),
        ]  # fmt: skip

    def away_lines(self) -> list[Line]:
        """What it costs when Redis has been killed."""
        pair, ratio = self.samples.pair, self.samples.ratio
        return [
            Line(
                "warm worker, ms",
                pair("away_seconds"), MS, 1, compared=ratio("away_seconds"), target=1.05,
            ),
            Line(
                "caches cleared once, ms",
                pair("cleared_seconds"), MS, compared=ratio("cleared_seconds"),
            ),
        ]  # fmt: skip

    def memory_lines(self) -> list[Line]:
        """What a worker weighs when it is warm."""
        pair, ratio = self.samples.pair, self.samples.ratio
        return [
            Line("one process, USS, MB", pair("uss"), MB, 1, compared=ratio("uss"), target=1.05),
            Line("one process, PSS, MB", pair("pss"), MB, 1, compared=ratio("pss")),
        ]

    def notes(self) -> list[str]:
        """What the table leaves out."""
        counts = [count for arm in self.arms for count in self.samples.all(arm.name, "requests")]
        lines = [
            f"The journey has {counts[0]:.0f} requests. A fresh worker with the addon is compared"
            " with a warm one without."
        ]
        names = {
            "warm_seconds": "warm time",
            "warm_cpu": "warm CPU",
            "away_seconds": "warm time without Redis",
            "uss": "USS",
        }
        for name, title in names.items():
            if ratios := self.samples.ratios(name):
                shown = " ".join(f"{ratio:.3f}" for ratio in ratios)
                lines.append(f"{title}, addon / stock, in each run: {shown}")
        return lines

    def details(self) -> str:
        """The methods that a fresh worker spends most time in."""
        names = {name for methods in self.methods.values() for name in methods}
        cost = {
            name: max(methods.get(name, (0, 0.0))[1] for methods in self.methods.values())
            for name in names
        }
        rows = []
        for name in sorted(cost, key=cost.__getitem__, reverse=True)[:METHODS_SHOWN]:
            found = [self.methods[arm.name].get(name, (0, 0.0)) for arm in self.arms]
            rows.append([name, *(f"{n}" for n, _ in found), *(f"{t / MS:.1f}" for _, t in found)])
        header = [
            "last fresh worker; inner calls count twice",
            *(f"{arm.name} {what}" for what in ("misses", "ms") for arm in self.arms),
        ]
        return table(header, rows)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
