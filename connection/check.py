"""What is asked of the servers once, before Odoo serves: whether they can, and should, be used.

What can never work raises, what is dangerous is told. Who runs Redis may keep INFO and CONFIG to
himself: then what they would tell is not checked.

Servers and proxies refuse a command each in words of their own, or hang up on it. Redis documents
the words by which it refuses what passes. Any other refusal is for good if it comes again on new
connections, though other questions are answered (:func:`insist`).
"""

import contextlib
import functools
import re
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import redis
from redis.exceptions import (
    AskError,
    AuthenticationError,
    NoPermissionError,
    RedisError,
    ResponseError,
)

from ..exceptions import ConfigurationError, RedisUnavailableError
from ..url import CLUSTER, SENTINEL, RedisURL
from .client import ADDON, DRIVER_ERRORS, Client, begin, passes
from .names import NAMES

OLDEST = (6, 2)  # the oldest Redis this was tested with
# Of X.509: a certificate that is not valid yet, or no more. Both pass without a change here.
_OUT_OF_TIME = {9, 10}
_PATIENCE = 1.0  # seconds for each of a Cluster's primaries
_LOOK = 0.5  # seconds to find out why a server cannot be spoken to, for each step
_ATTEMPTS = 4  # before a refusal is taken to be for good
_PAUSE = 0.4  # seconds between two of them

_RULE = "a user with the rule of README.rst, «Access», and a server that has these commands"
_EXPECTED = {
    "AUTH": f"a URL without a password, or {_RULE}",
    "SELECT": "a database it has, such as /0",
    "CLUSTER SLOTS": f"redis://… if it is no Cluster, or {_RULE}",
    "SENTINEL MASTERS": f"addresses of sentinels, or {_RULE}",
}

T = TypeVar("T")


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
            try:
                _asked(seed, url)
            except RedisUnavailableError as away_or_refused:
                if away_or_refused.command:
                    raise
        raise _explained(error, url, *client.seeds()) from error
    dangers: list[str] = []
    away: list[RedisUnavailableError] = []
    for server in servers:
        if len(servers) > 1:
            begin(_PATIENCE)  # one that hangs leaves time for the others
        try:
            facts = _asked(server, url)
            if url.topology == CLUSTER:
                begin(_PATIENCE)
                _ask_for_a_key_that_moves(server, url)
        except RedisUnavailableError as error:
            if error.command:
                raise
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
        server.connection_pool.release(server.connection_pool.get_connection())
        info, setting = (
            _answer_or_none(server, _question(*words))
            for words in (("INFO",), ("CONFIG", "GET", "save"))
        )
        _answer_or_none(server, lambda connection: connection.learn_clock())
    except DRIVER_ERRORS as error:
        raise _explained(error, url, server) from error
    facts = {}
    if isinstance(info, bytes):
        facts = dict(re.findall(r"^(\w+):(.*?)\r?$", info.decode(errors="replace"), re.MULTILINE))
    if isinstance(setting, list) and len(setting) == 2 and isinstance(setting[1], bytes):
        facts["save"] = str(setting[1], "utf-8", "replace")
    _check_kind(facts, url)
    return facts


def _answer_or_none(server: Any, ask: Callable[[Any], Any]) -> Any:
    """The answer to a question that need not be answered; None: there was none.

    :raises RedisError: the server cannot be spoken to, now or ever
    """
    pool = server.connection_pool
    try:
        return _ask_on(pool.get_connection(), ask, pool)
    except AuthenticationError:
        raise
    except DRIVER_ERRORS as error:
        if refusal_in(error) or isinstance(error, redis.TimeoutError):
            return None
        raise


def _question(*command: str) -> Callable[[Any], Any]:
    """A function that asks a connection, and returns the answer."""

    def ask(connection: Any) -> Any:
        connection.send_command(*command)
        return connection.read_response()

    return ask


def _ask_on(connection: Any, ask: Callable[[Any], Any], pool: Any = None) -> Any:
    """Ask on a connection, and give it back to its pool, or close it."""
    try:
        return ask(connection)
    except ResponseError:
        raise
    except BaseException:  # the answer to come is nobody else's
        connection.disconnect()
        raise
    finally:
        if pool:
            pool.release(connection)
        else:
            connection.disconnect()


def _ask_for_a_key_that_moves(server: Any, url: RedisURL) -> None:
    """As when a Cluster's slots are moved, which may be long after the start."""
    try:
        pool = server.connection_pool
        _ask_on(pool.get_connection(), _question("ASKING"), pool)
    except DRIVER_ERRORS as error:
        raise _explained(error, url, server) from error


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
            sentinel.sentinel_get_master_addr_by_name(url.service, return_responses=True)
            answered += 1
        except AuthenticationError as error:
            raise ConfigurationError(
                f"A sentinel of {url} refuses the user or password ({error}); expected the options "
                "sentinel_username and sentinel_password, which are the sentinels' own"
            ) from error
        except RedisError as error:
            if tls := _tls_refusal(error):
                raise ConfigurationError(f"A sentinel of {url} refuses TLS: {tls}") from error
            refusal = refusal_in(error)
            if refusal and serves(functools.partial(_ask_as_nobody, sentinel, "PING")):
                ours = RedisUnavailableError(f"A sentinel of {url}: {refusal}")
                raise marked(ours, refusal) from error
            # Otherwise it is away; others may know.
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
    if facts.get("aof_enabled") == "0" and facts.get("save") == "":
        yield (
            "has no persistence: when it restarts everybody is logged out; expected appendonly yes"
        )


