"""``odoo.sql_db.Savepoint.rollback``: what was computed since may be void."""

import functools
from typing import Any

from odoo import sql_db
from odoo.sql_db import Savepoint

from . import in_force
from .registry import transaction_of, undo
from .shape import require, require_signature


def check() -> None:
    """Refuse an Odoo whose savepoints are rolled back in another way."""
    require_signature("Savepoint.rollback", Savepoint.rollback, "self")
    require("_cr" in Savepoint.__init__.__code__.co_names, "a Savepoint keeps its cursor as _cr")


def apply() -> None:
    """Patch the method; flushing savepoints call it too."""
    rollback = _dropping_values(Savepoint.rollback)
    in_force.put(in_force.ORMCACHE, sql_db, "Savepoint.rollback", rollback)


def _dropping_values(original: Any) -> Any:
    @functools.wraps(original)
    def rollback(self: Any) -> None:
        original(self)
        if transaction := transaction_of(self._cr):
            undo(transaction.registry, self._cr)

    return rollback
