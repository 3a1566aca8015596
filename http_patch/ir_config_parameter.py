"""``IrConfig_Parameter._get_param``: a transaction that misses several asks for all at once.

Parameters hold secrets, so they are never shared; a fresh process would need a query for each. The
answer serves the transaction that asked, as long as it only reads: it sees one snapshot all the
time, so each parameter has the value that core's query would give.

``IrConfig_Parameter.init`` gives a copied database a secret of its own after it was loaded, and
signals nothing.
"""

import functools
import re
import threading
from typing import Any

from odoo.addons.base.models.ir_config_parameter import IrConfig_Parameter

from . import generations, ormcache, registry
from .shape import require, require_signature, require_source

_only_reads = re.compile(r"\s*SELECT\b[^;]*;?\s*", re.IGNORECASE).fullmatch


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
            self.env.cr.postcommit.add(functools.partial(generations.read_again, self.pool))

    return init


def _get_param(self: Any, key: str) -> str | None:
    if registry.usable(self.pool, self.env.cr) is None:
        return IrConfig_Parameter._get_param.__cache__.method(self, key)  # type: ignore[no-any-return]
    # as core does for one: we bypass the ORM because get_param() is used in some field's
    # depends, and must therefore work even when the ORM is not ready to work
    self.flush_model(["key", "value"])
    transaction = registry.transaction(self.pool, self.env.cr)
    if transaction.parameters is None:
        self.env.cr.execute("SELECT key, value FROM ir_config_parameter")
        transaction.parameters = dict(self.env.cr.fetchall())
        _watch_queries()
    return transaction.parameters.get(key)


def _watch_queries() -> None:
    """Have this thread's queries pass by :func:`_forget`, as the profiler does with its own."""
    thread: Any = threading.current_thread()
    hooks = vars(thread).setdefault("query_hooks", [])
    if _forget not in hooks:
        hooks.append(_forget)


def _forget(cursor: Any, query: Any, _params: Any, _start: float, _delay: float) -> None:
    """After a query that may have changed the parameters, whichever they are."""
    transaction = registry.transaction_of(cursor)
    if transaction and transaction.parameters is not None:
        text = query if isinstance(query, str) else cursor._obj.query.decode(errors="replace")
        if not _only_reads(text):
            transaction.parameters = None
