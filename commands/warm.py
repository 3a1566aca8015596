"""Compute what processes with this code will look for, before they serve.

It shows itself pages: as a visitor those of the website, as users those behind their menus, one
user for each set of groups and language. The values go to Redis, where each process with
the same code finds it. Run it on a node that is out of service, with the new code, before the node
comes back. Nothing is saved that a visitor's own request would not save, and no device is listed.
"""

from __future__ import annotations

import argparse
import time

from . import journey
from .context import Context

EXAMPLES = ["-d production", "-d production --users 5 --path /shop --path /blog"]
arguments = journey.arguments


def run(context: Context, options: argparse.Namespace) -> int:
    began = time.monotonic()
    with journey.Database(options.database) as database:
        made = journey.make(context, options, database)
        counters = database.counters().values()
    found = {
        "published": sum(counter.published for counter in counters),
        "computing": round(sum(counter.spent for counter in counters), 3),
        "found": sum(counter.found for counter in counters),
        **made._asdict(),
        "seconds": round(time.monotonic() - began, 1),
    }
    told = (
        f"{found['published']} values in Redis, which took {found['computing']:.1f} s to compute:"
        f" {made.requests} requests of {made.people} people, {found['seconds']} s"
    )
    context.show(found, [told, *([f"not answered: {made.failed}"] if made.failed else [])])
    return int(made.failed == made.requests)
