"""What `bench/sessions/run` measures and shows."""

from __future__ import annotations

import itertools
import json
import platform
import random
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cryptography
import psycopg2
import redis
from odoo import release

from stack.servers import PostgreSQL, Redis

from ..measure import load, medians, table
from . import stores as contestants

TIMEOUT = 1.0  # seconds, of the raw client: what the addon's default of 2.0 gives a connection
HOT_SESSIONS = 100
ASKED, DELETED = 2000, 500
MANY_ROUNDS = 9
SLOW = 1.0  # seconds: what takes longer is measured twice only
TARGETS = {"get": 1.25, "save": 1.25, "missing": 0.060, "delete": 0.030}  # times raw; seconds
TITLES = {
    "get": "get, µs",
    "save": "save, µs",
    "missing": f"get_missing_session_identifiers of {ASKED:,}, ms",
    "delete": f"delete_from_identifiers of {DELETED:,}, ms",
}
RAW = {"get": "raw redis-py GET", "save": "raw redis-py SET EX"}
Figures = dict[tuple[str, str], float]  # (operation, store): seconds


def run(folder: Path, rounds: int, counts: list[int]) -> None:
    """Start the servers, measure at each number of stored sessions, print the table."""
    session_db, note = contestants.install_session_db()
    # 2 databases of 100,000 sessions are 140 MB: all in memory, as Redis has it.
    server, postgres = (
        Redis(folder / "redis"),
        PostgreSQL(folder / "postgresql", config={"shared_buffers": "512MB"}),
    )
    with server:
        try:
            if session_db:
                postgres.start()
            contestants.load_addons(folder / "data", server.url, session_db)
            client = redis.Redis.from_url(
                server.url, socket_timeout=TIMEOUT, socket_connect_timeout=TIMEOUT
            )
            stores: list[Any] = [contestants.Ours(client), contestants.Files(folder / "files")]
            if session_db:
                stores += [contestants.SessionDb(postgres, collation) for collation in (None, "C")]
            print(_versions(client), note, load(), sep="\n")
            figures = _measured(stores, client, rounds, counts)
        finally:
            postgres.remove()
    _show(figures, counts)
    print(load())


def _measured(
    stores: list[Any], client: redis.Redis, rounds: int, counts: list[int]
) -> dict[int, Figures]:
    generate_key = stores[0].store.generate_key
    sids: list[str] = []
    hot = [generate_key() for _ in range(HOT_SESSIONS)]
    figures = {}
    for count in counts:
        new = [generate_key() for _ in range(count - len(sids))]
        sids += new
        for store in stores:
            _say(f"{count:,} sessions: fill {store.name}")
            store.fill(new)
        _say(f"{count:,} sessions: get and save")
        figures[count] = _one_session(stores, client, hot, rounds)
        _say(f"{count:,} sessions: missing and delete")
        figures[count] |= _many_sessions(stores, sids, generate_key)
    return figures


def _one_session(stores: list[Any], client: redis.Redis, hot: list[str], rounds: int) -> Figures:
    """Times of `get` and `save` of one of the hot sessions."""
    content = contestants.session_content()
    payload = json.dumps(content).encode()
    for sid in hot:
        client.set(f"raw:{sid}", payload, ex=contestants.LIFETIME)
    # One database is enough: its collation is nothing to an equality.
    stores = [store for store in stores if "LC_COLLATE" not in store.name]
    calls: dict[tuple[str, str], Callable[[], object]] = {}
    for store in stores:
        sessions = []
        for sid in hot:
            session = store.store.session_class(content, sid, True)
            store.store.save(session)
            sessions.append(read := store.store.get(sid))
            if read.is_new or dict(read) != dict(session):
                raise RuntimeError(f"{store.name} did not give back what it was given")
        calls["get", store.name] = _each(store.store.get, hot)
        calls["save", store.name] = _each(store.store.save, sessions)
    raw_keys = [f"raw:{sid}" for sid in hot]
    calls["get", RAW["get"]] = _each(client.get, raw_keys)
    calls["save", RAW["save"]] = _each(
        lambda key: client.set(key, payload, ex=contestants.LIFETIME), raw_keys
    )
    medians(calls, 100)  # warm up
    return medians(calls, rounds)


