"""``odoo.service.server.log_ormcache_stats``: SIGUSR1 and SIGUSR2 also log what sharing did."""

import functools
import threading
from typing import Any

from odoo.service import server
from odoo.tools.cache import _COUNTERS, _logger

from ..ormcache import COUNTERS, Counter
from ..ormcache.policy import method_name
from .shape import require_signature

_COLUMNS = (
    f"{'Tier 1':>9},{'Tier 2':>8},{'Saved [s]':>10},{'Computed':>9},{'Spent [s]':>10},"
    f"{'Published':>10},{'Rejected':>9},{'Read':>11},{'Sent':>11},  Method"
)


def check() -> None:
    """Refuse an Odoo that logs in another way."""
    require_signature("log_ormcache_stats", server.log_ormcache_stats, "sig", "frame")


def apply() -> None:
    """Patch the name that the servers take as their signals' handler."""
    server.log_ormcache_stats = _with_tier2(server.log_ormcache_stats)


def figures() -> dict[str, dict[str, tuple[int, Counter]]]:
    """Since the process started: {database: {method: (tier-1 hits, what tier 2 did)}}.

    A method is named by module and qualified name. Both are read while others count: figures of a
    moment, not of one moment.
    """
    hits = {
        (database, method_name(method)): counter.hit
        for (database, method), counter in _COUNTERS.copy().items()
    }
    found: dict[str, dict[str, tuple[int, Counter]]] = {}
    for (database, method), counter in COUNTERS.copy().items():
        found.setdefault(database, {})[method] = hits.get((database, method), 0), counter
    return found


def _with_tier2(original: Any) -> Any:
    @functools.wraps(original)
    def log_ormcache_stats(sig: Any = None, frame: Any = None) -> None:
        original(sig, frame)
        # As core does: a signal's handler may not log.
        threading.Thread(target=_log, name="odoo.signal.log_shared_ormcache_stats").start()

    return log_ormcache_stats


def _log() -> None:
    lines = ["Shared cache stats:"]
    for database, methods in sorted(figures().items()):
        lines += [f"Database {database}:", _COLUMNS]
        for method, (hits, c) in sorted(methods.items(), key=lambda item: -item[1][1].saved):
            lines.append(
                f"{hits:9d},{c.found:8d},{c.saved:10.3f},{c.computed:9d},{c.spent:10.3f},"
                f"{c.published:10d},{c.rejected:9d},{c.bytes_in:11d},{c.bytes_out:11d},  {method}"
            )
    _logger.info("\n".join(lines))
