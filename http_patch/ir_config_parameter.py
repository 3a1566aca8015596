"""``IrConfig_Parameter._get_param``: a transaction that misses several asks for all at once.

Parameters hold secrets, so they are never shared; a fresh process would need a query for each. The
answer serves the transaction that asked, as long as it only reads: it sees one snapshot all the
time, so each parameter has the value that core's query would give.

``IrConfig_Parameter.init`` gives a copied database a secret of its own after it was loaded, and
signals nothing.
"""

import functools
from typing import Any

from odoo.addons.base.models.ir_config_parameter import IrConfig_Parameter

from . import generations, ormcache, registry
from .shape import require, require_signature, require_source

_PARAMETERS = "parameters"


def check() -> None:
    """Refuse an Odoo whose parameters are read in another way."""
    cached = IrConfig_Parameter._get_param
    cache = getattr(cached, "__cache__", None)
    method = cache.method if cache else cached
    require_source("IrConfig_Parameter._get_param", method, "3c86b7fc9f23")
    require(cache and cache.cache_name == "stable", "parameters are cached with what is stable")
    require_signature("IrConfig_Parameter.init", IrConfig_Parameter.init, "self", "force")


def apply() -> None:
    """Replace what is called when a parameter is not in tier 1; and patch ``init``."""
    ormcache.compute_by(IrConfig_Parameter._get_param.__cache__, _get_param)
    IrConfig_Parameter.init = _then_reading_the_secret(IrConfig_Parameter.init)


def _then_reading_the_secret(original: Any) -> Any:
    @functools.wraps(original)
    def init(self: Any, force: bool = False) -> None:
        original(self, force=force)
        if force:
            self.env.cr.postcommit.add(generations.pins_of(self.pool).read_again)

    return init


def _get_param(self: Any, key: str) -> str | None:
    found = registry.connection(self.pool, self.env.cr)
    if found is None:
        return IrConfig_Parameter._get_param.__cache__.method(self, key)  # type: ignore[no-any-return]
    # as core does for one: we bypass the ORM because get_param() is used in some field's
    # depends, and must therefore work even when the ORM is not ready to work
    self.flush_model(["key", "value"])
    known = found.transaction.until_changed
    if _PARAMETERS not in known:
        self.env.cr.execute("SELECT key, value FROM ir_config_parameter")
        known[_PARAMETERS] = dict(self.env.cr.fetchall())
    return known[_PARAMETERS].get(key)  # type: ignore[no-any-return]
