"""``odoo.service.server.preload_registries``: a server has answered once before it serves.

Some of what Odoo builds with the first request no other process can give it: the routing map, for
one. The first visitor of each worker would wait for that; workers that are forked after this have
it from their parent.
"""

import functools
import logging
from collections.abc import Callable
from typing import Any

from odoo.http import root
from odoo.modules.registry import Registry
from odoo.service import server
from odoo.tools import config
from werkzeug.test import Client

from . import registry as registry_patch
from .shape import require_signature

_logger = logging.getLogger(__name__)


def check() -> None:
    """Refuse an Odoo whose servers load their databases in another way."""
    require_signature(server.preload_registries, "dbnames")


def apply(disconnect: Callable[[], None]) -> None:
    """Patch the function.

    :param disconnect: closes the connections to Redis that were opened meanwhile
    """
    server.preload_registries = _answering_once(server.preload_registries, disconnect)


def _answering_once(original: Any, disconnect: Callable[[], None]) -> Any:
    @functools.wraps(original)
    def preload_registries(dbnames: list[str] | None) -> Any:
        code = original(dbnames)
        if config["http_enable"] and not (config["stop_after_init"] or config["test_enable"]):
            for name in dbnames or ():
                if name in Registry.registries:
                    _ask(name)
        if config["workers"]:
            # Workers find more there when they are forked, and share no socket or thread.
            for registry in Registry.registries.values():
                registry_patch.forget_hashes(registry)
            disconnect()
        return code

    return preload_registries


def _ask(database: str) -> None:
    """For the login page, in a session that is not saved; whatever the answer.

    Where a database is chosen by the name of the host alone, nobody is asked for.
    """
    try:
        answer = Client(root).get(
            "/web/login",
            headers={"X-Odoo-Database": database},
            environ_base={"REMOTE_ADDR": "127.0.0.1"},
        )
        _logger.debug("%s: the login page is answered with %s", database, answer.status)
    except Exception:
        _logger.warning("%s has not answered before it serves", database, exc_info=True)
