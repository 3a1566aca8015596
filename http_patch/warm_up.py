"""``odoo.service.server``: a process has answered once before it serves.

Some of what Odoo builds with the first request no other process can give it: the routing map, for
one. The first visitor of each process would wait for that, so it asks itself for the login page.

An addon's login page may call this very server, or another one that hangs. So a thread asks, and
the process serves when it has its answer or ``PATIENCE`` is over, whichever comes first. The thread
goes on meanwhile, as one that serves a visitor would.

* ``preload_registries`` ends when a threaded server has loaded its databases.
* ``WorkerHTTP.start`` begins a prefork worker. Its parent has no such thread: a fork would keep the
  locks that one holds, for good.
"""

import functools
import logging
import signal
import threading
import time
from collections.abc import Callable
from typing import Any

from odoo import http
from odoo.modules.registry import Registry
from odoo.service import server
from odoo.tools import config
from werkzeug.test import Client

from . import application
from . import registry as registry_patch
from .shape import require, require_signature

_logger = logging.getLogger(__name__)

PATIENCE = 1.0  # seconds at most that a process serves later for its own question
_LOOK = 0.02  # seconds between two looks whether there is an answer


def check() -> None:
    """Refuse an Odoo whose servers load their databases, or whose workers begin, in another way."""
    require_signature("preload_registries", server.preload_registries, "dbnames")
    require_signature("WorkerHTTP.start", server.WorkerHTTP.start, "self")
    require(hasattr(Registry._lock, "_release_save"), "Registry._lock is an RLock")
    for kind, name in (server.Worker, "alive"), (server.ThreadedServer, "quit_signals_received"):
        attributes = kind.__init__.__code__.co_names
        require(name in attributes, f"a {kind.__name__} has an attribute {name}")


def apply(disconnect: Callable[[], None]) -> None:
    """Patch the functions.

    :param disconnect: closes the connections to Redis that a parent of workers has
    """
    server.preload_registries = _then_asking(server.preload_registries, disconnect)
    server.WorkerHTTP.start = _asking_first(server.WorkerHTTP.start)


def _then_asking(original: Any, disconnect: Callable[[], None]) -> Any:
    @functools.wraps(original)
    def preload_registries(dbnames: list[str] | None) -> Any:
        code = original(dbnames)
        if config["workers"]:
            # They find more there when they are forked, and share no socket or thread.
            for registry in Registry.registries.values():
                registry_patch.forget_hashes(registry)
            disconnect()
        elif config["http_enable"] and not (config["stop_after_init"] or config["test_enable"]):
            # A request needs this lock, which the server holds while it loads its databases.
            lock = threading.Condition(Registry._lock)
            with lock:
                try:
                    _Question().wait(lock.wait)
                except KeyboardInterrupt:
                    if not server.server.quit_signals_received:
                        raise
                    # It looks whether there was a signal, and then stops in good order.
        return code

    return preload_registries


def _asking_first(original: Any) -> Any:
    @functools.wraps(original)
    def start(self: Any) -> None:
        original(self)
        _Question().wait(time.sleep, lambda: self.alive)

    return start


class _Question(threading.Thread):
    """For the login page of each database that is loaded."""

    def __init__(self) -> None:
        super().__init__(name="redis-warm-up", daemon=True)
        self._is_late = False

    def wait(
        self, pause: Callable[[float], object], is_wanted: Callable[[], bool] = lambda: True
    ) -> None:
        """Ask, and wait for the answer, but not for long.

        :param pause: waits so many seconds
        :param is_wanted: whether the process is still going to serve
        """
        end = time.monotonic() + PATIENCE
        self.start()
        while self.is_alive() and is_wanted():
            if time.monotonic() > end:
                self._is_late = True
                _logger.info("The login page takes more than %s s: who comes is served", PATIENCE)
                break
            pause(_LOOK)

    def run(self) -> None:
        if hasattr(signal, "pthread_sigmask"):
            # They are for the main thread, which would not wake up otherwise.
            handled = signal.SIGINT, signal.SIGQUIT, signal.SIGXCPU, signal.SIGUSR1, signal.SIGUSR2
            signal.pthread_sigmask(signal.SIG_BLOCK, handled)
        for name in Registry.registries.snapshot:
            if not self._is_late:
                _ask(name)


def _ask(database: str) -> None:
    """For the login page, in a session that is not saved; whatever the answer.

    Where a database is chosen by the name of the host alone, nobody is asked for.
    """
    try:
        answer = Client(http.root).get(
            "/web/login",
            headers={"X-Odoo-Database": database},
            environ_base={"REMOTE_ADDR": "127.0.0.1", application.OWN: True},
        )
        _logger.debug("%s: the login page is answered with %s", database, answer.status)
    except BaseException:  # a page may raise SystemExit: that ends nobody else's thread either
        _logger.warning("%s has not answered before it serves", database, exc_info=True)
