"""Users who click on two nodes without pause, and remember every answer they got.

with Site(folder, postgres, redis.url, database="shop") as site:
    crowd = site.crowd()
    with crowd:
        time.sleep(10)
    print(crowd.verdicts())
"""

from __future__ import annotations

import contextlib
import os
import random
import threading
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import requests

from . import environment
from .servers import Odoo, PostgreSQL, Worker, start_all

if TYPE_CHECKING:
    from typing_extensions import Self

RIGHT, UNAVAILABLE, LOGGED_OUT, WRONG = "right", "unavailable", "logged out", "wrong"
PROBE = "redis_session_probe"
PATIENCE = 60  # seconds to wait for an answer
_CALM = 60  # seconds
_INODE = 9  # the column of /proc/net/tcp
_LISTEN, _CLOSE_WAIT = "0A", "08"  # states in it

# Makes users; `number` is given.
_MAKE_USERS = """
    group = env.ref("base.group_user").id
    users = env["res.users"].with_context(no_reset_password=True).create([
        {{"name": f"User {{n}}", "login": f"crowd {{n}}", "group_ids": [(6, 0, [group])]}}
        for n in range({number})
    ])
    env.cr.commit()
"""
# Logs them in, each with a session that is new, or with the same as the last time.
_LOG_IN = """
    from odoo.http import get_default_session, root

    result = []
    for user in env["res.users"].search([("login", "=like", "crowd %")], order="id"):
        session = root.session_store.new()
        session.sid = kept.setdefault(user.id, session.sid)
        token = user._compute_session_token(session.sid)
        session.update(get_default_session(), db=cr.dbname, context={"lang": "en_US"})
        session.update(uid=user.id, login=user.login, session_token=token)
        root.session_store.save(session)
        result.append([user.id, session.sid])
"""


class Answer(NamedTuple):
    """What a click got; times in seconds of the monotonic clock."""

    began: float
    ended: float
    verdict: str
    waited: float  # for Redis, as the node says
    told: str  # what is wrong; of what is right, a line of text


class User(threading.Thread):
    """One session, and what it was told to remember.

    :param pause: seconds between an answer and the next click
    """

    def __init__(self, nodes: Sequence[Odoo], uid: int, sid: str, pause: float = 0.0) -> None:
        super().__init__(daemon=True)
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
            self.leaves.wait(self.pause)

    def count(self, node: Odoo) -> None:
        """Have the session remember the next number."""
        self.sent += 1
        number = self.sent
        if self.click(node, "GET", f"/probe/count?value={number}").verdict == RIGHT:
            self.acknowledged = number

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
                verdict, told, waited = WRONG, f"{method} {path} of {node.name}: {error!r}", 0.0
            ended = time.monotonic()
        self.answers.append(Answer(began, ended, verdict, waited, told))
        return self.answers[-1]

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


