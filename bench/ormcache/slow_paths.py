"""Where the shared cache may cost much more than it saves, or be wrong, beside a stock Odoo.

The work is in `addons/ormcache_probe/slow_paths.py`: processes of both arms run the same code.
"""

from __future__ import annotations

import dataclasses
import itertools
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import redis

from stack.servers import PostgreSQL, Redis, Worker, until

from .arms import Arm, Node
from .far import FarAway
from .journey import Client
from .report import Answers, Line, Samples, divided

MS, MICROSECOND = 1e-3, 1e-6
TARGET = 1.2
USER = 2
PROCESSES = 4  # of each arm
KEYS: dict[str, Sequence[str]] = {"default": ["default"], "stable": ["stable"], "all": []}
SENDING = 0.5  # seconds in which what was computed is sent to a Redis that is far away
FAR = {2: 1.05, 10: TARGET}  # milliseconds that Redis takes to answer: the target of a journey
READERS = {
    "looking": "looked before the commit",
    "seeing": "told before, looks after it",
    "later": "told after it",
}
KINDS = {"watched": "early signal", "other": "early signal, unwatched table"}


class SlowPaths:
    """Measures them in processes that run all the time; each arm is the first in every other run.

    :param server: the Redis of the addon's arm
    """

    def __init__(self, arms: list[Arm], postgres: PostgreSQL, server: Redis) -> None:
        self.arms, self.postgres, self.server = arms, postgres, server
        self.samples = Samples()
        self._round_trips: dict[int, float] = {}

    def run(self, runs: int) -> None:
        """Measure; the samples are kept."""
        with ExitStack() as stack:
            processes = self._start(stack)
            for number in range(1, runs + 1):
                _say(f"slow paths: run {number} of {runs}")
                # One after the other, in both orders: what else the machine does falls on all.
                for (case, what), turn in itertools.product(COSTS, (1, 2)):
                    for arm in self._in_order(turn):
                        case(Noted(self.samples, arm), what, processes[arm.name])
                for (case, what), arm in itertools.product(ANSWERS, self._in_order(number)):
                    case(Noted(self.samples, arm), what, processes[arm.name])
        with ExitStack() as stack:
            nodes = {
                (arm.name, far): self._node(stack, arm, far)
                for arm in self.arms
                for far in (FAR if arm.addon else [0])
            }
            for number in range(1, runs + 1):
                _say(f"journeys after caches were cleared: run {number} of {runs}")
                for key, arm in itertools.product(KEYS, self._in_order(number)):
                    for far in FAR if arm.addon else [0]:
                        self._journey(*nodes[arm.name, far], key, far)

    def _in_order(self, number: int) -> list[Arm]:
        return self.arms if number % 2 else self.arms[::-1]

    # --- processes that run what they are told

    def _start(self, stack: ExitStack) -> dict[str, list[Worker]]:
        def start(arm: Arm, number: int) -> Worker:
            return Worker(
                arm.folder / f"process{number}", self.postgres, database=arm.database,
                load=arm.load, config=arm.config, env=arm.env,
            )  # fmt: skip

        with ThreadPoolExecutor(2) as pool:
            started = {
                arm.name: [pool.submit(start, arm, number) for number in range(PROCESSES)]
                for arm in self.arms
            }
            workers = {
                name: [stack.enter_context(future.result()) for future in futures]
                for name, futures in started.items()
            }
        for each in workers.values():
            for worker in each:
                _do(worker, "is_member(env)")  # loads the registry
        return workers

    # --- servers, and a Redis that is far away

    def _node(self, stack: ExitStack, arm: Arm, far: int) -> tuple[Node, Client]:
        """A server that is warm.

        :param far: milliseconds from its Redis; 0: it has none
        """
        if far:
            proxy = stack.enter_context(FarAway(self.server.port))
            proxy.delay = far * MS
            self._round_trips[far] = _round_trip(proxy)
            arm = dataclasses.replace(arm, redis=proxy.url)
        node = stack.enter_context(Node(arm, self.postgres))
        client = Client(node.url, arm.database)
        client.login()
        for _ in range(2):
            client.passage()
        return node, client

    def _journey(self, node: Node, client: Client, key: str, far: int) -> None:
        """A journey after caches were cleared."""
        client.passage()  # all that was cleared before is there again
        time.sleep(SENDING)
        node.clear(*KEYS[key])
        before = node.probe()["queries"]
        seconds = sum(answer.seconds for answer in client.passage())
        cost = seconds, node.probe()["queries"] - before
        for distance in [far] if far else FAR:
            Noted(self.samples, node.arm).cost(f"journey_{key}_{distance}", cost)

    # --- what it comes to

    def sections(self) -> dict[str, list[Line | Answers]]:
        """The table, in three parts."""
        lines = self._lines
        return {
            "a transaction older than a signal": [
                *lines("template_first", "a template, first iteration"),
                *lines("template_others", "a template, each further one", most_queries=TARGET),
                *lines("rule_first", "rules, first iteration"),
                *lines("rule_others", "rules, each further one", MICROSECOND, most_queries=TARGET),
                *lines("import_old", "import, a row that fails", most_queries=TARGET),
            ],
            "other slow paths": [
                *lines("import_first", "import, a row that fails", most_queries=TARGET),
                *lines("import_second", "the same again", most_queries=TARGET),
                *lines("claimed_assets", "a costly value that is claimed"),
                *lines("claimed_menus", "cheap values that are claimed"),
            ],
            "a journey after caches were cleared": [
                line
                for far, target in FAR.items()
                for key in KEYS
                for line in lines(
                    f"journey_{key}_{far}", f"Redis {far} ms away: {key}", most=target
                )
            ],
            "whose answers are right": [
                self._answers("goes_on", "group changed while a job goes on after a commit"),
                *(
                    self._answers(f"early_{what}_{name}", f"{kind}: {reader}")
                    for what, kind in KINDS.items()
                    for name, reader in READERS.items()
                ),
            ],
        }

    def notes(self) -> list[str]:
        """Remarks below the table."""
        found = ", ".join(
            f"{seconds / MS:.1f} ms ({far} ms wanted)"
            for far, seconds in sorted(self._round_trips.items())
        )
        return [f"A PING to the Redis that is far away took {found}."] if found else []

    def _answers(self, name: str, title: str) -> Answers:
        return Answers(title, self.samples.pair(name))

    def _lines(
        self,
        name: str,
        title: str,
        unit: float = MS,
        most: float = TARGET,
        most_queries: float | None = None,
    ) -> list[Line | Answers]:
        """Time and queries of one case.

        :param most: times stock's time
        :param most_queries: times stock's; where stock makes none, none
        """
        seconds, queries = (
            self.samples.pair(f"{name}_seconds"),
            self.samples.pair(f"{name}_queries"),
        )
        stock, addon = queries
        compared = addon if stock == 0 else divided(addon, stock)
        if most_queries is not None and stock == 0:
            most_queries = 0.0
        return [
            Line(
                f"{title}, {'ms' if unit == MS else 'µs'}", seconds, unit, 1,
                compared=self.samples.ratio(f"{name}_seconds"), target=most,
            ),
            Line("... queries", queries, digits=1, compared=compared, target=most_queries),
        ]  # fmt: skip