def _each(function: Callable[[Any], object], values: list[Any]) -> Callable[[], object]:
    """A call of the function on the next value."""
    following = itertools.cycle(values).__next__
    return lambda: function(following())


def _many_sessions(stores: list[Any], sids: list[str], generate_key: Callable[[], str]) -> Figures:
    """Times of the two operations that are given many identifiers."""
    stored = [sid[:42] for sid in random.sample(sids, ASKED // 2)]
    absent = [generate_key()[:42] for _ in range(ASKED - len(stored))]
    asked = random.sample(stored + absent, ASKED)
    doomed = random.sample(sids, DELETED)
    figures: Figures = {}
    calls, restores = {}, {}
    for store in stores:
        if store.store.get_missing_session_identifiers(asked) != set(absent):
            raise RuntimeError(f"{store.name} misses others than it should")
        calls["missing", store.name] = _with(store.store.get_missing_session_identifiers, asked)
        calls["delete", store.name] = _with(
            store.store.delete_from_identifiers, [sid[:42] for sid in doomed]
        )
        restores["delete", store.name] = _with(store.fill, doomed)
    first = medians(calls, 1, restores)
    slow = {key for key, seconds in first.items() if seconds > SLOW}
    if slow:
        figures |= medians({key: calls[key] for key in slow}, 2, restores)
    return figures | medians(
        {key: call for key, call in calls.items() if key not in slow}, MANY_ROUNDS, restores
    )


def _with(function: Callable[[Any], object], value: Any) -> Callable[[], object]:
    return lambda: function(value)


def _show(figures: dict[int, Figures], counts: list[int]) -> None:
    header = [
        "",
        *(word for count in counts for word in (f"at {count:,}", "× raw")),
        "growth",
        "target",
        "",
    ]
    rows: list[list[str]] = []
    last = figures[counts[-1]]
    names = list(
        dict.fromkeys([contestants.Ours.name, *RAW.values(), *sorted(name for _, name in last)])
    )
    for operation, title in TITLES.items():
        rows += [*([[]] if rows else []), [title, *[""] * (len(header) - 1)]]
        unit = 1e6 if operation in RAW else 1e3
        for name in [name for name in names if (operation, name) in last]:
            key = operation, name
            row = ["  " + name]
            for count in counts:
                raw = figures[count].get((operation, RAW.get(operation, "")))
                row += [
                    f"{figures[count][key] * unit:,.1f}",
                    f"{figures[count][key] / raw:.2f}" if raw else "",
                ]
            row.append(f"{last[key] / figures[counts[0]][key]:.2f}" if len(counts) > 1 else "")
            row += _verdict(operation, key, last) if name == contestants.Ours.name else ["", ""]
            rows.append(row)
    print(table(header, rows))


def _verdict(operation: str, key: tuple[str, str], figures: Figures) -> list[str]:
    """The target, and whether it is met with the most sessions stored."""
    target = TARGETS[operation]
    if operation in RAW:
        met = figures[key] <= target * figures[operation, RAW[operation]]
        return [f"<= {target:.2f} × raw", "met" if met else "MISSED"]
    return [f"<= {target * 1e3:.0f} ms", "met" if figures[key] <= target else "MISSED"]


def _versions(client: redis.Redis) -> str:
    parts = {
        "Odoo": release.version,
        "Python": platform.python_version(),
        "Redis": client.info("server")["redis_version"],
        "redis-py": redis.__version__,
        "cryptography": cryptography.__version__,
        "psycopg2": psycopg2.__version__.split()[0],
    }
    return ", ".join(f"{name} {version}" for name, version in parts.items())


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
