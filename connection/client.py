"""Clients of redis-py for each topology, and the time that a call may take.

Both clients offer the same few steps. Whatever redis-py does in one of them (wait for a connection
of the pool, ask the sentinels, learn the Cluster's map again, retry), its connections end with
the call that they serve: :func:`begin` says when that is.
"""

import contextlib
import copy
import functools
import logging
import os
import queue
import re
import socket
import ssl
import threading
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias, TypeVar

import redis
from redis.backoff import ExponentialWithJitterBackoff, NoBackoff
from redis.cluster import PRIMARY, ClusterNode, RedisCluster
from redis.crc import key_slot
from redis.exceptions import (
    AuthenticationError,
    BusyLoadingError,
    ClusterDownError,
    NoScriptError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisClusterException,
    RedisError,
    ResponseError,
    SlotNotCoveredError,
    TryAgainError,
)
from redis.retry import Retry
from redis.sentinel import (
    MasterNotFoundError,
    Sentinel,
    SentinelConnectionPool,
    SentinelManagedConnection,
    SentinelManagedSSLConnection,
)
from redis.utils import str_if_bytes

from ..url import CLUSTER, SENTINEL, RedisURL
from . import telemetry
from .clock import ServerClock, monotonic
from .names import NAMES

_logger = logging.getLogger(__name__)

ADDON = "redis_session_ormcache"
DRIVER_ERRORS = (RedisError, RedisClusterException)  # the latter is none of the former
MAX_CALLS = 64  # per process at once; a caller beyond waits for its turn
MAX_CONNECTIONS = MAX_CALLS + 8  # per process and server: theirs, and those of probes
NODE_RETRIES = 1  # of a call to a Cluster, in its time
WATCH_INTERVAL = 0.5  # seconds between two questions to the sentinels who the primary is
RETRIES = 3  # of a call whose connection was lost, in its time
_LONGEST_PAUSE = 0.1  # seconds between two of them
_SHORTEST_WAIT = 0.001  # seconds; a socket with 0 would not block
_CLOCK_AGE = 60.0  # seconds for which a connection knows its server's clock
_TELLING = 4  # characters of a password that are not shown

# As the last argument of a command: the server's time, in milliseconds, after which nobody waits
# for it. It may come late, from a buffer somewhere between; a script answers with LATE then.
DEADLINE = object()
LATE = "LATE"

# What Redis refuses for a while: its words in the errors of scripts, and the classes of redis-py.
_PASSING_WORDS = re.compile(
    r"(?<![A-Z])(BUSY|CLUSTERDOWN|LOADING|MASTERDOWN|MISCONF|NOREPLICAS|OOM|READONLY|TRYAGAIN)\b"
    r"|max number of clients"
)
_PASSING = (
    redis.TimeoutError,
    BusyLoadingError,
    ClusterDownError,
    OutOfMemoryError,
    ReadOnlyError,
    TryAgainError,
)

T = TypeVar("T")

_deadlines = threading.local()


def begin(seconds: float) -> None:
    """Let this thread's next call, whatever it does with connections, end after ``seconds``."""
    _deadlines.end = monotonic() + seconds
    _deadlines.given = seconds
    _deadlines.looked = False


def _left() -> float | None:
    """Seconds until this thread's call ends; None: nobody waits for it."""
    end = getattr(_deadlines, "end", None)
    return None if end is None else max(end - monotonic(), _SHORTEST_WAIT)


def _is_over() -> bool:
    """Whether this thread's call should have ended."""
    return (_left() or 1.0) <= _SHORTEST_WAIT


def _is_number(part: Any) -> bool:
    return isinstance(part, bytes) and part.isdigit() and len(part) <= 16


def _is_address(answer: Any) -> bool:
    return isinstance(answer, list) and len(answer) >= 2 and _is_number(answer[1])


def _is_watched(state: Any) -> bool:
    """Whether it is what a sentinel says of a primary: names and values in turn."""
    if not isinstance(state, list) or not all(isinstance(part, bytes) for part in state):
        return False
    values = dict(zip(state[::2], state[1::2], strict=False))
    return {b"name", b"ip", b"flags"} <= values.keys() and _is_number(values.get(b"port"))