class Site:
    """Two nodes on a Redis, one threaded and one of two workers, and users of a database.

    Their timeouts are the defaults; each answer says how long it waited for Redis.

    :param database: with `web`; dropped by whoever made it
    """

    def __init__(
        self, folder: Path, postgres: PostgreSQL, redis_url: str, *, database: str, users: int = 50
    ) -> None:
        self.folder, self.database = folder, database
        path = f"{environment.addons_path()},{environment.CHECKOUT / 'dev/addons'}"

        def node(name: str, workers: int) -> Odoo:
            return Odoo(
                name,
                folder / name,
                postgres,
                database=database,
                workers=workers,
                load=f"base,rpc,web,{environment.ADDON},{PROBE}",
                config={"addons_path": path, "db_maxconn": 60},
                redis={"url": redis_url},
                # A worker closes on who connects and is silent: a thread here may have to wait.
                env={"ODOO_HTTP_SOCKET_TIMEOUT": "30"},
            )

        self.nodes = node("threaded", 0), node("prefork", 2)
        self._postgres, self._redis_url, self._number = postgres, redis_url, users
        self._worker: Worker | None = None

    def __enter__(self) -> Self:
        try:
            start_all(*self.nodes)
            self._worker = Worker(
                self.folder / "worker", self._postgres, database=self.database,
                redis={"url": self._redis_url, "ormcache": False},
            )  # fmt: skip
            self._worker.run(_MAKE_USERS.format(number=self._number))
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_exception: object) -> None:
        if self._worker:
            self._worker.stop()
        for node in self.nodes:
            node.kill()  # stopping waits for browsers that keep connections

    def crowd(self, pause: float = 0.0) -> Crowd:
        """The users, logged in; always with the same cookies."""
        assert self._worker
        identities = self._worker.run(_LOG_IN)
        return Crowd(User(self.nodes, uid, sid, pause) for uid, sid in identities)

    def footprint(self) -> dict[int, Footprint]:
        """What each process of the nodes uses, by its id."""
        found = {}
        for node in self.nodes:
            children = Path(f"/proc/{node.pid}/task/{node.pid}/children").read_text().split()
            for pid in (node.pid, *map(int, children)):
                found[pid] = Footprint.of(pid)
        return found

    def leaks(self, before: dict[int, Footprint], connections: int) -> list[str]:
        """The processes that are not what they were, a minute later.

        :param connections: that a process may keep to one server
        """
        if set(self.footprint()) != set(before):
            return [f"processes {set(before)} became {set(self.footprint())}"]
        deadline = time.monotonic() + _CALM
        while True:
            found = self.footprint()
            left = [
                f"{pid}: {after}, it was {before[pid]}"
                for pid, after in found.items()
                if not after.is_calm(before[pid], connections)
            ]
            if not left or time.monotonic() > deadline:
                return left
            time.sleep(1)

    def log_sizes(self) -> list[int]:
        """How much the nodes have logged, for `errors`."""
        return [node.log.stat().st_size for node in self.nodes]

    def errors(self, since: Sequence[int]) -> list[str]:
        """Tracebacks and errors in the logs since they had these sizes."""
        found = []
        for node, size in zip(self.nodes, since, strict=True):
            with node.log.open(encoding="utf-8", errors="replace") as log:
                log.seek(size)
                # A worker of Odoo's calls it an error when a browser is silent for long.
                found += [
                    line.rstrip()
                    for line in log
                    if "Traceback" in line or (" ERROR " in line and "werkzeug: " not in line)
                ]
        return found


class Footprint(NamedTuple):
    """What a process uses.

    :param files: open files of each kind, without TCP connections
    :param clients: connections to a port that it listens on
    :param servers: its other connections, by the port at the other end
    :param half_closed: how many were closed or reset by the other end, and not yet here
    """

    threads: int
    files: Counter[str]
    clients: int
    servers: Counter[int]
    half_closed: int

    def is_calm(self, before: Footprint, connections: int) -> bool:
        """Whether it is what it was, but for connections that are kept in pools.

        :param connections: that may be kept to each server
        """
        return (
            self.threads <= before.threads + 2  # that look for another primary, if any
            and self.files.total() <= before.files.total()
            and self.clients == 0
            and max(self.servers.values(), default=0) <= connections
            and self.half_closed <= 8  # the cache's, which it closes when it next asks
        )

    @classmethod
    def of(cls, pid: int) -> Footprint:
        """Of a process of this machine."""
        files: Counter[str] = Counter()
        for link in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                files[os.readlink(link)] += 1
        sockets = []
        for line in Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]:
            _number, local, remote, state, *_rest = columns = line.split()
            if files.pop(f"socket:[{columns[_INODE]}]", 0):
                sockets.append((_port(local), _port(remote), state))
        others = {
            line.split()[6] for line in Path(f"/proc/{pid}/net/unix").read_text().splitlines()
        }
        reset = [name for name in files if name.startswith("socket:") and name[8:-1] not in others]
        for name in reset:
            del files[name]
        listening = {local for local, _remote, state in sockets if state == _LISTEN}
        clients = [state for local, _r, state in sockets if local in listening]
        servers = [(remote, state) for local, remote, state in sockets if local not in listening]
        return cls(
            threads=len(os.listdir(f"/proc/{pid}/task")),
            files=files,
            clients=len(clients) - clients.count(_LISTEN),
            servers=Counter(remote for remote, _state in servers),
            half_closed=len(reset) + sum(state == _CLOSE_WAIT for _remote, state in servers),
        )


def _port(address: str) -> int:
    return int(address.partition(":")[2], 16)
