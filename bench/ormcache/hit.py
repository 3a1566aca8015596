"""The cost of a hit, through the decorated method: `bench/ormcache/run` runs it in its own process.

Both functions are called in turn in this one process, on the same caches. Prints JSON: seconds per
call by arm, and what is to be said about it.
"""

from __future__ import annotations

import gc
import json
import random
import statistics
import sys
import time
from collections.abc import Callable
from itertools import repeat

from odoo import SUPERUSER_ID, api
from odoo.modules.module import initialize_sys_path
from odoo.tools import cache, config
from odoo.tools.lru import LRU

CALLS = 20_000


def main(arms: list[str], alternations: int, conf: str) -> None:
    """Measure as Odoo started with this odoo.conf would behave."""
    config.parse_config(["-c", conf], setup_logging=False)
    initialize_sys_path()
    lookups = {"stock": cache.ormcache.lookup}
    from odoo.modules.registry import Registry
    from odoo.service.server import load_server_wide_modules

    load_server_wide_modules()
    notes = []
    if "addon" in arms:
        lookups["addon"] = cache.ormcache.lookup
        if lookups["addon"] is lookups["stock"]:
            notes.append("The addon leaves ormcache.lookup as it is: both hits are Odoo's.")
    [database] = config["db_name"]
    registry = Registry(database)
    kinds = {type(lru) for lru in registry._Registry__caches.values()}
    if kinds != {LRU}:
        notes.append(f"Both hits are measured on {', '.join(map(str, kinds))}, not on Odoo's LRU.")
    with registry.cursor() as cr:
        env = api.Environment(cr, SUPERUSER_ID, {})
        seconds = _measure(env["ir.model.data"]._xmlid_lookup, lookups, alternations)
        cr.rollback()
    print(json.dumps({"seconds": seconds, "notes": notes}))


def _measure(
    method: Callable[[str], object], lookups: dict[str, object], alternations: int
) -> dict[str, float]:
    times: dict[str, list[float]] = {name: [] for name in lookups}
    for name in [*lookups, *lookups]:  # warm up
        cache.ormcache.lookup = lookups[name]
        _calls(method)
    for _ in range(alternations):
        for name in random.sample(list(lookups), len(lookups)):
            cache.ormcache.lookup = lookups[name]
            times[name].append(_calls(method))
    return {name: statistics.median(values) / CALLS for name, values in times.items()}


def _calls(method: Callable[[str], object]) -> float:
    gc.collect()
    gc.disable()
    start = time.perf_counter()
    for _ in repeat(None, CALLS):
        method("base.main_company")
    seconds = time.perf_counter() - start
    gc.enable()
    return seconds


if __name__ == "__main__":
    main(sys.argv[1].split(","), int(sys.argv[2]), sys.argv[3])