class Noted:
    """Notes what was measured in one arm.

    :ivar folder: of the arm
    """

    def __init__(self, samples: Samples, arm: Arm) -> None:
        self._samples, self._arm, self.folder = samples, arm.name, arm.folder

    def cost(self, name: str, cost: Sequence[float]) -> None:
        """Seconds and queries."""
        seconds, queries = cost
        self._samples.add(self._arm, **{f"{name}_seconds": seconds, f"{name}_queries": queries})

    def answer(self, name: str, *, right: bool) -> None:
        """Whether an answer is right."""
        self._samples.add(self._arm, **{name: float(right)})


_numbers = itertools.count()

# --- what is measured: each in one arm, whose processes have loaded their registry


def _iterate(note: Noted, what: str, workers: list[Worker]) -> None:
    """A value is looked up again and again in a transaction that is older than a signal."""
    _do(workers[1], "clear_all(env)")  # so that the transaction has what it computes from
    first, others = _do(workers[0], f"in_an_old_transaction(env, {what!r})")
    note.cost(f"{what}_first", first)
    note.cost(f"{what}_others", others)


def _import(note: Noted, what: str, workers: list[Worker]) -> None:
    """Rows of an import fail, after caches were cleared; or in a transaction older than that."""
    if what == "old":
        _first, second = _do(workers[0], "import_rows(env, 'default')")
        note.cost("import_old", second)
    else:
        _do(workers[1], "clear_all(env)")
        first, second = _do(workers[0], "import_rows(env)")
        note.cost("import_first", first)
        note.cost("import_second", second)


