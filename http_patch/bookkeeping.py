"""``odoo.service.server``: each process that serves keeps books, from its beginning to its end.

* ``Worker.start`` begins a prefork worker. Its parent keeps none: it serves nothing, and a thread
  that a fork cuts off would keep its locks.
* ``ThreadedServer.start`` and ``GeventServer.start`` begin the process itself.
* A worker of another WSGI server begins with its first request.
"""

import functools
import os
import socket
import threading
from collections.abc import Iterable
from typing import Any

from odoo import release
from odoo.modules.module import get_manifest
from odoo.service import server
from odoo.tools.cache import _COUNTERS

from ..config import Settings
from ..operation import Bookkeeper, Books, Process, Seen, metrics
from ..operation.books import Figure
from ..ormcache import COUNTERS
from ..ormcache.policy import method_name
from ..sessions import SESSION_COUNTERS, RedisSessionStore
from . import application, registry
from .shape import ADDON, require_signature

_SERVERS = {"Worker": 0, "ThreadedServer": 1, "GeventServer": 0}  # parameters of start
_ROLES = {"WorkerHTTP": "web", "WorkerCron": "cron"}
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


def apply(kept: Books, settings: Settings, sessions: RedisSessionStore | None) -> None:
    """Patch the methods, and have the route of metrics if there is a token for it.

    :param sessions: where they are kept in Redis
    """
    global books, metrics_token
    books, metrics_token = kept, settings.metrics_token or ""
    if metrics_token:
        from ..controllers import metrics as _route  # noqa: F401  # Odoo finds it by its class
    about = _About(settings, books.now)
    seen = (lambda: _by_database(sessions.seen())) if sessions else dict
    keeper = Bookkeeper(books, about.process, (session_figures, cache_figures), seen)
    for name in _SERVERS:
        kind = getattr(server, name)
        kind.start = _keeping_books(kind.start, keeper)
    if sessions:
        application.serving = keeper.start


def _keeping_books(original: Any, keeper: Bookkeeper) -> Any:
    @functools.wraps(original)
    def start(self: Any, *args: Any, **kwargs: Any) -> Any:
        keeper.start()
        return original(self, *args, **kwargs)

    return start


class _About:
    """The facts that this process gives of itself."""

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
            role=role(),
            started=self._started,
            addon=self._addon,
            odoo=release.version,
            fingerprints=registry.fingerprints(),
            settings=self._settings,
            seen=now,
        )


def role() -> str:
    """Of this process: "threaded", "web", "cron", "websocket", "wsgi"; "redis" of the command."""
    # A worker's thread is named by its class.
    for thread in threading.enumerate():
        words = thread.name.split()
        if words[0] == "Worker" and len(words) > 1:
            return _ROLES.get(words[1], words[1])
    if isinstance(server.server, server.GeventServer):
        return "websocket"
    if server.server is not None:
        return "threaded"
    import odoo.cli

    return "redis" if getattr(odoo.cli, "COMMAND", None) == "redis" else "wsgi"


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
        sums[Figure("cache_computed", database, method)] = shared.computed
        sums[Figure("cache_seconds_spent", database, method)] = shared.spent
        sums[Figure("cache_published", database, method)] = shared.published
        sums[Figure("cache_rejected", database, method)] = shared.rejected
        sums[Figure("cache_verified", database, method)] = shared.verified
        sums[Figure("cache_wrong", database, method)] = shared.wrong
        sums[Figure("cache_bytes_read", database, method)] = shared.bytes_in
        sums[Figure("cache_bytes_sent", database, method)] = shared.bytes_out
    return sums


def _by_database(seen: dict[str, tuple[str, int, float]]) -> dict[str, Iterable[Seen]]:
    found: dict[str, list[Seen]] = {}
    for identifier, (database, uid, activity) in seen.items():
        found.setdefault(database, []).append(Seen(identifier, uid, activity))
    return found  # type: ignore[return-value]
