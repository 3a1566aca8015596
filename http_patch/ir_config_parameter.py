"""``IrConfig_Parameter._get_param``: a process reads all parameters with one query.

They hold secrets, so they are never shared; a fresh process would read each with a query of its
own, also those that are not there. All of them are one more entry of tier 1, and as valid as the
others of its container.
"""

from typing import Any

from odoo.addons.base.models.ir_config_parameter import IrConfig_Parameter

from . import ormcache, registry
from .shape import require, require_source


def check() -> None:
    """Refuse an Odoo whose parameters are read in another way."""
    cache = IrConfig_Parameter._get_param.__cache__
    require_source("IrConfig_Parameter._get_param", cache.method, "3c86b7fc9f23")
    require(cache.cache_name == "stable", "parameters are cached with what is stable")


def apply() -> None:
    """Replace what is called when a parameter is not in tier 1."""
    ormcache.compute_by(IrConfig_Parameter._get_param.__cache__, _get_param)


def _get_param(self: Any, key: str) -> str | None:
    lru = self.pool._Registry__caches["stable"]
    all_of_them = "ir.config_parameter", IrConfig_Parameter._get_param.__cache__.method
    values: dict[str, str] | None = lru.get(all_of_them)
    if values is None:
        # as core does for one: we bypass the ORM because get_param() is used in some field's
        # depends, and must therefore work even when the ORM is not ready to work
        self.flush_model(["key", "value"])
        self.env.cr.execute("SELECT key, value FROM ir_config_parameter")
        values = dict(self.env.cr.fetchall())
        registry.fills(self.pool, self.env.cr)
        if registry.put(self.pool, self.env.cr, lru, all_of_them, values):
            registry.filled(self.pool, self.env.cr, "stable", all_of_them)
    return values.get(key)
