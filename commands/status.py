"""Show which processes are alive, who is logged in, and what the cache saves.

Sums are of the nodes that were seen within a day, since they count; a process sends its own every
10 seconds.
"""

from __future__ import annotations

import argparse
import time
from collections import defaultdict
from dataclasses import asdict
from typing import Any

from ..operation.overview import by_method, live, outages
from .context import Context, duration, say, table

EXAMPLES = ["", "--json", "--watch 5"]
TOP = 10


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--watch", type=float, metavar="SECONDS", help="again and again")


def run(context: Context, options: argparse.Namespace) -> int:
    while True:
        found = collect(context)
        if options.watch and not context.as_json:
            say("\033[2J\033[H")
        context.show(found, lines(found))
        if not options.watch:
            return 0 if found["processes"] else 1
        time.sleep(options.watch)


def collect(context: Context) -> dict[str, Any]:
    """All that is shown.

    :raises RedisUnavailableError: when Redis does not answer
    """
    figures, now = context.books.figures(), context.books.now()
    by_database: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    for figure, amount in figures.items():
        by_database[figure.database][figure.name] += amount
    return {
        "redis": context.server.shown_url,
        "prefix": context.settings.prefix,
        "now": now,
        "processes": [asdict(process) for process in context.books.alive()],
        "databases": {
            name: {**_sessions(context, name), **sums}
            for name, sums in sorted(by_database.items())
            if name
        },
        "total": dict(by_database.get("", {})),
        "methods": dict(by_method(figures)[:TOP]),
        "outages": outages(context.books.history("")),
    }


def _sessions(context: Context, database: str) -> dict[str, int]:
    if context.sessions is None:
        return {}
    alive = live(context.books.sessions(database), context.sessions.get_missing_session_identifiers)
    return {"sessions": len(alive), "users": len({each.uid for each in alive})}


def lines(found: dict[str, Any]) -> list[str]:
    """For people."""
    processes, now = found["processes"], found["now"]
    nodes = {process["host"] for process in processes}
    shown = [f"{found['redis']}, prefix {found['prefix']}"]
    shown.append(f"{_many(len(nodes), 'node')}, {_many(len(processes), 'process', 'processes')}")
    rows: list[tuple[object, ...]] = [("node", "pid", "role", "addon", "up", "seen", "code")]
    for process in processes:
        code = ", ".join(f"{name} {text}" for name, text in process["fingerprints"].items())
        up, seen = duration(now - process["started"]), duration(now - process["seen"])
        rows.append(
            (process["host"], process["pid"], process["role"], process["addon"], up, seen, code)
        )
    if len(rows) > 1:
        shown += ["", *table(rows, right=(1, 4, 5))]
    headings = (
        "database", "users", "sessions", "hits", "of Redis", "seconds saved", "queries saved",
        "computed",
    )  # fmt: skip
    rows = [headings]
    for name, sums in found["databases"].items():
        rows.append(
            (
                name,
                sums.get("users", "-"),
                sums.get("sessions", "-"),
                _ratio(sums.get("cache_hits", 0), sums.get("cache_misses", 0)),
                f"{sums.get('cache_found', 0):.0f}",
                f"{sums.get('cache_seconds_saved', 0):.1f}",
                f"{sums.get('cache_queries_saved', 0):.0f}",
                f"{sums.get('cache_computed', 0):.0f}",
            )
        )
    if len(rows) > 1:
        shown += ["", *table(rows, right=range(1, 8))]
    rows = [("method", "seconds saved", "queries saved", "of Redis")]
    for name, sums in found["methods"].items():
        queries, taken = sums.get("cache_queries_saved", 0), sums["cache_found"]
        rows.append((name, f"{sums['cache_seconds_saved']:.2f}", f"{queries:.0f}", f"{taken:.0f}"))
    if len(rows) > 1:
        shown += ["", *table(rows, right=(1, 2, 3))]
    shown.append("")
    for outage in found["outages"]:
        begin = time.strftime("%H:%M", time.localtime(outage["begin"]))
        lasted = duration(outage["end"] - outage["begin"])
        shown.append(
            f"outage at {begin}, {lasted}: {outage['answers_503']:.0f} times a session was not"
            " available"
        )
    if not found["outages"]:
        shown.append("no outage within a day")
    return shown


def _many(count: int, one: str, more: str = "") -> str:
    return f"{count} {one if count == 1 else more or one + 's'}"


def _ratio(hits: float, misses: float) -> str:
    return f"{100 * hits / (hits + misses):.1f} %" if hits + misses else "-"