def _wait_for_claim(note: Noted, what: str, workers: list[Worker]) -> None:
    """A process looks up what one has that goes on with other work."""
    _do(workers[1], "clear_all(env)")
    with _Paused(workers[0], f"look_up_and_go_on(env, {what!r}, PATH)", note.folder):
        cost = _do(workers[1], f"look_up(env, {what!r})")
    note.cost(f"claimed_{what}", cost)


def _go_on(note: Noted, _what: str, workers: list[Worker]) -> None:
    """Group membership changes while a job goes on after a commit."""
    job, other, *_rest = workers
    _do(other, "set_member(env, False)")
    _do(other, "clear_all(env)")
    assert _do(other, "is_member(env)") is False
    with _Paused(job, "work_and_commit(env, PATH)", note.folder) as end:
        _do(other, "set_member(env, True)")
    note.answer("goes_on", right=end() is True)


def _signal_too_early(note: Noted, what: str, workers: list[Worker]) -> None:
    """Others look, or only check the signals, between the signal and the commit."""
    changing, looking, seeing, later = workers
    _do(changing, "clear_all(env)")
    for worker in workers:
        _do(worker, f"told(env, {what!r})")
    text = f"text {next(_numbers)}"
    with _Paused(changing, f"signal_too_early(env, {what!r}, {text!r}, PATH)", note.folder):
        _do(looking, f"told(env, {what!r})")
        seeing.run("")
    for name, worker in zip(READERS, (looking, seeing, later), strict=True):
        found = _do(worker, f"told(env, {what!r})")
        note.answer(f"early_{what}_{name}", right=found == text)


Case = Callable[[Noted, str, "list[Worker]"], None]
COSTS: list[tuple[Case, str]] = [
    (_iterate, "template"),
    (_iterate, "rule"),
    (_import, "old"),
    (_import, "new"),
    (_wait_for_claim, "assets"),
    (_wait_for_claim, "menus"),
]
ANSWERS: list[tuple[Case, str]] = [(_go_on, ""), *((_signal_too_early, what) for what in KINDS)]


class _Paused:
    """A worker runs something up to its pause, while the caller does other things::

    with _Paused(worker, "work(env, PATH)", folder) as end:
        ...
    end()  # what it gave
    """

    def __init__(self, worker: Worker, call: str, folder: Path) -> None:
        self._worker, self._path = worker, folder / "paused"
        self._call = call.replace("PATH", repr(str(self._path)))
        self._answer: Any = None

    def __enter__(self) -> Callable[[], Any]:
        self._worker.begin(_code(self._call), uid=USER)
        until(self._path.exists, f"the pause in {self._call}")
        return lambda: self._answer

    def __exit__(self, *_exception: object) -> None:
        self._path.unlink(missing_ok=True)
        self._answer = self._worker.end()


def _do(worker: Worker, call: str) -> Any:
    """The result of a function of `addons/ormcache_probe/slow_paths.py`."""
    return worker.run(_code(call), uid=USER)


def _code(call: str) -> str:
    return f"from odoo.addons.ormcache_probe import slow_paths\nresult = slow_paths.{call}"


def _round_trip(proxy: FarAway) -> float:
    """Seconds that a PING takes, the median."""
    with redis.Redis.from_url(proxy.url) as client:
        times = []
        for _ in range(20):
            start = time.perf_counter()
            client.ping()
            times.append(time.perf_counter() - start)
    return statistics.median(times)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
