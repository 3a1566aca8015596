"""What is asked of the servers once, before Odoo serves: whether they can, and should, be used.

What can never work raises, what is dangerous is told. Who runs Redis may keep INFO and CONFIG to
himself: then what they would tell is not checked.
"""

import contextlib
import re
import socket
import ssl
from collections.abc import Iterator
from typing import Any

import redis
from redis.exceptions import AuthenticationError, NoPermissionError, RedisError, ResponseError

from ..exceptions import ConfigurationError, RedisUnavailableError
from ..url import CLUSTER, SENTINEL, RedisURL
from .client import DRIVER_ERRORS, Client, begin

OLDEST = (6, 2)  # the oldest Redis this was tested with
# Of X.509: a certificate that is not valid yet, or no more. Both pass without a change here.
_OUT_OF_TIME = {9, 10}
_PATIENCE = 1.0  # seconds for each of a Cluster's primaries
_LOOK = 0.5  # seconds to find out why a server cannot be spoken to, for each step


def check(client: Client, url: RedisURL, *, durable: bool) -> list[str]:
    """Ask each server; what should be known of them.

    :param durable: whether what is stored may not be lost
    :raises ConfigurationError: they will never serve us as configured
    :raises RedisUnavailableError: they do not answer, which may pass
    """
    _check_files(url)
    _check_sentinels(client, url)
    try:
        servers = client.servers()
    except DRIVER_ERRORS as error:
        for seed in client.seeds():  # each may have another reason
            begin(_LOOK)
            with contextlib.suppress(RedisUnavailableError):
                _asked(seed, url)
        raise _explained(error, url) from error
    dangers: list[str] = []
    away: list[RedisUnavailableError] = []
    for server in servers:
        if len(servers) > 1:
            begin(_PATIENCE)  # one that hangs leaves time for the others
        try:
            facts = _asked(server, url)
        except RedisUnavailableError as error:
            away.append(error)
        else:
            dangers += _dangers(facts, durable=durable)
    if len(away) == len(servers) and away:
        raise away[0]
    found = [f"Redis at {url} {danger}" for danger in dict.fromkeys(dangers)]
    return found + [f"{error}: until it answers, what it holds is not to be had" for error in away]


def _asked(server: Any, url: RedisURL) -> dict[str, Any]:
    """What a server says of itself, if it is one that can be used; else as :func:`check`."""
    try:
        facts = _facts(server)
    except DRIVER_ERRORS as error:
        raise _explained(error, url) from error
    _check_kind(facts, url)
    return facts


def _facts(server: Any) -> dict[str, Any]:
    """What INFO says, and the setting ``save``; nothing of what its user may not ask."""
    facts: dict[str, Any] = {}
    server.connection_pool.release(server.connection_pool.get_connection())  # may raise
    for question in (server.info, lambda: server.config_get("save")):
        try:
            facts |= question()
        except ResponseError as error:
            if not is_forbidden(error):
                raise
    return facts


def _check_files(url: RedisURL) -> None:
    """Files that cannot be read would look like a server that does not answer."""
    options = url.options
    context = ssl.create_default_context()
    for names, load in (
        (("ssl_ca_certs",), context.load_verify_locations),
        (("ssl_certfile", "ssl_keyfile"), context.load_cert_chain),
    ):
        paths = [options[name] for name in names if name in options]
        try:
            if paths:
                load(*paths)
        except (OSError, ValueError) as error:
            raise ConfigurationError(
                f"Redis at {url}: {' and '.join(names)} cannot be used ({error}); expected files "
                "in PEM format that Odoo's user may read"
            ) from error


def _check_sentinels(client: Client, url: RedisURL) -> None:
    """A sentinel that refuses us, or does not know the service, is a wrong setting."""
    answered = missing = 0
    sentinels = client.sentinels()
    for sentinel in sentinels:
        try:
            missing += url.service not in sentinel.sentinel_masters()
            answered += 1
        except AuthenticationError as error:
            raise ConfigurationError(
                f"A sentinel of {url} refuses the user or password ({error}); expected the options "
                "sentinel_username and sentinel_password, which are the sentinels' own"
            ) from error
        except NoPermissionError as error:
            raise forbidden(f"A sentinel of {url}: {error}") from error
        except ResponseError as error:
            raise ConfigurationError(
                f"A sentinel of {url} refuses: {error}; expected addresses of sentinels"
            ) from error
        except redis.ConnectionError as error:
            if tls := _tls_refusal(error):
                raise ConfigurationError(f"A sentinel of {url} refuses TLS: {tls}") from error
        except RedisError:
            continue  # away; others may know
    if missing == answered and 2 * answered > len(sentinels):
        raise ConfigurationError(f"No sentinel of {url} knows a service {url.service!r}")


def _check_kind(facts: dict[str, Any], url: RedisURL) -> None:
    mode = facts.get("redis_mode")
    if mode == "sentinel":
        raise ConfigurationError(f"Redis at {url} is a sentinel; expected redis+sentinel://…")
    if mode == "cluster" and url.topology != CLUSTER:
        raise ConfigurationError(f"Redis at {url} is a Cluster's node; expected redis+cluster://…")
    version = str(facts.get("redis_version", ""))
    numbers = tuple(map(int, re.findall(r"\d+", version)[:2]))
    if numbers and numbers < OLDEST:
        expected = ".".join(map(str, OLDEST))
        raise ConfigurationError(
            f"Redis at {url} is of version {version}; expected {expected} or newer"
        )


