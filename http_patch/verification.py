"""Transactions in which values of Redis are computed again, and proof that a difference is one:
``ormcache.verification``.
"""

import contextlib
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import odoo
import psycopg2
from odoo.modules.module import get_module_path
from odoo.orm.registry import _CACHES_BY_KEY

from ..ormcache import Generation
from . import generations
from . import registry as registry_patch
from .cursor import Connection, Invalidated

_logger = logging.getLogger(__name__)

# A change is signalled after its commit: at once, or at the end of the request. A difference that
# comes of a change is looked into when that is over.
SETTLED = 10.0  # seconds
MOST = 8  # differences that are looked into at a time
_LOCKED, _TOO_LONG = 100, 10_000  # milliseconds that a lock, and a query, may take
_threads: set[threading.Thread] = set()


def own_folders() -> tuple[str, ...]:
    """The folders of Odoo's own modules."""
    web = get_module_path("web", display_warning=False) or odoo.__path__[0]
    return tuple(f"{os.path.normpath(folder)}/" for folder in (*odoo.__path__, f"{web}/.."))


@contextlib.contextmanager
def transaction(
    registry: Any, generation: Generation, container: str
) -> Iterator[Connection | None]:
    """A transaction that changes nothing; None unless it sees the same as a generation.

    Where PostgreSQL refuses what is done in it, that ends, and nothing is raised.
    """
    with contextlib.suppress(psycopg2.Error), contextlib.ExitStack() as opened:
        found = None
        with contextlib.suppress(psycopg2.Error):  # no connection is free, for one
            cursor = opened.enter_context(closing(registry.cursor()))
            cursor.execute(
                "SET TRANSACTION READ ONLY;"
                f"SET LOCAL lock_timeout = {_LOCKED}; SET LOCAL statement_timeout = {_TOO_LONG}"
            )
            found = registry_patch.connection(registry, cursor)
            if found and found.transaction.generation().differs_from(generation, container):
                found = None
        if found:
            found.transaction.is_of_verification = True
        yield found


def unless_explained(
    registry: Any, generation: Generation, container: str, act: Callable[[], None]
) -> None:
    """Do something in a while, unless the database turns out to be in another state than a
    generation, and have all processes drop the values of a container.
    """

    def run() -> None:
        threading.current_thread().dbname = registry.db_name  # type: ignore[attr-defined]  # for the log
        try:
            time.sleep(SETTLED)
            if _is_unchanged(registry, generation, container):
                act()
                key = min(generations.KEYS_OF[container], key=lambda key: len(_CACHES_BY_KEY[key]))
                shared = registry_patch.shared_of(registry)
                Invalidated.of_thread(registry, shared).signal([key])
        except Exception:
            _logger.exception("A difference between two values is not pursued")
        finally:
            _threads.discard(threading.current_thread())

    if len(_threads) >= MOST:
        return
    thread = threading.Thread(target=run, name="redis-verification", daemon=True)
    _threads.add(thread)
    try:
        thread.start()
    except RuntimeError:  # out of threads
        _threads.discard(thread)


def wait() -> None:
    """Wait until each difference is explained or not."""
    for thread in list(_threads):
        thread.join()


def _is_unchanged(registry: Any, generation: Generation, container: str) -> bool:
    with closing(registry.cursor()) as cursor:
        if generations.read_generation(registry, cursor).differs_from(generation, container):
            return False
        pins = generations.pins_of(registry)
        snapshot = generations.CursorSnapshot(registry.db_name, cursor)
        return not any(
            container in pins.find_changes(pin, snapshot)
            for pin in pins.all()
            if not pin.generation.is_replica
        )
