"""Users who click on several nodes, and remember every answer they got."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import requests

from ..servers import Odoo

if TYPE_CHECKING:
    from typing_extensions import Self

RIGHT, UNAVAILABLE, LOGGED_OUT, WRONG = "right", "unavailable", "logged out", "wrong"
AWAY = "away"  # no answer of a node that is being restarted
PATIENCE = 60  # seconds to wait for an answer
NO_ANSWER = (requests.ConnectionError, requests.exceptions.ChunkedEncodingError)  # or half of one
AWAY_PAUSE = 0.1  # seconds at least before the click after one that no node took


class Answer(NamedTuple):
    """What a click got; times in seconds of the monotonic clock."""

    began: float
    ended: float
    verdict: str
    waited: float  # for Redis, as the node says
    told: str  # what is wrong; of what is right, a line of text
    node: str  # its name


class Absence(NamedTuple):
    """When a node was away on purpose, in seconds of the monotonic clock."""

    began: float
    ended: float = float("inf")


class User(threading.Thread):
    """One session, and what it was told to remember.

    :param pause: seconds between an answer and the next click
    :param absences: the last one of each node that was away, by its name
    """

    def __init__(
        self,
        nodes: Sequence[Odoo],
        uid: int,
        sid: str,
        pause: float = 0.0,
        absences: Mapping[str, Absence] | None = None,
    ) -> None:
        super().__init__(daemon=True)
        self.absences = {} if absences is None else absences
        self.nodes, self.uid, self.sid, self.pause = nodes, uid, sid, pause
        self.answers: list[Answer] = []
        self.acknowledged = self.sent = 0
        self.leaves = threading.Event()
        self.http = requests.Session()
        self.http.trust_env = False
        self.http.cookies.set("session_id", sid, domain="127.0.0.1")

    def run(self) -> None:
        while not self.leaves.is_set():
            random.choice([self.count, self.count, self.ask])(random.choice(self.nodes))
            is_refused = bool(self.answers) and self.answers[-1].verdict == AWAY
            self.leaves.wait(max(self.pause, AWAY_PAUSE) if is_refused else self.pause)

    def count(self, node: Odoo) -> Answer:
        """Have the session remember the next number."""
        self.sent += 1
        number = self.sent
        answer = self.click(node, "GET", f"/probe/count?value={number}")
        if answer.verdict == RIGHT:
            self.acknowledged = number
        return answer

    def ask(self, node: Odoo) -> None:
        """Ask who this is."""
        self.click(node, "POST", "/web/session/get_session_info", json={"params": {}})

    def remembered(self, node: Odoo) -> int | None:
        """The number in the session; None: it is not there."""
        url = f"{node.url}/probe/count"
        response = self.http.get(url, timeout=PATIENCE, allow_redirects=False)
        uid, _space, number = response.text.partition(" ")
        return int(number) if response.status_code == 200 and uid == str(self.uid) else None

    def click(self, node: Odoo, method: str, path: str, **options: Any) -> Answer:
        """Send a request when the node has a place; the answer, which is remembered."""
        with node.places:
            began = time.monotonic()
            try:
                response = self.http.request(
                    method, node.url + path, timeout=PATIENCE, allow_redirects=False, **options
                )
                verdict, told = self.judge(response)
                waited = float(response.headers.get("X-Redis-Wait", 0))
            except requests.RequestException as error:
                is_away = self.was_away(node, began) and isinstance(error, NO_ANSWER)
                verdict, waited = AWAY if is_away else WRONG, 0.0
                told = f"{method} {path} of {node.name}: {error!r}"
            ended = time.monotonic()
        self.answers.append(Answer(began, ended, verdict, waited, told, node.name))
        return self.answers[-1]

    def was_away(self, node: Odoo, since: float) -> bool:
        """Whether a node was away on purpose at some time since then."""
        absence = self.absences.get(node.name)
        return absence is not None and absence.ended >= since

    def judge(self, response: requests.Response) -> tuple[str, str]:
        """The verdict, and what is told of it."""
        text, cookie = response.text, response.headers.get("Set-Cookie", "")
        if response.status_code == 503:
            if response.headers.get("Retry-After") and not cookie and "Traceback" not in text:
                return UNAVAILABLE, ""
        elif "session_id" in cookie and self.sid not in cookie:
            return LOGGED_OUT, f"another cookie: {response.status_code} {text[:300]}"
        elif response.status_code == 200:
            if text.startswith("{"):
                answer = response.json()
                if answer.get("result", {}).get("uid") == self.uid:
                    return RIGHT, ""
                if answer.get("error", {}).get("code") == 100:
                    return LOGGED_OUT, text[:300]
            elif text.partition(" ")[0] == str(self.uid):
                return RIGHT, text
        elif "/web/login" in response.headers.get("Location", ""):
            return LOGGED_OUT, response.headers["Location"]
        return WRONG, f"{response.status_code} {dict(response.headers)} {text[:300]}"


class Crowd:
    """Users on several nodes; a context in which they click."""

    def __init__(self, users: Iterable[User]) -> None:
        self.users = list(users)

    def __enter__(self) -> Self:
        for user in self.users:
            user.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        for user in self.users:
            user.leaves.set()
        for user in self.users:
            user.join()
            user.http.close()

    @property
    def answers(self) -> list[Answer]:
        """All so far, in the order they were asked for."""
        return sorted(answer for user in self.users for answer in list(user.answers))

    def verdicts(self, since: float = 0.0) -> Counter[str]:
        """How many answers of each verdict to what was asked since then."""
        return Counter(answer.verdict for answer in self.answers if answer.began >= since)

    def complaints(self) -> list[Answer]:
        """What was said that must not be."""
        return [a for a in self.answers if a.verdict in (WRONG, LOGGED_OUT)]

    def recovers(self, seconds: float = 30) -> bool:
        """Wait until all answers are right; whether they are."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            time.sleep(0.5)
            counted = self.verdicts(since=time.monotonic() - 2)
            if counted[RIGHT] > len(self.users) / 2 and set(counted) == {RIGHT}:
                return True
        return False