def _is_slots(part: Any) -> bool:
    """Whether it says of some of a Cluster's slots on which nodes they are."""
    if not isinstance(part, list) or not all(isinstance(number, int) for number in part[:2]):
        return False
    return len(part) > 2 and all(
        isinstance(node, list)
        and len(node) >= 2
        and isinstance(node[0], bytes | None)
        and isinstance(node[1], int)
        for node in part[2:]
    )


def _is_list_of(is_part: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda answer: isinstance(answer, list) and all(map(is_part, answer))


# Tests of the answers that this package and redis-py take apart.
_SHAPES: dict[str, Callable[[Any], bool]] = {
    "CLUSTER SLOTS": _is_list_of(_is_slots),
    "SENTINEL GET-MASTER-ADDR-BY-NAME": lambda answer: answer is None or _is_address(answer),
    "SENTINEL MASTERS": _is_list_of(_is_watched),
    "TIME": lambda answer: _is_list_of(_is_number)(answer) and len(answer) == 2,
}


def passes(error: BaseException) -> bool:
    """Whether it is one that Redis documents as passing."""
    return isinstance(error, _PASSING) or bool(_PASSING_WORDS.search(str(error)))


class _TimedParser:
    """A parser of redis-py, each of whose reads ends with the call: an answer may come in drops.

    When the time is over it has one more look: this thread may have been kept from an answer that
    was there in time.
    """

    share = 1.0
    _sock: Any

    def on_connect(self, connection: Any) -> Any:
        self.share = connection.share
        return super().on_connect(connection)  # type: ignore[misc]

    def read_from_socket(self, timeout: Any = ..., *arguments: Any, **options: Any) -> Any:
        if isinstance(timeout, (int, float)):  # a look without waiting
            options["timeout"] = timeout
        elif (left := _left()) is not None and self._sock:
            self._sock.settimeout(left * self.share)
            if left > _SHORTEST_WAIT:
                with contextlib.suppress(redis.TimeoutError):
                    return super().read_from_socket(*arguments, **options)  # type: ignore[misc]
                if self._sock:
                    self._sock.settimeout(_SHORTEST_WAIT)
            if _deadlines.looked:
                raise redis.TimeoutError("Timeout reading from socket")
            _deadlines.looked = True
        return super().read_from_socket(*arguments, **options)  # type: ignore[misc]


@functools.cache
def _timed(parser_class: type) -> type:
    return type(f"Timed{parser_class.__name__}", (_TimedParser, parser_class), {})


class _Timed:
    """A connection of redis-py whose every step ends with the call it serves.

    Its name in ``CLIENT LIST`` is made in the process that opens it. It is a label: a server that
    refuses it is not given one again. Errors that are read say what was ``asked``.
    """

    share = 1.0  # of the time that is left, for each step
    asked = ""  # the command whose answer is read next; "" if it was sent with others
    read_only: type[RedisError] = ReadOnlyError  # what it raises when a replica refuses a change
    clock: ServerClock  # whom it tells of its server's; of the class, which a client has for itself
    _sock: Any
    _learnt: tuple[Any, float, float] = None, 0.0, 0.0  # `_ahead`, on which socket, until when
    connect: Callable[[], None]
    disconnect: Callable[..., None]
    driver_info: Any
    password: str | None

    def __init__(self, *, client_name: str, **options: Any) -> None:
        super().__init__(**options)
        self._name = f"{ADDON}:{client_name}:{socket.gethostname()}:{os.getpid()}"
        # No CLIENT SETINFO: two more questions, and one more thing to permit.
        self.driver_info = self.lib_name = self.lib_version = None

    def on_connect_check_health(self, *arguments: Any, **options: Any) -> Any:
        opened = super().on_connect_check_health(*arguments, **options)  # type: ignore[misc]
        if self._address() not in _nameless:
            try:
                self._ask("CLIENT SETNAME", "CLIENT", "SETNAME", self._name)
            except RedisError as error:
                if isinstance(error, AuthenticationError) or passes(error):
                    raise
                self._connect_without_name(error)
        return opened

    def _connect_without_name(self, refusal: RedisError) -> None:
        """Connect again to whoever refused a name, or hung up on it: with a network's fault he
        hangs up on any question."""
        address = self._address()
        self.disconnect()
        _nameless.add(address)
        try:
            self.connect()
            if not isinstance(refusal, ResponseError):
                with contextlib.suppress(ResponseError):
                    self._ask("EXISTS", "EXISTS", ADDON)
        except BaseException:
            _nameless.discard(address)
            raise
        _logger.debug("%s takes no name of a connection: %s", address, refusal)

    def _address(self) -> Any:
        return getattr(self, "path", None) or (self.host, self.port)  # type: ignore[attr-defined]

    def _ask(self, name: str, *command: Any) -> Any:
        self.send_command(*command)
        self.asked = name
        return self.read_response()

    @property
    def socket_timeout(self) -> float | None:
        left = _left()
        return None if left is None else left * self.share

    @socket_timeout.setter
    def socket_timeout(self, seconds: float | None) -> None:
        """Not redis-py's to say."""

    @property
    def socket_connect_timeout(self) -> float | None:
        """Half of what is left: another address may answer."""
        left = _left()
        return None if left is None else left / 2

    @socket_connect_timeout.setter
    def socket_connect_timeout(self, seconds: float | None) -> None:
        """Not redis-py's to say."""

    def set_parser(self, parser_class: type) -> Any:
        return super().set_parser(_timed(parser_class))  # type: ignore[misc]

    def send_command(self, *command: Any, **options: Any) -> Any:
        if command[-1] is DEADLINE:
            command = self._dated(command)
        elif command[0] == "ASKING":  # is about the next command
            self._ahead()
        sent = super().send_command(*command, **options)  # type: ignore[misc]
        self.asked = command[0]  # not sooner: a connection may just have been opened
        return sent

    def pack_commands(self, commands: Sequence[tuple[Any, ...]]) -> Any:
        """As for one: those of a pipeline are sent in one text."""
        dated = [
            self._dated(command) if command[-1] is DEADLINE else command for command in commands
        ]
        return super().pack_commands(dated)  # type: ignore[misc]

    def read_response(self, *arguments: Any, **options: Any) -> Any:
        asked, self.asked = self.asked, ""
        try:
            answer = super().read_response(*arguments, **options)  # type: ignore[misc]
            if asked in _SHAPES and not _SHAPES[asked](answer):
                self.disconnect()
                raise redis.ConnectionError("the answer is of another kind than Redis gives")
            return answer
        except ReadOnlyError:
            raise
        except RedisError as error:
            vars(error)["asked"] = asked
            # Of a command it does not know a server repeats all: of AUTH, a password.
            words = str(error).partition(", with args beginning")[0]
            error.args = (_without(self.password, words) if asked == "AUTH" else words,)
            if not isinstance(error, ResponseError):
                raise
            if "-READONLY" in str(error):  # as Redis 6.2 says it of a script
                self.disconnect()
                raise self.read_only(str(error)) from None
            if "NOSCRIPT" in str(error) and not isinstance(error, NoScriptError):  # as Kvrocks says
                raise NoScriptError(str(error)) from None
            if str(error).startswith(LATE):  # though somebody waits: its clock was set
                self.disconnect()
                raise redis.ConnectionError("the server's clock was set") from None
            raise

    def _dated(self, command: tuple[Any, ...]) -> tuple[Any, ...]:
        """A command with the server's time at which this call ends for ``DEADLINE``."""
        end = monotonic() + (self.socket_timeout or 0) + self._ahead()
        return (*command[:-1], int(end * 1000))

    def _ahead(self) -> float:
        """Seconds that the server's clock is ahead of the monotonic one; at most."""
        sock, ahead, until = self._learnt
        if sock is None or sock is not self._sock or monotonic() > until:
            ahead = self.learn_clock()
        return ahead

    def learn_clock(self) -> float:
        """Ask the server for its time; seconds that it is ahead of the monotonic clock, at most."""
        asked = monotonic()
        seconds, microseconds = self._ask("TIME", "TIME")
        answered = monotonic()
        server_time = int(seconds) + int(microseconds) / 1e6
        self.clock.learn(server_time, asked, answered)
        ahead = server_time - answered
        self._learnt = self._sock, ahead, answered + _CLOCK_AGE
        return ahead

    def send_packed_command(self, *arguments: Any, **options: Any) -> Any:
        if self._sock and (left := _left()) is not None:
            self._sock.settimeout(left * self.share)
        return super().send_packed_command(*arguments, **options)  # type: ignore[misc]


_nameless: set[Any] = set()  # addresses of servers that refuse names of connections


def _without(secret: str | None, words: str) -> str:
    """A server's words as far as they repeat no password, be it cut short."""
    head, found, _rest = words.partition(secret[:_TELLING]) if secret else (words, "", "")
    return f"{head}***" if found else head


class _TimedTCP(_Timed):
    """One to a host, whose name is looked up off the time of the call (:mod:`.names`)."""

    host: str
    named = ""  # the host, though it is an address for the moment

    def _connect(self) -> Any:
        self.named = name = self.host
        left = _left()

        def connect(address: str) -> Any:
            self.host = address
            try:
                return super(_TimedTCP, self)._connect()  # type: ignore[misc]
            finally:
                self.host = name

        return NAMES.connect(name, None if left is None else left * self.share, connect)


class _TimedTLS(_TimedTCP):
    """One with TLS; what its files say is read once, not for each connection.

    That takes longer than a hundred commands, all of it Python's: when many connections are opened
    at once, as after a restart, they would be late, and their time be over.
    """

    check_hostname: bool
    cert_reqs: ssl.VerifyMode
    certfile: str | None
    keyfile: str | None
    ca_certs: str | None

    def _wrap_socket_with_ssl(self, sock: socket.socket) -> ssl.SSLSocket:
        files = self.certfile, self.keyfile, self.ca_certs
        written = tuple(os.stat(path).st_mtime_ns if path else 0 for path in files)
        context = _tls_context(self.check_hostname, self.cert_reqs, files, written)
        return context.wrap_socket(sock, server_hostname=self.named)


@functools.lru_cache(maxsize=8)
def _tls_context(
    check_hostname: bool,
    cert_reqs: ssl.VerifyMode,
    files: tuple[str | None, str | None, str | None],
    _written: tuple[int, ...],
) -> ssl.SSLContext:
    """As ``redis.SSLConnection`` makes it of these options; another one when a file has changed."""
    certfile, keyfile, ca_certs = files
    context = ssl.create_default_context()
    context.check_hostname = check_hostname
    context.verify_mode = cert_reqs
    if certfile:
        context.load_cert_chain(certfile, keyfile)
    if ca_certs:
        context.load_verify_locations(ca_certs)
    return context


class _Connection(_TimedTCP, redis.Connection):
    pass


class _SSLConnection(_TimedTLS, redis.SSLConnection):
    pass


class _SocketConnection(_Timed, redis.UnixDomainSocketConnection):
    pass


class _PrimaryConnection(_TimedTCP, SentinelManagedConnection):
    read_only = redis.ConnectionError  # the sentinels know the next primary


class _SSLPrimaryConnection(_TimedTLS, SentinelManagedSSLConnection):
    read_only = redis.ConnectionError


class _SentinelConnection(_Connection):
    share = 0.5  # the next one may answer


class _SSLSentinelConnection(_SSLConnection):
    share = 0.5


class _NodeConnection(_Connection):
    share = 0.5  # the other nodes may know who has its slots now


class _SSLNodeConnection(_SSLConnection):
    share = 0.5


def _on_clock(kind: type, clock: ServerClock) -> type:
    """A class of connections that tell one clock of their server's time."""
    return type(kind.__name__, (kind,), {"clock": clock})


class _Pool(redis.BlockingConnectionPool):
    """Which can close what nobody uses."""

    def disconnect(self, inuse_connections: bool = True) -> None:
        """Close connections: all, or only those that nobody uses, which nobody gets meanwhile."""
        if inuse_connections:
            super().disconnect()
            return
        idle = []
        with contextlib.suppress(queue.Empty):
            while True:
                idle.append(self.pool.get_nowait())
        for connection in idle:
            if connection:
                connection.disconnect()
            self.pool.put_nowait(connection)


class _Sentinels(Sentinel):
    """redis-py's, with what it lacks: threads may share it, and it follows a failover at once."""

    def discover_master(self, service_name: str) -> tuple[str, int]:
        """Where the primary is; during a failover that was asked for, the one to come.

        :raises redis.ConnectionError: no sentinel knows a primary that is there
        """
        asked = copy.copy(self)
        asked.sentinels = list(self.sentinels)  # whoever answers is put first
        try:
            address = Sentinel.discover_master(asked, service_name)
        except MasterNotFoundError:  # which shows all that it knows of sentinels, with passwords
            raise redis.ConnectionError(
                f"no sentinel knows a primary of {service_name!r} that is there"
            ) from None
        self.sentinels = asked.sentinels
        told: Any = asked.sentinels[0].sentinel_get_master_addr_by_name(
            service_name, return_responses=True
        )
        return (str_if_bytes(told[0]), int(told[1])) if told else address


class _SentinelPool(SentinelConnectionPool, _Pool):
    """The same for connections to the primary, of which the sentinels are asked all the time.

    A primary that was given up, and is there again, does not know for some seconds: what it says
    of a session may be long past. Connections to it are closed before, though nobody uses them.
    """

    _watcher: threading.Thread | None = None
    _stop = threading.Event()

    def get_connection(self, *arguments: Any, **options: Any) -> Any:
        watcher = self._watcher
        if watcher is None or not watcher.is_alive():  # a fork has none
            self._stop = stop = threading.Event()
            self._watcher = threading.Thread(
                target=self._watch, args=(stop,), name="redis-primary", daemon=True
            )
            with contextlib.suppress(RuntimeError):  # out of threads or memory
                self._watcher.start()
        return super().get_connection(*arguments, **options)

    def disconnect(self, inuse_connections: bool = True) -> Any:
        watcher = self._watcher
        if inuse_connections and watcher and watcher.is_alive():
            self._stop.set()
            watcher.join()  # nothing of it is left for a fork
        return super().disconnect(inuse_connections)

    def release(self, connection: Any) -> Any:
        if not self.owns_connection(connection):  # redis-py drops it, but would list it for good
            with contextlib.suppress(ValueError):
                self._connections.remove(connection)
        return super().release(connection)

    def _watch(self, stop: threading.Event) -> None:
        while not stop.wait(WATCH_INTERVAL) and self._stop is stop:
            begin(WATCH_INTERVAL)
            try:
                self.get_master_address()
            except DRIVER_ERRORS as error:
                _logger.debug("Who is the primary is not known: %s", error)


class PooledClient:
    """A single server, or what Sentinel watches: one pool of connections."""

    def __init__(self, url: RedisURL, *, half: str, timeout: float) -> None:
        self.clock = ServerClock(str(url))
        self._sentinels: list[Any] = []
        options = {
            **_common_options(url, half),
            "db": url.database,
            "retry": Retry(NoBackoff(), 0),  # is this client's
            "max_connections": MAX_CONNECTIONS,
            "timeout": timeout,
        }
        if url.path:
            kind = _on_clock(_SocketConnection, self.clock)
            self._pool: Any = _Pool(connection_class=kind, path=url.path, **options)
        elif url.topology == SENTINEL:
            self._sentinels = [_sentinel_client(url, half, *host) for host in url.hosts]
            sentinel = _Sentinels([])
            sentinel.sentinels = self._sentinels
            kind = _on_clock(_SSLPrimaryConnection if url.tls else _PrimaryConnection, self.clock)
            self._pool = _SentinelPool(
                url.service,
                sentinel,
                connection_class=kind,
                **options,
                **_tcp_options(url, url.tls),
            )
        else:
            host, port = url.hosts[0]
            kind = _on_clock(_SSLConnection if url.tls else _Connection, self.clock)
            tcp = _tcp_options(url, url.tls)
            self._pool = _Pool(connection_class=kind, host=host, port=port, **options, **tcp)
        self._retry = Retry(
            ExponentialWithJitterBackoff(cap=_LONGEST_PAUSE, base=_LONGEST_PAUSE / 8),
            RETRIES,
            supported_errors=(redis.ConnectionError,),
        )

    def ask(self, *command: Any) -> Any:
        """One command; a lost connection is tried again, a silent one is not.

        redis-py's ``execute_command`` does the same, and measures: a tenth of the time of a round
        trip.
        """

        def exchange(connection: Any) -> Any:
            connection.send_command(*command)
            return connection.read_response()

        return self._call(exchange)

    def ask_many(self, commands: Sequence[tuple[Any, ...]]) -> list[Any]:
        """Independent commands in one round trip; raises the first error when all were answered."""

        def exchange(connection: Any) -> list[Any]:
            connection.send_packed_command(connection.pack_commands(commands))
            answers: list[Any] = []
            for _command in commands:
                try:
                    answers.append(connection.read_response())
                except ResponseError as error:
                    answers.append(error)
            return _without_errors(answers)

        return self._call(exchange)

    def place(self, key: Any) -> str:
        """Which of its servers has a key: there is one."""
        return ""

    def has_answer_of(self, place: str, key: Any) -> bool:
        """Of a single server :meth:`ask` says all there is to know."""
        return False

    def servers(self) -> list[Any]:
        """A client of redis-py for each server that holds keys."""
        return [redis.Redis(connection_pool=self._pool)]

    def seeds(self) -> list[Any]:
        """The same."""
        return self.servers()

    def sentinels(self) -> list[Any]:
        """A client of redis-py for each sentinel."""
        return list(self._sentinels)

    def disconnect(self) -> None:
        self._pool.disconnect()
        for sentinel in self._sentinels:
            sentinel.connection_pool.disconnect()

    def _call(self, exchange: Callable[[Any], T]) -> T:
        """Use a connection, or another one if it was lost; the result."""
        try:
            return self._retry.call_with_retry(lambda: self._attempt(exchange), self._lost)
        except redis.TimeoutError:  # where one leads nowhere the idle ones may as well
            self._pool.disconnect(inuse_connections=False)
            raise

    def _lost(self, error: Exception) -> None:
        """Between two attempts: none, if the next would come too late.

        Who closed one connection has closed the others; what is idle would stay half open.
        """
        self._pool.disconnect(inuse_connections=False)
        if (_left() or 0) < 2 * _LONGEST_PAUSE:
            raise error

    def _attempt(self, exchange: Callable[[Any], T]) -> T:
        connection = self._pool.get_connection()
        try:
            return exchange(connection)
        except ReadOnlyError:  # its name may lead to the new primary by now
            connection.disconnect()
            raise
        except ResponseError:
            raise
        except BaseException:  # whatever interrupted it: the answer to come is nobody else's
            connection.disconnect()
            raise
        finally:
            self._pool.release(connection)


class _RecordedClient(PooledClient):
    """One whose commands redis-py's instrumentation is told of."""

    def __init__(self, url: RedisURL, *, half: str, timeout: float) -> None:
        super().__init__(url, half=half, timeout=timeout)
        self._server: dict[str, Any] = {"db_namespace": str(url.database)}
        if not url.path and url.topology != SENTINEL:
            self._server["server_address"], self._server["server_port"] = url.hosts[0]

    def ask(self, *command: Any) -> Any:
        with telemetry.recorded(command[0], **self._server):
            return super().ask(*command)

    def ask_many(self, commands: Sequence[tuple[Any, ...]]) -> list[Any]:
        with telemetry.recorded("PIPELINE", **self._server):
            return super().ask_many(commands)


class ClusterClient:
    """A Cluster; redis-py keeps its map, and follows it when slots or primaries move."""

    def __init__(self, url: RedisURL, *, half: str, timeout: float) -> None:
        self._timeout = timeout
        self._options = {**_common_options(url, half), **_tcp_options(url, url.tls)}
        self.clock = ServerClock(str(url))
        self._kind = _on_clock(_SSLNodeConnection if url.tls else _NodeConnection, self.clock)
        self._named = self._hosts = url.hosts
        self._lock = threading.Lock()
        self._made: _Cluster | None = None

    def ask(self, *command: Any) -> Any:
        """One command, tried again if its node was lost."""
        return _flat(self._with_map(lambda cluster: cluster.execute_command(*command)))

    def ask_many(self, commands: Sequence[tuple[Any, ...]]) -> list[Any]:
        """Independent commands, in one round trip a node."""

        def ask(cluster: _Cluster) -> list[Any]:
            with cluster.pipeline() as pipeline:
                for command in commands:
                    pipeline.execute_command(*command)
                return _without_errors(pipeline.execute(raise_on_error=False))

        return [_flat(answer) for answer in self._with_map(ask)]

    def place(self, key: Any) -> str:
        """The name of the node that has a key; "" where none is known."""
        made = self._made
        nodes = made.nodes_manager.slots_cache.get(key_slot(_bytes(key))) if made else None
        return nodes[0].name if nodes else ""

    def has_answer_of(self, place: str, key: Any) -> bool:
        """Whether a node itself says anything of a key, be it that another one has it.

        :raises redis.RedisError: it does not
        """

        def ask(cluster: _Cluster) -> None:
            node = cluster.get_node(node_name=place)
            cluster.get_redis_connection(node).execute_command("EXISTS", key)

        if not place:
            return False
        try:
            self._with_map(ask)
        except ClusterDownError:
            return False
        except ResponseError:
            return True
        return True

    def servers(self) -> list[Any]:
        """A client of redis-py for each primary."""

        def clients(cluster: _Cluster) -> list[Any]:
            return [cluster.get_redis_connection(node) for node in cluster.get_primaries()]

        return self._with_map(clients)

    def seeds(self) -> list[Any]:
        """A client of redis-py for each of the nodes that the URL names."""
        options = {**self._options, "connection_class": self._kind}
        pools = [
            redis.ConnectionPool(host=host, port=port, **options) for host, port in self._hosts
        ]
        return [redis.Redis(connection_pool=pool) for pool in pools]

    def sentinels(self) -> list[Any]:
        """There are none."""
        return []

    def disconnect(self) -> None:
        made, self._made = self._made, None
        if made is not None:
            made.disconnect_connection_pools()

    def _cluster(self) -> "_Cluster":
        made = self._made
        if made is None:
            if not self._lock.acquire(timeout=_left() or self._timeout):
                raise redis.ConnectionError("the Cluster's map is being made")
            try:
                made = self._made = self._made or _Cluster(self._hosts, self._options, self._kind)
            finally:
                self._lock.release()
        return made

    def _with_map(self, use: Callable[["_Cluster"], T], attempts: int = 2) -> T:
        cluster = None
        try:
            cluster = self._cluster()
            return use(cluster)
        except SlotNotCoveredError:  # for redis-py no reason to ask for the map again
            if attempts > 1 and cluster and not _is_over():
                return self._with_map(lambda map_: use(map_.learnt_again()), attempts - 1)
            raise
        except DRIVER_ERRORS as error:
            if type(error) is RedisClusterException:  # all the nodes it knew are gone
                self._drop_map(cluster)
            raise
        except (AttributeError, LookupError, OSError, RuntimeError, TypeError, ValueError) as error:
            # redis-py's map or connections, while another thread makes them anew.
            if attempts > 1 and not _is_over():
                return self._with_map(use, attempts - 1)
            self._drop_map(cluster)
            raise redis.ConnectionError(f"the Cluster's map has changed: {error}") from error

    def _drop_map(self, cluster: "_Cluster | None") -> None:
        """Begin again with the nodes of the URL, which may be gone, and those that were known.

        Not for one who had little time left: the nodes may be well. What others are using stays
        open until they are done.
        """
        had_time = getattr(_deadlines, "given", self._timeout) > self._timeout / 2
        if cluster is not None and cluster is self._made and had_time:
            self._made = None
            nodes = cluster.get_nodes()
            known = [(node.host, node.port) for node in nodes]
            self._hosts = tuple(dict.fromkeys([*self._named, *known]))
            for node in nodes:
                if node.redis_connection:
                    node.redis_connection.connection_pool.disconnect(inuse_connections=False)


class _Cluster(RedisCluster):
    """redis-py's, but it asks no server what a command's keys are (COMMAND)."""

    ERRORS_ALLOW_RETRY = (  # type: ignore[assignment]
        redis.ConnectionError,
        redis.TimeoutError,
        SlotNotCoveredError,  # not ClusterDownError: after each one it sleeps
    )

    def __init__(
        self, hosts: Sequence[tuple[str, int]], options: dict[str, Any], kind: type
    ) -> None:
        self._strangers: dict[str, ClusterNode] = {}
        super().__init__(
            # With a URL its nodes' connections are of the given class.
            url=f"redis://{_bracketed(hosts[0][0])}:{hosts[0][1]}",
            startup_nodes=[ClusterNode(host, port) for host, port in hosts[1:]],
            retry=Retry(NoBackoff(), NODE_RETRIES),
            require_full_coverage=False,  # the slots of one lost node are not the others'
            connection_class=kind,
            max_connections=MAX_CONNECTIONS,
            **options,
        )

        self.commands_parser: Any = _Keys()
        # Held by whoever asks for the map, for all of his time.
        manager: Any = self.nodes_manager
        manager._initialization_lock = _TimedLock()

    def learnt_again(self) -> "_Cluster":
        """With the map as a node knows it now.

        :raises redis.RedisClusterException: no node answers
        """
        self.nodes_manager.initialize()
        return self

    def command(self, **_options: Any) -> dict[str, Any]:
        """What the parser that is replaced wants to know."""
        return {}

    def get_node(self, host: Any = None, port: Any = None, node_name: Any = None) -> Any:
        """A node; also one that has no slot yet, to which a key has moved before its slot."""
        node = super().get_node(host, port, node_name)
        if node is None and node_name:
            address, _colon, number = node_name.rpartition(":")
            stranger = ClusterNode(address, int(number), PRIMARY)
            node = self._strangers.setdefault(node_name, stranger)
        return node


class _TimedLock:
    """A lock that can be taken again by who has it, and is waited for until the call ends."""

    def __init__(self) -> None:
        self._lock = threading.RLock()

    def __enter__(self) -> None:
        left = _left()
        if not self._lock.acquire(timeout=-1 if left is None else left):
            raise redis.ConnectionError("the Cluster's map is being made")

    def __exit__(self, *_exception: object) -> None:
        self._lock.release()


class _Keys:
    """Says which arguments of a command are keys."""

    def get_keys(self, _client: Any, *command: Any) -> list[Any]:
        return [key_of(command)]


Client: TypeAlias = PooledClient | ClusterClient


def make_client(url: RedisURL, *, half: str, timeout: float) -> Client:
    """The client for a URL. Nothing is asked yet.

    :param half: "sessions" or "ormcache", for ``CLIENT LIST``
    :param timeout: seconds that a call will have, half of which it may wait for a connection
    """
    if url.topology == CLUSTER:
        return ClusterClient(url, half=half, timeout=timeout)
    kind = _RecordedClient if telemetry.is_on() else PooledClient
    return kind(url, half=half, timeout=timeout)


def key_of(command: Sequence[Any]) -> Any:
    """The key of a command: each of ours has one."""
    return command[3] if command[0] in ("EVALSHA", "EVAL") else command[1]


def _common_options(url: RedisURL, half: str) -> dict[str, Any]:
    return {
        "client_name": half,
        "username": url.username,
        "password": url.password,
        "protocol": 2,  # takes fewer questions to open a connection
    }


def _tcp_options(url: RedisURL, encrypted: bool) -> dict[str, Any]:
    """An idle connection is kept alive, where it leads through a firewall or a balancer."""
    keepalive = {"TCP_KEEPIDLE": 60, "TCP_KEEPINTVL": 10, "TCP_KEEPCNT": 3}  # seconds, seconds
    return {
        "socket_keepalive": True,
        "socket_keepalive_options": {
            getattr(socket, name): value
            for name, value in keepalive.items()
            if hasattr(socket, name)
        },
        **{name: text for name, text in url.options.items() if name[:4] == "ssl_" and encrypted},
    }


def _sentinel_client(url: RedisURL, half: str, host: str, port: int) -> Any:
    options = {
        **_common_options(url, half),
        "username": url.options.get("sentinel_username"),
        "password": url.options.get("sentinel_password"),
        "retry": Retry(NoBackoff(), 0),
        "connection_class": _SSLSentinelConnection if url.hosts_tls else _SentinelConnection,
    }
    tcp = _tcp_options(url, url.hosts_tls)
    return redis.Redis(connection_pool=redis.ConnectionPool(host=host, port=port, **options, **tcp))


def _without_errors(answers: list[Any]) -> list[Any]:
    """The answers to many commands; raises the first error among them."""
    for answer in answers:
        if isinstance(answer, Exception):
            raise answer
    return answers


def _flat(answer: Any) -> Any:
    """HGETALL's answer as Redis gives it."""
    return (
        [part for item in answer.items() for part in item] if isinstance(answer, dict) else answer
    )


def _bytes(key: Any) -> bytes:
    return key.encode() if isinstance(key, str) else bytes(key)


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
