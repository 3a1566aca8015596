"""``odoo.addons.bus.websocket``: a store that does not answer, asked by a websocket's own code.

* ``acquire_cursor`` takes a ``PoolError`` in its block for one of its own, and tries again what
  cannot be: the block ends with a ``RuntimeError``. Ours leaves it as it is.
* ``Websocket._terminate`` has closed the socket when it tells the models: that they ask the store
  in vain then concerns nobody.

The module is there when a database with ``bus`` was loaded, so it is patched after that.
"""

import contextlib
import functools
import logging
import sys
from collections.abc import Iterator
from typing import Any

from odoo.modules.registry import Registry
from odoo.tools import file_path

from ..sessions import SessionStoreUnavailable
from . import in_force
from . import registry as registry_patch
from .shape import require_signatures_in

_logger = logging.getLogger(__name__)

_MODULE = "odoo.addons.bus.websocket"
_acquire_cursor: Any = object()  # ours, once it is there


def check() -> None:
    """Refuse an Odoo whose databases are loaded, or whose websockets end, in another way."""
    registry_patch.check_new()
    try:
        path = file_path("bus/websocket.py")
    except FileNotFoundError:  # this Odoo has no websockets
        return
    require_signatures_in(path, {"acquire_cursor": ("db",), "Websocket._terminate": ("self",)})


def apply() -> None:
    """Patch the module once it is there."""
    Registry.new = classmethod(_then_patching(in_force.of_class(vars(Registry)["new"])))


def _then_patching(original: Any) -> Any:
    @functools.wraps(original)
    def new(cls: Any, *arguments: Any, **options: Any) -> Any:
        global _acquire_cursor
        registry = original(cls, *arguments, **options)
        bus: Any = sys.modules.get(_MODULE)
        if bus and not in_force.leads_to(bus.acquire_cursor, _acquire_cursor):
            _acquire_cursor = bus.acquire_cursor = _letting_through(bus.acquire_cursor)
            bus.Websocket._terminate = _whatever_comes_of_it(bus.Websocket._terminate)
        return registry

    return new


def _letting_through(original: Any) -> Any:
    @contextlib.contextmanager
    def acquire_cursor(db: str) -> Iterator[Any]:
        unavailable = None
        with original(db) as cursor:
            try:
                yield cursor
            except SessionStoreUnavailable as error:
                cursor.rollback()
                unavailable = error
        if unavailable is not None:
            raise unavailable

    return acquire_cursor


def _whatever_comes_of_it(original: Any) -> Any:
    @functools.wraps(original)
    def _terminate(self: Any) -> None:
        try:
            original(self)
        except SessionStoreUnavailable as error:
            _logger.debug("A websocket was closed: %s", error)

    return _terminate
