"""``odoo.service.server``: each process that serves keeps books, from its beginning to its end.

* ``Worker.start`` begins a prefork worker. Its parent keeps none: it serves nothing, and a thread
  that a fork cuts off would keep its locks.
* ``ThreadedServer.start`` and ``GeventServer.start`` begin the process itself.
* A worker of another WSGI server begins with its first request.
* A shell begins when the addon is loaded.
"""

import functools
import math
import os
import socket
from collections.abc import Iterable, Sequence
from typing import Any

import odoo.cli
from odoo import release
from odoo.modules.module import get_manifest
from odoo.service import server
from odoo.tools.cache import _COUNTERS

from ..config import Settings
from ..connection import BUCKETS, RedisServer
from ..operation import Bookkeeper, Books, Process, Seen, metrics
from ..operation.books import REDIS_CALLS, REDIS_SECONDS, Figure
from ..ormcache import COUNTERS
from ..ormcache.policy import method_name
from ..sessions import SESSION_COUNTERS, RedisSessionStore
from . import application, code_listing, registry, session_store
from .shape import ADDON, require_signature

_SERVERS = {"Worker": 0, "ThreadedServer": 1, "GeventServer": 0}  # parameters of start
_WORKERS = {"WorkerHTTP": "web", "WorkerCron": "cron"}
_ROLES = {**_WORKERS, "ThreadedServer": "threaded", "GeventServer": "websocket"}
books: Books
metrics_token = ""


def check(settings: Settings) -> None:
    """Refuse an Odoo whose servers begin in another way.

    :raises ConfigurationError: where metrics are on, and their library is missing
    """
    if settings.metrics_token:
        metrics.require()
    for name, count in _SERVERS.items():
        start = getattr(server, name).start
        require_signature(f"{name}.start", start, "self", *("stop",)[:count])


def apply(
    kept: Books,
    settings: Settings,
    sessions: RedisSessionStore | None,
    servers: Sequence[RedisServer],
) -> None:
    """Patch the methods, and have the route of metrics if there is a token for it.

    :param sessions: where they are kept in Redis
    :param servers: that are in use
    """
    global books, metrics_token
    books, metrics_token = kept, settings.metrics_token or ""
    if metrics_token:
        from ..controllers import metrics as _route  # noqa: F401  # Odoo finds it by its class
    about = _About(settings, books.now)
    seen = (lambda: _by_database(sessions.seen())) if sessions else dict
    latencies = functools.partial(latency_figures, servers)
    figures = session_figures, cache_figures, latencies
    keeper = Bookkeeper(
        books,
        about.process,
        figures,
        seen,
        lambda: code_listing.publish(books, registry.fingerprints()),
    )
    for name in _SERVERS:
        kind = getattr(server, name)
        kind.start = _keeping_books(kind.start, about, keeper)
    if sessions:
        application.serving = keeper.start
    if odoo.cli.COMMAND == "shell":
        keeper.start()


def _keeping_books(original: Any, about: "_About", keeper: Bookkeeper) -> Any:
    @functools.wraps(original)
    def start(self: Any, *args: Any, **kwargs: Any) -> Any:
        about.server = type(self).__name__
        keeper.start()
        return original(self, *args, **kwargs)

    return start


class _About:
    """The facts that this process gives of itself.

    :ivar server: the class of Odoo's that runs it; "" if that is none
    """

    server = ""

    def __init__(self, settings: Settings, now: Any) -> None:
        self._now = now
        self._addon = str(get_manifest(ADDON).get("version", ""))
        self._settings = {
            "session": settings.session,
            "ormcache": settings.ormcache,
            "session_anonymous_ttl": settings.session_anonymous_ttl,
        }
        self._begin()
        os.register_at_fork(after_in_child=self._begin)

    def _begin(self) -> None:
        self._started = self._now()

    def process(self) -> Process:
        now = self._now()
        return Process(
            host=socket.gethostname(),
            pid=os.getpid(),
            role=self._role(),
            parent=os.getppid() if self.server in _WORKERS else 0,
            started=self._started,
            addon=self._addon,
            odoo=release.version,
            fingerprints={name: str(code) for name, code in registry.fingerprints().items()},
            settings=self._settings,
            servers=registry.servers(),
            replaced=(session_store.elsewhere() or "") if self._settings["session"] else "",
            seen=now,
        )

    def _role(self) -> str:
        if odoo.cli.COMMAND in ("shell", "redis"):
            return str(odoo.cli.COMMAND)
        return _ROLES.get(self.server, self.server) or "wsgi"


def session_figures() -> dict[Figure, float]:
    """Figures of sessions here, by database."""
    sums: dict[Figure, float] = {}
    for database, counter in SESSION_COUNTERS.copy().items():
        sums[Figure("requests", database)] = counter.requests
        sums[Figure("sessions_read", database)] = counter.read
        sums[Figure("sessions_saved", database)] = counter.saved
        sums[Figure("sessions_unavailable", database)] = counter.unavailable
    return sums


def cache_figures() -> dict[Figure, float]:
    """Figures of the ormcache here, by database and method."""
    sums: dict[Figure, float] = {}
    for (database, function), counter in _COUNTERS.copy().items():
        method = method_name(function)
        sums[Figure("cache_hits", database, method)] = counter.hit
        sums[Figure("cache_misses", database, method)] = counter.miss
    for (database, method), shared in COUNTERS.copy().items():
        sums[Figure("cache_found", database, method)] = shared.found
        sums[Figure("cache_seconds_saved", database, method)] = shared.saved
        sums[Figure("cache_queries_saved", database, method)] = shared.queries_saved
        sums[Figure("cache_computed", database, method)] = shared.computed
        sums[Figure("cache_seconds_spent", database, method)] = shared.spent
        sums[Figure("cache_published", database, method)] = shared.published
        sums[Figure("cache_rejected", database, method)] = shared.rejected
        sums[Figure("cache_verified", database, method)] = shared.verified
        sums[Figure("cache_wrong", database, method)] = shared.wrong
        sums[Figure("cache_bytes_read", database, method)] = shared.bytes_in
        sums[Figure("cache_bytes_sent", database, method)] = shared.bytes_out
    return sums


def latency_figures(servers: Iterable[RedisServer]) -> dict[Figure, float]:
    """How long Redis took to answer: seconds of each command, and calls of each of its buckets."""
    sums: dict[Figure, float] = {}
    for each in servers:
        for command, latency in each.latencies.copy().items():
            sums[Figure(REDIS_SECONDS, "", f"{each.half} {command}")] = latency.seconds
            for end, count in zip((*BUCKETS, math.inf), latency.counts, strict=True):
                if count:
                    sums[Figure(REDIS_CALLS, "", f"{each.half} {command} {end}")] = count
    return sums


def _by_database(seen: dict[str, tuple[str, int, float]]) -> dict[str, Iterable[Seen]]:
    found: dict[str, list[Seen]] = {}
    for identifier, (database, uid, activity) in seen.items():
        found.setdefault(database, []).append(Seen(identifier, uid, activity))
    return found  # type: ignore[return-value]
