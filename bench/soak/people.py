"""Who is there beside the users that click: some read what another changes, one comes and goes."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Sequence
from typing import NamedTuple

import requests

from stack.load import RIGHT, Site, User
from stack.servers import Odoo

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

    def _uid(self, http: requests.Session, sid: str | None, node: Odoo) -> object:
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
