"""Check what several nodes need: both Redis, their settings, and those of Odoo.

It connects as the server would. Each line is OK, WARN or FAIL, the latter two with what to do; the
exit code is 1 if one is FAIL.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import os
import re
import socket
import ssl
import time
from collections.abc import Callable, Collection, Iterator
from typing import Any, NamedTuple

import psycopg2
from cryptography import x509
from odoo import sql_db
from odoo.tools import config

from ..connection import RedisServer
from ..connection.clock import TOLERATED
from ..exceptions import (
    ConfigurationError,
    Error,
    OldStoreUnavailableError,
    RedisUnavailableError,
)
from ..http_patch import code_listing
from ..migration import OldStore
from ..old_url import masked
from ..operation import Process
from ..operation.overview import SLOW, compare
from ..ormcache import read_distrusted
from ..url import RedisURL, parse
from .context import Context

EXAMPLES = ["", "--pings 100", "--json"]
OK, WARN, FAIL = "OK", "WARN", "FAIL"
PINGS = 1_000
PING_SECONDS = 5.0  # for all of them
VERY_SLOW = 0.050  # seconds, of one answer in a hundred
CERTIFICATE_DAYS = 21
FULL = 0.9  # of maxmemory
GROWN_FOR = 6  # hours of which the growth of memory is known
ROOM_DAYS = 7  # of memory, at that growth
REPLICA_LAG = 5  # seconds: a replica reports each second
FILES = 100  # attachments, the latest ones, whose files are looked for
FILES_SHOWN = 10  # of those that differ
CONNECT = 3.0  # seconds
# By what nodes should have alike: its name here, how bad it is if they have not, what to do then.
_SAYINGS = {
    "server": (
        "PostgreSQL of {}",
        FAIL,
        "two databases of one name use the same keys: another prefix for one of the installations",
    ),
    "setting": ("setting {}", FAIL, "set it alike on all nodes, and restart them"),
    "addon": ("version of the addon", WARN, "finish the deployment"),
    "code": (
        "code for {}",
        WARN,
        "cached values are shared between nodes with the same code only: finish the deployment",
    ),
}
_BUCKETS = (0.0002, 0.0005, 0.001, 0.002, 0.005, 0.010, 0.020, 0.050)  # seconds, upper ends


class Finding(NamedTuple):
    """One line.

    :param todo: what to do about it; "" where nothing is to be done
    """

    level: str
    subject: str
    told: str
    todo: str = ""


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--pings", type=int, default=PINGS, help=f"to time ({PINGS})")


def run(context: Context, options: argparse.Namespace) -> int:
    found = list(examine(context, options.pings))
    lines = []
    for level, subject, told, todo in found:
        lines.append(f"{level:4} {subject}: {told}")
        if todo:
            lines.append(f"     -> {todo}")
    context.show([finding._asdict() for finding in found], lines)
    return int(any(finding.level == FAIL for finding in found))


def examine(context: Context, pings: int = PINGS) -> Iterator[Finding]:
    """All findings, one after the other."""
    settings = context.settings
    halves: list[tuple[str, RedisServer, str, bool, Callable[[], None]]] = []
    if context.sessions:
        url = settings.session_url or settings.url
        halves.append(("sessions", context.sessions.server, url, True, context.sessions.check))
    if context.remote:
        remote, url = context.remote, settings.ormcache_url or settings.url
        check = f"{settings.prefix}:ormcache:check"
        halves.append(("ormcache", remote.server, url, False, lambda: remote.check(check)))
    has_books = False  # whether the first one, where they are, is reached
    for name, server, text, durable, use in halves:
        subject = f"Redis of {name}"
        findings = list(_usable(subject, server, durable=durable, use=use))
        yield from findings
        if not any(finding.level == FAIL for finding in findings):
            has_books |= server is context.server
            yield from _latency(subject, server, f"{settings.prefix}:doctor", pings)
            yield _clock(subject, server)
            yield from _memory(subject, server, context)
            yield from _replicas(subject, server)
        yield from _certificates(subject, parse(text))
    if context.sessions and context.sessions.old:
        yield _former_store(context.sessions.old, str(settings.old_sessions))
    alive = context.books.alive() if has_books else []
    if has_books:
        yield from _nodes(context, alive)
    yield from _databases(context, alive, has_books=has_books)
    yield from _odoo(context)


def _usable(
    subject: str, server: RedisServer, *, durable: bool, use: Callable[[], None]
) -> Iterator[Finding]:
    """As the server finds out at its start."""
    try:
        dangers = server.check(durable=durable)
        server.try_out(use)
    except ConfigurationError as error:
        yield Finding(FAIL, subject, str(error), "a server with this setting does not start")
        return
    except RedisUnavailableError as error:
        yield Finding(FAIL, subject, str(error), "start it, or mend the URL or the network")
        return
    except Error as error:
        yield Finding(FAIL, subject, str(error))
        return
    yield Finding(OK, subject, f"{server.shown_url} does all that is asked of it")
    for danger in dangers:
        yield Finding(WARN, subject, danger, "README.rst, «Topologies»")


def _former_store(old: OldStore, url: str) -> Finding:
    subject = "former store"
    try:
        old.check()
    except ConfigurationError as error:
        return Finding(FAIL, subject, str(error), "a server with this setting does not start")
    except OldStoreUnavailableError as error:
        told = f"{error}: a session that is not in Redis gets HTTP 503"
        return Finding(FAIL, subject, told, "start it, or mend the URL or the network")
    return Finding(OK, subject, f"sessions that are not in Redis are moved from {masked(url)}")


def _latency(subject: str, server: RedisServer, key: str, pings: int) -> Iterator[Finding]:
    took: list[float] = []
    began = time.monotonic()
    with contextlib.suppress(RedisUnavailableError):
        while len(took) < pings and time.monotonic() - began < PING_SECONDS:
            asked = time.monotonic()
            server.execute("EXISTS", key)
            took.append(time.monotonic() - asked)
    if not took:
        return
    took.sort()
    median, tail = took[len(took) // 2], took[int(len(took) * 0.99)]
    told = (
        f"{len(took)} answers, median {median * 1e3:.2f} ms, 99 % within {tail * 1e3:.2f} ms: "
        + _histogram(took)
    )
    is_fast = median <= SLOW and tail <= VERY_SLOW
    todo = "a Redis nearer to the nodes, or less busy"
    yield _either(is_fast, f"{subject}, latency", told, told, todo)


def _histogram(took: list[float]) -> str:
    """How many answers took so long.

    >>> _histogram([0.0001, 0.0003, 0.0004, 0.2])
    '1 < 0.2 ms, 2 < 0.5 ms, 1 longer'
    """
    counts: dict[str, int] = {}
    for seconds in took:
        end = next((end for end in _BUCKETS if seconds < end), None)
        name = "longer" if end is None else f"< {end * 1e3:g} ms"
        counts[name] = counts.get(name, 0) + 1
    return ", ".join(f"{count} {name}" for name, count in counts.items())


def _clock(subject: str, server: RedisServer) -> Finding:
    skew = server.clock.now() - time.time()
    return _either(
        abs(skew) <= TOLERATED, f"{subject}, clock", "as this node's",
        f"{abs(skew):.0f} s {'ahead of' if skew > 0 else 'behind'} this node's",
        "NTP on both; sessions go by that of Redis",
    )  # fmt: skip


def _info(server: RedisServer, section: str) -> dict[str, str]:
    """Facts that a server gives of itself; none where it may not, or is a Cluster."""
    try:
        answer = server.execute("INFO", section)
    except RedisUnavailableError:
        return {}
    text = answer.decode(errors="replace") if isinstance(answer, bytes) else ""
    return dict(line.split(":", 1) for line in text.splitlines() if ":" in line)


def _memory(subject: str, server: RedisServer, context: Context) -> Iterator[Finding]:
    facts = _info(server, "memory")
    if not facts:
        return
    used, most = int(facts.get("used_memory", 0)), int(facts.get("maxmemory", 0))
    limit = f"of {most / 2**20:.0f}" if most else "without a limit of its own"
    told = f"{used / 2**20:.0f} MB used {limit}"
    yield _either(
        not most or used <= FULL * most, f"{subject}, memory", told, told,
        "a higher maxmemory: where it is full, sessions are refused, or evicted",
    )  # fmt: skip
    if server is context.server:
        past = context.books.memory()
        context.books.note_memory(used)
        yield from _growth(subject, past, context.books.now() / 3600, used, most)


def _growth(
    subject: str, past: dict[int, int], now: float, used: int, most: int
) -> Iterator[Finding]:
    """How long there is room, at the growth since the first look of this command within a day.

    :param past: bytes that were used, by hour since the epoch
    :param now: hours since the epoch
    """
    first = min(past, default=None)
    if first is None or now - first < GROWN_FOR or not most:
        return
    growth = (used - past[first]) / (now - first)
    told = f"{growth / 2**20:+.1f} MB an hour in the last {now - first:.0f} hours"
    days = (most - used) / growth / 24 if growth > 0 else float("inf")
    yield _either(
        days >= ROOM_DAYS, f"{subject}, growth of memory", told,
        f"{told}: full in {days:.1f} days", "a higher maxmemory, or find out what grows",
    )  # fmt: skip


def _replicas(subject: str, server: RedisServer) -> Iterator[Finding]:
    """Whether each has what the primary has: what it lacks is lost with the primary."""
    facts = _info(server, "replication")
    replicas = [
        dict(part.split("=", 1) for part in told.split(",") if "=" in part)
        for name, told in facts.items()
        if re.fullmatch(r"slave\d+", name)
    ]
    late = [
        f"{replica.get('ip')}:{replica.get('port')} ({replica.get('state')}, "
        f"{replica.get('lag')} s behind)"
        for replica in replicas
        if replica.get("state") != "online" or int(replica.get("lag", 0)) > REPLICA_LAG
    ]
    if replicas:
        yield _either(
            not late, f"{subject}, replicas", f"all {len(replicas)} follow",
            f"not up to date: {', '.join(late)}",
            "look at their logs: a failover to one of them loses sessions",
        )  # fmt: skip


def _certificates(subject: str, url: RedisURL) -> Iterator[Finding]:
    """How long those last that the hosts of a URL show."""
    if not url.hosts_tls:
        return
    for host, port in url.hosts:
        try:
            days = _days_left(host, port, url)
        except (OSError, ValueError) as error:
            yield Finding(WARN, f"{subject}, certificate", f"{host}:{port} shows none: {error}")
            continue
        told = f"that of {host}:{port} ends in {days} days"
        is_good, level = days >= CERTIFICATE_DAYS, FAIL if days < 0 else WARN
        yield _either(is_good, f"{subject}, certificate", told, told, "renew it", level)


def _days_left(host: str, port: int, url: RedisURL) -> int:
    tls = ssl.create_default_context()
    tls.check_hostname, tls.verify_mode = False, ssl.CERT_NONE  # it is read, and not trusted
    if certificate := url.options.get("ssl_certfile"):
        tls.load_cert_chain(certificate, url.options.get("ssl_keyfile"))
    with socket.create_connection((host, port), timeout=CONNECT) as plain:
        with tls.wrap_socket(plain, server_hostname=host) as encrypted:
            shown = x509.load_der_x509_certificate(encrypted.getpeercert(binary_form=True) or b"")
    end = shown.not_valid_after
    now = datetime.datetime.now(datetime.timezone.utc).replace(tzinfo=None)
    return (end - now).days


def _nodes(context: Context, alive: list[Process]) -> Iterator[Finding]:
    """Whether the processes say the same of themselves."""
    hosts = sorted({process.host for process in alive})
    if not alive:
        yield Finding(
            WARN, "nodes", "no process with this prefix was seen a moment ago",
            "start Odoo with the addon in server_wide_modules; it takes 10 s to be seen",
        )  # fmt: skip
        return
    yield Finding(OK, "nodes", f"{len(alive)} processes on {', '.join(hosts)}")
    for compared in compare(alive):
        subject, level, todo = _SAYINGS[compared.kind]
        told = ", ".join(f"{host}: {said}" for host, said in sorted(compared.told.items()))
        if compared.kind == "code" and not compared.is_alike:
            told += f"; {_differing(context, compared.name, compared.said)}"
        yield _either(
            compared.is_alike, subject.format(compared.name), "the same on all nodes",
            f"differs: {told}", todo, level,
        )  # fmt: skip
    for process in alive:
        if process.replaced:
            yield Finding(
                FAIL, "session store", f"{process.host}, {process.role}: {process.replaced}",
                "do without the addon that replaces it, or set session = false",
            )  # fmt: skip
    cron = {process.host for process in alive if process.role == "cron"}
    if len(cron) > 1:
        yield Finding(
            WARN, "cron jobs", f"run on {', '.join(sorted(cron))}",
            "max_cron_threads = 0 on all nodes but one, if that is not meant",
        )  # fmt: skip


def _differing(context: Context, database: str, codes: Collection[str]) -> str:
    """Which files are not the same."""
    try:
        known = code_listing.read(context.books, database)
    except Error:
        known = {}
    listings = {code: known[code] for code in codes if code in known}
    if len(listings) < 2:
        return "which files is not known yet: a process tells it a moment after it has started"
    files = code_listing.differing(listings)
    more = f" and {len(files) - FILES_SHOWN} more" if len(files) > FILES_SHOWN else ""
    return f"not the same: {', '.join(files[:FILES_SHOWN])}{more}"


def _databases(context: Context, alive: list[Process], *, has_books: bool) -> Iterator[Finding]:
    """Whether each database has right values, its files here, and the addon in all processes."""
    names = config["db_name"] or sorted(
        {name for process in alive for name in process.fingerprints}
    )
    for name in names:
        yield from _distrusted(name, context)
        try:
            with contextlib.closing(sql_db.db_connect(name).cursor()) as cursor:
                yield from _filestore(name, cursor)
                if has_books:
                    yield from _without_addon(name, cursor, alive)
        except psycopg2.Error as error:
            told = " ".join(str(error).split())
            yield Finding(
                FAIL, f"database {name}", told, "db_host, db_user, and whether it is there"
            )


def _distrusted(database: str, context: Context) -> Iterator[Finding]:
    """Whether a value of Redis was found wrong."""
    if context.remote:
        found = sorted(read_distrusted(context.remote, context.settings.prefix, database))
        yield _either(
            not found, f"cached values of {database}", "none was found wrong",
            f"not shared, because a value was wrong: {', '.join(found)}",
            f"mend the method, whose values depend on more than its arguments; then "
            f"odoo redis verify -d {database} --trust METHOD",
        )  # fmt: skip


def _filestore(database: str, cursor: Any) -> Iterator[Finding]:
    """Whether the files of the latest attachments, which any node may have stored, are here."""
    cursor.execute(
        "SELECT store_fname FROM ir_attachment WHERE store_fname IS NOT NULL"
        " ORDER BY id DESC LIMIT %s",
        (FILES,),
    )
    names = {name for (name,) in cursor.fetchall()}
    folder = config.filestore(database)
    missing = sum(not os.path.isfile(os.path.join(folder, name)) for name in names)
    yield _either(
        not missing, f"files of {database}", f"the latest {len(names)} are on this node",
        f"{missing} of the latest {len(names)} are not in {folder}",
        "one filestore for all nodes (deploy/attachments); run this on each node", FAIL,
    )  # fmt: skip


def _without_addon(database: str, cursor: Any, alive: list[Process]) -> Iterator[Finding]:
    """Whether more processes of Odoo are connected than keep books.

    PostgreSQL knows them by address and pid, which is their prefork server's if they have one.
    Processes of several nodes may have the same pid: of each there are as many addresses as nodes.
    """
    before, has_pid, after = config["db_app_name"].partition("{pid}")
    if not has_pid:
        return
    cursor.execute(
        "SELECT DISTINCT application_name, coalesce(host(client_addr), 'this host')"
        " FROM pg_stat_activity WHERE datname = %s AND pid != pg_backend_pid()",
        (database,),
    )
    is_odoo = re.compile(f"{re.escape(before)}(\\d+){re.escape(after)}").fullmatch
    addresses: dict[int, set[str]] = {}
    for application, address in cursor.fetchall():
        if found := is_odoo(application or ""):
            addresses.setdefault(int(found[1]), set()).add(address)
    hosts: dict[int, set[str]] = {}
    for process in alive:
        for pid in (process.pid, process.parent):
            hosts.setdefault(pid, set()).add(process.host)
    unknown = [
        f"{pid} at {' or '.join(sorted(where))}"
        for pid, where in sorted(addresses.items())
        if pid != os.getpid() and len(where) > len(hosts.get(pid, ()))
    ]
    yield _either(
        not unknown, f"processes of {database}", "all have the addon",
        f"without the addon, or with another prefix: process {', '.join(unknown)}",
        "the addon in server_wide_modules there: such a node has sessions of its own",
    )  # fmt: skip


def _odoo(context: Context) -> Iterator[Finding]:
    """Settings of Odoo that several nodes need."""
    databases = config["db_name"]
    yield _either(
        config["proxy_mode"], "proxy_mode", "on",
        "off: all visitors seem to come from the load balancer",
        "proxy_mode = True, and a firewall that lets nobody else at the nodes",
    )  # fmt: skip
    yield _either(
        not config["list_db"], "list_db", "off",
        "on: anybody may see the names of databases, and try to manage them", "list_db = False",
    )  # fmt: skip
    yield _either(
        config["dbfilter"] or len(databases) == 1, "dbfilter",
        "says which database a request is for",
        "is empty: a request without a session has to choose a database",
        "dbfilter = ^%d$, or one db_name",
    )  # fmt: skip
    if not context.settings.secret and len(databases) != 1:
        yield Finding(
            WARN, "secret", "is not set, and several databases are served",
            "secret in [redis], the same on all nodes: openssl rand -hex 32",
        )  # fmt: skip


def _either(
    is_good: object, subject: str, good: str, bad: str, todo: str, level: str = WARN
) -> Finding:
    """One of two findings.

    :param level: of the bad one
    """
    return Finding(OK, subject, good) if is_good else Finding(level, subject, bad, todo)
