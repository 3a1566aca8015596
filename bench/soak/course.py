"""What `bench/soak/run` does and shows."""

from __future__ import annotations

import random
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from stack.load import LOGGED_OUT, RIGHT, UNAVAILABLE, WRONG, Crowd, Site, User
from stack.servers import PostgreSQL, Sentinels, init_database

from ..measure import load, table
from .chart import draw
from .faults import FAULTS, Fault, happen
from .outcome import Outcome
from .people import PAUSE, History, Reader, Visit, Visitor, Writer

DATABASE = "soak"
DURABLE = {"appendonly": "yes", "appendfsync": "always"}
USERS, READERS = 50, 4
PERIOD = 20.0  # seconds from the beginning of a fault to that of the next
BUDGET = 2.5  # seconds: of a session, and of cached values
CONNECTIONS = 128  # of a process to one server: both pools, full


def run(folder: Path, seconds: float, seed: int, chart: Path | None) -> int:
    """Do it all; 1 if something is not as it should be."""
    with (
        PostgreSQL(folder / "postgresql") as postgres,
        Sentinels(folder / "redis", config=DURABLE, proxied=True) as sentinels,
    ):
        init_database(postgres, DATABASE, ["web"])
        with Site(
            folder / "site", postgres, sentinels.url, database=DATABASE, users=USERS + READERS + 1
        ) as site:
            return _run(site, sentinels, seconds, seed, chart)


def _run(site: Site, sentinels: Sentinels, seconds: float, seed: int, chart: Path | None) -> int:
    everybody = [(user.uid, user.sid) for user in site.crowd().users]
    history = History()
    users = [User(site.nodes, *who, PAUSE) for who in everybody[:USERS]]
    readers = [Reader(site.nodes, *who, PAUSE) for who in everybody[USERS:-1]]
    writer = Writer(site.nodes, *everybody[-1], PAUSE)
    witnesses: list[Reader | Writer] = [*readers, writer]
    for one in witnesses:
        one.history = history
    visitor = Visitor(site)
    before, logs = site.footprint(), site.log_sizes()
    print(f"seed {seed}; {load()}")
    faults: list[Fault] = []
    with Crowd([*users, *witnesses]) as crowd:
        visitor.start()
        began = time.monotonic()
        time.sleep(PERIOD)
        for name in _order(seed, int(seconds / PERIOD) - 2):
            print(f"{time.monotonic() - began:6.0f} s  {name}", file=sys.stderr, flush=True)
            until = time.monotonic() + PERIOD
            faults.append(happen(name, sentinels, until))
            time.sleep(max(until - time.monotonic(), 0))
        recovered = crowd.recovers()
        ended = time.monotonic()
        visitor.leaves.set()
        visitor.join()
    leaked = site.leaks(before, CONNECTIONS)
    outcome = Outcome(crowd.answers, faults, began, ended)
    undone = [visit for visit in visitor.visits if not visit.holds and _undone(visit, faults)]
    broken = [visit for visit in visitor.visits if not visit.holds and visit not in undone]
    verdicts = crowd.verdicts()
    stale = [told for reader in readers for told in reader.stale]
    errors = site.errors(logs)
    _show(outcome, verdicts, visitor.visits)
    must_be_none: dict[str, Sequence[object]] = {
        "logged out": [a for a in outcome.answers if a.verdict == LOGGED_OUT],
        "logins and logouts that did not hold": broken,
        "stale reads": stale,
        "wrong answers": [*(a for a in outcome.answers if a.verdict == WRONG), *visitor.wrong],
        "waits beyond the budget": [a for a in outcome.answers if a.waited > BUDGET + 0.5],
        "errors in the logs": errors,
        "processes that are not what they were": leaked,
        "not recovered": [] if recovered else [verdicts],
    }
    print(f"undone by a failover: {Counter(visit.what for visit in undone) or 'nothing'}")
    for what, found in must_be_none.items():
        print(f"{what}: {len(found)}", *found[:3], sep="\n    ")
    print(load())
    if chart:
        draw(chart, outcome, BUDGET)
    return int(any(must_be_none.values()))


def _order(seed: int, count: int) -> list[str]:
    """The faults, in an order of chance, each as often as the others."""
    chance = random.Random(seed)
    order: list[str] = []
    while len(order) < count:
        order += chance.sample(sorted(FAULTS), len(FAULTS))
    return order[:count]


def _undone(visit: Visit, faults: Sequence[Fault]) -> bool:
    """Whether another primary was made between a change and the look at it."""
    return any(
        fault.switched is not None
        and fault.began <= visit.seen
        and visit.acknowledged <= fault.switched + PERIOD
        for fault in faults
    )


def _show(outcome: Outcome, verdicts: Counter[str], visits: Sequence[Visit]) -> None:
    answers = outcome.answers
    rows = []
    for name in FAULTS:
        same = [fault for fault in outcome.faults if fault.name == name]
        outages, waits, failovers = [], [], []
        for fault in same:
            during = [a for a in answers if fault.began <= a.ended < fault.began + PERIOD]
            outages.append(len({int(a.ended) for a in during if a.verdict == UNAVAILABLE}))
            waits.append(max((a.waited for a in during), default=0.0))
            if fault.switched is not None:
                failovers.append(fault.switched - fault.began)
        if same:
            rows.append(
                [
                    name,
                    str(len(same)),
                    str(max(outages)),
                    f"{max(failovers):.1f}" if failovers else "-",
                    f"{max(waits):.2f}",
                ]
            )
    print(
        table(
            ["of the primary", "times", "seconds with a 503", "failover after, s", "wait, s"], rows
        )
    )
    minutes = (outcome.ended - outcome.began) / 60
    held = Counter(visit.what for visit in visits if visit.holds)
    print(
        f"{minutes:.1f} minutes, {len(answers):,} answers: {verdicts[RIGHT]:,} right, "
        f"{verdicts[UNAVAILABLE]:,} 503; {held['login']} logins and {held['logout']} logouts held; "
        f"longest wait for Redis {max(a.waited for a in answers):.2f} s"
    )
