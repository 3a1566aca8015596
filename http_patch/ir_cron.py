"""``IrCron._callback``: a job's changes are committed before they are signalled.

Core signals first: what another process computes in between, from the state before the commit, it
takes for valid after the signal, and would share.

And it signals on the registry in use: core does on the one before, when the job's check of the
signals has loaded it again, and nobody is told what the job changed.
"""

import logging
from typing import Any

from odoo.addons.base.models import ir_cron

from . import in_force
from .shape import name_of, require_source

_logger = logging.getLogger(ir_cron.__name__)


def check() -> None:
    """Refuse an Odoo whose jobs end in another way."""
    require_source("IrCron._callback", ir_cron.IrCron._callback, "b77811089cc9")


def apply() -> None:
    """Patch the method."""
    in_force.put(in_force.ORMCACHE, ir_cron, "IrCron._callback", _callback)


def overridden(registry: Any) -> str | None:
    """Whose method a database's jobs end with, if it does not call ours; a sentence."""
    model = registry.models.get("ir.cron")
    if model is None or in_force.inherits(model, "_callback", _callback):
        return None
    return f"IrCron._callback was replaced by {name_of(model._callback)}"


def _callback(self: Any, cron_name: str, server_action_id: int) -> None:
    """``IrCron._callback``, with its last two steps in turn, on the registry in use."""
    self.ensure_one()
    try:
        if self.pool != self.pool.check_signaling():
            # the registry has changed, reload self in the new registry
            self.env.transaction.reset()

        _logger.debug(
            "cron.object.execute(%r, %d, '*', %r, %d)",
            self.env.cr.dbname,
            self.env.uid,
            cron_name,
            server_action_id,
        )
        self.env["ir.actions.server"].browse(server_action_id).run()
        self.env.flush_all()
        self.env.cr.commit()  # pylint: disable=invalid-commit
        self.env.registry.signal_changes()
    except Exception:
        self.env.registry.reset_changes()
        self.env.cr.rollback()
        raise