def _dangers(facts: dict[str, Any], *, durable: bool) -> Iterator[str]:
    if not durable:
        return
    if facts.get("role") == "slave":
        yield (
            "is a replica, which takes no writes: requests that change a session get HTTP 503 "
            "until it is promoted; expected the primary's address, or redis+sentinel://…"
        )
    policy = facts.get("maxmemory_policy", "noeviction")
    if policy != "noeviction":
        yield (
            f"has maxmemory-policy {policy}: when its memory is full it logs users out; "
            "expected noeviction (the ormcache may have a server of its own: ormcache_url)"
        )
    if facts.get("aof_enabled") == 0 and facts.get("save") == "":
        yield (
            "has no persistence: when it restarts everybody is logged out; expected appendonly yes"
        )


def is_forbidden(error: Exception) -> bool:
    """Whether a command was refused that will be refused always: a rule, or a server without it."""
    return isinstance(error, NoPermissionError) or any(
        words in str(error).lower()
        for words in ("user executing the script can't", "unknown command", "unknown redis command")
    )


def forbidden(told: str) -> ConfigurationError:
    """What to say of a user that may not do all this addon does."""
    return ConfigurationError(
        f"{told}; expected a user with the rule of README.rst, «Access», and a server that has "
        "these commands"
    )


def _explained(error: Exception, url: RedisURL) -> Exception:
    """Ours for what a driver said of a server that cannot be used."""
    causes = list(_causes(error))
    for cause in causes:
        if isinstance(cause, Exception) and is_forbidden(cause):
            return forbidden(f"Redis at {url}: {cause}")
        if isinstance(cause, AuthenticationError):
            return ConfigurationError(
                f"Redis at {url} refuses the user or password of the URL ({cause}); expected "
                "redis://user:password@host:port/db, or redis://:password@host:port/db"
            )
        if "DB index" in str(cause):
            return ConfigurationError(f"Redis at {url}: {cause}; expected a database it has")
        if "Cluster mode is not enabled" in str(cause):
            return ConfigurationError(f"Redis at {url} is no Cluster; expected redis://…")
    if other := _other_protocol(url):
        return ConfigurationError(other)
    if tls := _tls_refusal(error) or _alert(url):
        return ConfigurationError(
            f"Redis at {url} refuses TLS: {tls}; expected a certificate for that host signed by "
            "ssl_ca_certs, and ssl_certfile and ssl_keyfile if it asks its clients"
        )
    return RedisUnavailableError(f"Redis at {url}: {error}")


def _tls_refusal(error: Exception) -> str:
    """Why TLS can never work as configured; "" if that is not what is wrong."""
    for cause in _causes(error):
        if isinstance(cause, ssl.SSLCertVerificationError):
            return "" if cause.verify_code in _OUT_OF_TIME else cause.verify_message
        if isinstance(cause, (ssl.SSLEOFError, ssl.SSLZeroReturnError)):
            return ""  # a server that goes away
        if isinstance(cause, ssl.SSLError):
            return str(cause.reason or cause)
    return ""


def _other_protocol(url: RedisURL) -> str:
    """What is wrong, if who listens there speaks TLS and the URL does not, or the other way."""
    sentinel = url.topology == SENTINEL
    for host in url.hosts:
        speaks_tls = _speaks_tls(host)
        if speaks_tls in (None, url.hosts_tls):
            continue
        who = f"{'A sentinel of' if sentinel else 'Redis at'} {url}"
        or_else = f", or the option sentinel_tls={str(speaks_tls).lower()}" if sentinel else ""
        if speaks_tls:
            return f"{who} speaks TLS; expected rediss for redis in the URL{or_else}"
        return f"{who} speaks no TLS; expected redis for rediss in the URL{or_else}"
    return ""


def _speaks_tls(host: tuple[str, int]) -> bool | None:
    """Whether who listens there does; None: nobody can tell."""
    with contextlib.suppress(OSError), socket.create_connection(host, timeout=_LOOK) as plain:
        plain.sendall(b"PING\r\n")
        if plain.recv(1) in (b"+", b"-"):
            return False
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        with (
            socket.create_connection(host, timeout=_LOOK) as plain,
            context.wrap_socket(plain),
        ):
            return True
    except ssl.SSLError as error:
        return True if "ALERT" in str(error.reason) else None  # one that wants a certificate
    except OSError:
        return None


def _alert(url: RedisURL) -> str:
    """What a server that hung up on a client without a certificate says when it is listened to."""
    if not url.tls or "ssl_certfile" in url.options or url.topology == SENTINEL:
        return ""
    context = ssl.create_default_context(cafile=url.options.get("ssl_ca_certs"))
    if url.options.get("ssl_cert_reqs") == "none":
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    host = url.hosts[0]
    try:
        with (
            socket.create_connection(host, timeout=_LOOK) as plain,
            context.wrap_socket(plain, server_hostname=host[0]) as encrypted,
        ):
            encrypted.recv(1)
    except ssl.SSLError as error:
        return _tls_refusal(error)
    except OSError:  # it is away
        return ""
    return ""


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    seen = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__
