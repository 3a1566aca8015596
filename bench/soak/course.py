"""What `bench/soak` does and shows."""

from __future__ import annotations

import random
import sys
import threading
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import requests
from measure import load, table
from soak_faults import FAULTS, Fault, happen

from stack.crowd import LOGGED_OUT, RIGHT, UNAVAILABLE, WRONG, Answer, Crowd, Site, User
from stack.servers import Odoo, PostgreSQL, init_database
from stack.topologies import Sentinels

DATABASE = "soak"
DURABLE = {"appendonly": "yes", "appendfsync": "always"}
USERS, READERS = 50, 4
PERIOD = 20.0  # seconds from the beginning of a fault to that of the next
BUDGET = 2.5  # seconds: of a session, and of cached values
CONNECTIONS = 128  # of a process to one server: both pools, full
PAUSE = 0.5  # seconds between an answer and the next click


class History:
    """Which numbers a reader may see: what was acknowledged, or may have been committed since."""

    def __init__(self) -> None:
        self.begun = self.acknowledged = 0

    def allows(self, acknowledged: int, begun: int, told: str) -> bool:
        """Whether a read that saw these two pass is right.

        :param told: the rule's number, whether the access right is given, the view's number
        """
        _uid, rule, access, view = map(int, told.split())
        right = range(acknowledged, begun + 1)
        return rule in right and view in right and access in {number % 2 for number in right}


class Writer(User):
    """Changes what is cached, every two seconds."""

    history: History

    def run(self) -> None:
        while not self.leaves.wait(2):
            number = self.history.begun = self.history.begun + 1
            path = f"/probe/change?value={number}"
            if self.click(random.choice(self.nodes), "GET", path).verdict == RIGHT:
                self.history.acknowledged = number


class Reader(User):
    """Reads what is cached, and compares it with what was written."""

    history: History

    def __init__(self, nodes: Sequence[Odoo], uid: int, sid: str, pause: float) -> None:
        super().__init__(nodes, uid, sid, pause)
        self.stale: list[str] = []

    def run(self) -> None:
        while not self.leaves.wait(self.pause):
            acknowledged = self.history.acknowledged
            answer = self.click(random.choice(self.nodes), "GET", "/probe/cached")
            begun = self.history.begun
            if answer.verdict == RIGHT and not self.history.allows(
                acknowledged, begun, answer.told
            ):
                self.stale.append(f"{answer.told} after {acknowledged}, before {begun + 1}")


class Visit(NamedTuple):
    """A login or a logout that was acknowledged, and whether the other node knew."""

    what: str
    acknowledged: float
    seen: float
    holds: bool


class Visitor(threading.Thread):
    """Logs in on one node, is asked for on the other, logs out there, and is asked for again."""

    def __init__(self, site: Site) -> None:
        super().__init__(daemon=True)
        self.site, self.leaves = site, threading.Event()
        self.visits: list[Visit] = []
        self.wrong: list[str] = []

    def run(self) -> None:
        while not self.leaves.wait(1):
            one, other = random.sample(self.site.nodes, 2)
            with requests.Session() as http:
                http.trust_env = False
                try:
                    self._visit(http, one, other)
                except requests.RequestException as error:
                    self.wrong.append(repr(error))

    def _visit(self, http: requests.Session, one: Odoo, other: Odoo) -> None:
        who = {"db": self.site.database, "login": "admin", "password": "admin"}
        answer = self._post(http, one, "/web/session/authenticate", who)
        if answer is None or "result" not in answer.json():
            return
        sid, acknowledged = http.cookies["session_id"], time.monotonic()
        if (uid := self._uid(http, sid, other)) is ...:
            return
        self.visits.append(Visit("login", acknowledged, time.monotonic(), uid is not None))
        if uid is None or self._post(http, other, "/web/session/destroy", {}) is None:
            return
        acknowledged = time.monotonic()
        if (uid := self._uid(http, sid, one)) is not ...:
            self.visits.append(Visit("logout", acknowledged, time.monotonic(), uid is None))

    def _uid(self, http: requests.Session, sid: str, node: Odoo) -> object:
        """Whose a cookie is; None: nobody's; `...`: it is time to leave."""
        http.cookies.clear()
        http.cookies.set("session_id", sid, domain="127.0.0.1")
        answer = self._post(http, node, "/web/session/get_session_info", {})
        return ... if answer is None else answer.json().get("result", {}).get("uid")

    def _post(
        self, http: requests.Session, node: Odoo, path: str, params: dict[str, str]
    ) -> requests.Response | None:
        """The answer, as soon as it is none to come back later; None: it is time to leave."""
        while True:
            with node.places:
                answer = http.post(f"{node.url}{path}", json={"params": params}, timeout=60)
            if answer.status_code != 503:
                if answer.status_code != 200:
                    self.wrong.append(f"{path}: {answer.status_code} {answer.text[:300]}")
                return answer if answer.status_code == 200 else None
            if self.leaves.wait(PAUSE):
                return None


class Outcome(NamedTuple):
    """What was seen; times in seconds from the beginning."""

    answers: list[Answer]
    faults: list[Fault]
    began: float
    ended: float


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
    for one in (*readers, writer):
        one.history = history
    visitor = Visitor(site)
    before, logs = site.footprint(), site.log_sizes()
    print(f"seed {seed}; {load()}")
    faults: list[Fault] = []
    with Crowd([*users, *readers, writer]) as crowd:
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
    must_be_none = {
        "logged out": [a for a in outcome.answers if a.verdict == LOGGED_OUT],
        "logins and logouts that did not hold": broken,
        "stale reads": stale,
        "wrong answers": [a for a in outcome.answers if a.verdict == WRONG] + visitor.wrong,
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
        import soak_chart

        soak_chart.draw(chart, outcome, BUDGET)
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
