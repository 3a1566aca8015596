"""Check what several nodes need: both Redis, their settings, and those of Odoo.

It connects as the server would. Each line is OK, WARN or FAIL, the latter two with what to do; the
exit code is 1 if one is FAIL.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from cryptography import x509
from odoo.tools import config

from ..connection import RedisServer
from ..connection.clock import TOLERATED
from ..exceptions import (
    ConfigurationError,
    Error,
    OldStoreUnavailableError,
    RedisUnavailableError,
)
from ..migration import OldStore
from ..old_url import masked
from ..url import RedisURL, parse
from .context import Context

EXAMPLES = ["", "--pings 100", "--json"]
OK, WARN, FAIL = "OK", "WARN", "FAIL"
PINGS = 1_000
PING_SECONDS = 5.0  # for all of them
SLOW, VERY_SLOW = 0.005, 0.050  # seconds: an answer of a network nearby takes less
CERTIFICATE_DAYS = 21
FULL = 0.9  # of maxmemory
CONNECT = 3.0  # seconds
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
            yield from _memory(subject, server)
        yield from _certificates(subject, parse(text))
    if context.sessions and context.sessions.old:
        yield _former_store(context.sessions.old, str(settings.old_sessions))
    if has_books:
        yield from _nodes(context)
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


def _memory(subject: str, server: RedisServer) -> Iterator[Finding]:
    try:
        answer = server.execute("INFO", "memory")
    except RedisUnavailableError:  # kept from this user, or a Cluster, of which none is meant
        return
    text = answer.decode(errors="replace") if isinstance(answer, bytes) else ""
    facts = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
    used, most = int(facts.get("used_memory", 0)), int(facts.get("maxmemory", 0))
    limit = f"of {most / 2**20:.0f}" if most else "without a limit of its own"
    told = f"{used / 2**20:.0f} MB used {limit}"
    yield _either(
        not most or used <= FULL * most, f"{subject}, memory", told, told,
        "a higher maxmemory: where it is full, sessions are refused, or evicted",
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


def _nodes(context: Context) -> Iterator[Finding]:
    """Whether the processes say the same of themselves."""
    alive = context.books.alive()
    hosts = sorted({process.host for process in alive})
    if not alive:
        yield Finding(
            WARN, "nodes", "no process with this prefix was seen a moment ago",
            "start Odoo with the addon in server_wide_modules; it takes 10 s to be seen",
        )  # fmt: skip
        return
    yield Finding(OK, "nodes", f"{len(alive)} processes on {', '.join(hosts)}")
    for name in sorted({name for process in alive for name in process.settings}):
        yield _alike(
            f"setting {name}", {process.host: process.settings.get(name) for process in alive},
            FAIL, "set it alike on all nodes, and restart them",
        )  # fmt: skip
    versions = {process.host: process.addon for process in alive}
    yield _alike("version of the addon", versions, WARN, "finish the deployment")
    for database in sorted({name for process in alive for name in process.fingerprints}):
        codes = {
            process.host: process.fingerprints[database]
            for process in alive
            if database in process.fingerprints
        }
        yield _alike(
            f"code for {database}", codes, WARN,
            "cached values are shared between nodes with the same code only: finish the "
            "deployment, or compare what each logs with --log-handler "
            "odoo.addons.redis_session_ormcache:DEBUG",
        )  # fmt: skip
    cron = {process.host for process in alive if process.role == "cron"}
    if len(cron) > 1:
        yield Finding(
            WARN, "cron jobs", f"run on {', '.join(sorted(cron))}",
            "max_cron_threads = 0 on all nodes but one, if that is not meant",
        )  # fmt: skip


def _alike(subject: str, by_host: dict[str, Any], level: str, todo: str) -> Finding:
    """Whether all nodes say the same."""
    told = ", ".join(f"{host}: {value}" for host, value in sorted(by_host.items()))
    is_alike = len({str(value) for value in by_host.values()}) <= 1
    return _either(is_alike, subject, "the same on all nodes", f"differs: {told}", todo, level)


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
