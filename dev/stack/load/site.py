"""Two nodes on a Redis, with users::

    with Site(folder, postgres, redis.url, database="shop") as site:
        crowd = site.crowd()
        with crowd:
            time.sleep(10)
        print(crowd.verdicts())

They click until the inner context ends.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from ..provision import environment
from ..servers import Odoo, PostgreSQL, Worker, start_all
from .footprint import Footprint
from .users import Absence, Crowd, User

if TYPE_CHECKING:
    from typing_extensions import Self

PROBE = "redis_session_probe"
_CALM = 60  # seconds

# Makes users; `number` is given.
_MAKE_USERS = """
    group = env.ref("base.group_user").id
    users = env["res.users"].with_context(no_reset_password=True).create([
        {{"name": f"User {{n}}", "login": f"crowd {{n}}", "group_ids": [(6, 0, [group])]}}
        for n in range({number})
    ])
    env.cr.commit()
"""
# Logs them in, each with a session that is new, or with the same as the last time; `new` is given.
_LOG_IN = """
    from odoo.http import get_default_session, root

    if {new}:
        kept.clear()
    result = []
    for user in env["res.users"].search([("login", "=like", "crowd %")], order="id"):
        session = root.session_store.new()
        session.sid = kept.setdefault(user.id, session.sid)
        token = user._compute_session_token(session.sid)
        session.update(get_default_session(), db=cr.dbname, context={{"lang": "en_US"}})
        session.update(uid=user.id, login=user.login, session_token=token)
        root.session_store.save(session)
        result.append([user.id, session.sid])
"""


class Site:
    """Two nodes on a Redis, one threaded and one of some workers, and users of a database.

    Their timeouts are the defaults; each answer says how long it waited for Redis.

    :param database: with `web`; dropped by whoever made it
    :param workers: of the second node; 0: it is threaded too
    :param addons: modules of `dev/addons` that the nodes load after the addon
    """

    def __init__(
        self,
        folder: Path,
        postgres: PostgreSQL,
        redis_url: str,
        *,
        database: str,
        users: int = 50,
        workers: int = 2,
        addons: Sequence[str] = (),
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
                load=",".join(["base", "rpc", "web", environment.ADDON, *addons, PROBE]),
                config={"addons_path": path, "db_maxconn": 60},
                redis={"url": redis_url},
                # A worker closes on who connects and is silent: a thread here may have to wait.
                env={"ODOO_HTTP_SOCKET_TIMEOUT": "30"},
            )

        self.nodes = node("threaded", 0), node("prefork" if workers else "second", workers)
        self._postgres, self._redis_url, self._number = postgres, redis_url, users
        self._worker: Worker | None = None
        self._absences: dict[str, Absence] = {}

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

    def crowd(self, pause: float = 0.0, *, new: bool = False) -> Crowd:
        """The users, logged in; with the cookies of the last time unless `new`."""
        assert self._worker
        identities = self._worker.run(_LOG_IN.format(new=new))
        return Crowd(User(self.nodes, uid, sid, pause, self._absences) for uid, sid in identities)

    def restart(self, node: Odoo, **env: str) -> None:
        """Stop a node and start it with these variables, as an update does."""
        self._absences[node.name] = Absence(time.monotonic())
        node.stop()
        node.env.update(env)
        node.start()
        self._absences[node.name] = Absence(self._absences[node.name].began, time.monotonic())

    def footprint(self) -> dict[int, Footprint]:
        """What each process of the nodes uses, by its id."""
        found = {}
        for node in self.nodes:
            for process in (psutil.Process(node.pid), *psutil.Process(node.pid).children()):
                found[process.pid] = Footprint.of(process.pid)
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
