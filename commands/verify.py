"""Compute values again that Redis has, and say which methods gave another one.

It makes the requests that `odoo redis warm` makes, and compares each value that it takes from Redis
with what it computes itself. A method that gives another one depends on more than its arguments: no
process shares it from then on. Processes that serve do the same with a few of their values (setting
`ormcache_verify`). --trust has a method shared again, which was mended.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

from ..http_patch import verification
from ..ormcache import read_distrusted
from . import journey
from .context import Context, duration, table

EXAMPLES = ["-d production", "-d production --trust odoo.addons.sale.models.sale.Order._some"]


def arguments(parser: argparse.ArgumentParser) -> None:
    journey.arguments(parser)
    parser.add_argument("--trust", action="append", default=[], metavar="METHOD", help="share it")


def run(context: Context, options: argparse.Namespace) -> int:
    with journey.Database(options.database) as database:
        for method in options.trust:
            database.shared.trust(method)
        if options.trust:
            database.signal()
            made = None
        else:
            database.installed.sampling.one_in = 1
            made = journey.make(context, options, database)
            verification.wait()
        counters = database.counters()
        distrusted = read_distrusted(
            database.shared.remote, context.settings.prefix, options.database
        )
    verified = sum(counter.verified for counter in counters.values())
    found: dict[str, Any] = {
        "found": sum(counter.found for counter in counters.values()),
        "verified": verified,
        "distrusted": distrusted,
        **(made._asdict() if made else {}),
    }
    now = time.time()
    rows = [("not shared, because a value was wrong", "since")]
    rows += [(name, f"{duration(now - since)} ago") for name, since in sorted(distrusted.items())]
    lines = [f"{verified} of {found['found']} values of Redis were computed again"] if made else []
    context.show(found, [*lines, *(table(rows) if distrusted else ["all methods are trusted"])])
    return int(bool(distrusted))