def insist(attempt: Callable[[], T], renew: Callable[[], None]) -> T:
    """Run an attempt, and again when it is refused a command, to learn whether that is for good.

    :param renew: closes connections
    :raises ConfigurationError: the same command was refused each time
    :raises RedisUnavailableError: as the attempt did
    """
    refused: RedisUnavailableError | None = None
    for number in range(_ATTEMPTS):
        if number:
            renew()
            time.sleep(_PAUSE)
        try:
            return attempt()
        except RedisUnavailableError as error:
            # A script is known to the server from the second attempt on: EVALSHA, and EVAL before.
            if not error.command or (refused and _unsha(refused) != _unsha(error)):
                raise
            refused = error
    assert refused
    told = f"{refused} (its answer to {refused.command}, each time)"
    raise ConfigurationError(f"{told}; expected {refused.expected}") from refused


def _unsha(error: RedisUnavailableError) -> str:
    return error.command.removesuffix("SHA")


def refusal_in(error: BaseException) -> RedisError | None:
    """The error that a server's answer or hang-up raised, if it may be for good; else None."""
    causes = list(_causes(error))
    for cause in causes:
        sent_elsewhere = isinstance(cause, AskError) and cause is not error  # by a Cluster's node
        if passes(cause) or sent_elsewhere:
            return None
    kinds = ResponseError, redis.ConnectionError
    read = (cause for cause in causes if isinstance(cause, kinds) and hasattr(cause, "asked"))
    return next(read, None)


def marked(
    ours: RedisUnavailableError, refusal: RedisError, command: str = ""
) -> RedisUnavailableError:
    """Our error, which says that a command was refused.

    :param command: where the refusal does not say which it was
    """
    ours.command = vars(refusal)["asked"] or command
    ours.expected = _EXPECTED.get(ours.command, _RULE)
    if isinstance(refusal, AskError):
        ours.expected = "redis+cluster://…, for this is a Cluster's node"
    return ours


def serves(question: Callable[[], Any]) -> bool:
    """Whether a simple question is answered, if with one of Redis' own refusals that are for good:
    whatever keeps a proxy from its servers keeps it from answering."""
    try:
        question()
    except DRIVER_ERRORS as error:
        for_good = isinstance(error, (AuthenticationError, NoPermissionError, AskError))
        return for_good or str(error).startswith("DENIED")
    return True


def _ask_as_nobody(server: Any, *question: str) -> Any:
    """Ask on a connection that says neither who it is nor which database it wants."""
    connection = server.connection_pool.make_connection()
    connection.username = connection.password = None
    connection.db = 0
    begin(_LOOK)
    return _ask_on(connection, _question(*question))


def _explained(error: Exception, url: RedisURL, *servers: Any) -> Exception:
    """Ours for what a driver said of servers that cannot be used."""
    causes = list(_causes(error))
    for cause in causes:
        if isinstance(cause, AuthenticationError):
            return ConfigurationError(
                f"Redis at {url} refuses the user or password of the URL ({cause}); expected "
                "redis://user:password@host:port/db, or redis://:password@host:port/db"
            )
    if not any(isinstance(cause, ResponseError) for cause in causes):
        if other := _other_protocol(url):
            return ConfigurationError(other)
        if tls := _tls_refusal(error) or _alert(url):
            return ConfigurationError(
                f"Redis at {url} refuses TLS: {tls}; expected a certificate for that host signed "
                "by ssl_ca_certs, and ssl_certfile and ssl_keyfile if it asks its clients"
            )
    refusal = refusal_in(error)
    ours = RedisUnavailableError(f"Redis at {url}: {refusal or error}")
    if refusal and any(
        serves(functools.partial(_ask_as_nobody, server, "EXISTS", ADDON)) for server in servers
    ):
        return marked(ours, refusal)
    return ours


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
    with contextlib.suppress(OSError), _connected(host) as plain:
        plain.sendall(b"PING\r\n")
        if plain.recv(1) in (b"+", b"-"):
            return False
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        with _connected(host) as plain, context.wrap_socket(plain):
            return True
    except ssl.SSLError as error:
        return True if "ALERT" in str(error.reason) else None  # one that wants a certificate
    except OSError:
        return None


def _connected(host: tuple[str, int]) -> socket.socket:
    """As ``socket.create_connection``, but for names that take long."""
    name, port = host
    return NAMES.connect(
        name, _LOOK, lambda address: socket.create_connection((address, port), timeout=_LOOK)
    )


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
            _connected(host) as plain,
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
