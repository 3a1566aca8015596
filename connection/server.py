"""A Redis server: clients, timeouts, retry, breaker. The only importer of redis-py.

Callers see values and three errors of ours; what a driver error means for a request is decided
further up.
"""

import logging
import queue
from collections.abc import Sequence
from hashlib import sha1
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.exceptions import (
    AuthenticationError,
    NoPermissionError,
    NoScriptError,
    RedisError,
    ResponseError,
)
from redis.retry import Retry

from ..exceptions import (
    ConfigurationError,
    RedisRefusedError,
    RedisUnavailableError,
    WrongTypeError,
)
from .breaker import Breaker

_logger = logging.getLogger(__name__)

PROBE_INTERVAL = 1.0  # seconds between two attempts while the server does not answer
PIPELINE_LENGTH = 1000  # commands a round trip, where there are many
MAX_CONNECTIONS = 64  # per process; a caller beyond waits for one of them


class RedisServer:
    """One Redis server, safe to share between threads, greenlets and forked processes.

    redis-py's pool lends a connection to each call, and starts afresh after a fork.

    :param url: ``redis://``, ``rediss://`` or ``unix://``
    :param shown_url: the same for people: without its password
    :param timeout: seconds that one call may wait: half for a connection, half for the answer
    """

    def __init__(self, url: str, *, shown_url: str, timeout: float) -> None:
        self.shown_url = shown_url
        self._breaker = Breaker(PROBE_INTERVAL)
        # A lost connection is tried once more (the pool's may be stale after a restart); a silent
        # server is not. RESP2, because it takes fewer questions to open a connection.
        pool = redis.BlockingConnectionPool.from_url(
            url,
            max_connections=MAX_CONNECTIONS,
            timeout=timeout / 2,
            socket_connect_timeout=timeout / 2,
            socket_timeout=timeout / 2,
            retry=Retry(NoBackoff(), 1, supported_errors=(redis.ConnectionError,)),
            protocol=2,
        )
        self._client: Any = redis.Redis(connection_pool=pool)

    def __repr__(self) -> str:
        return f"<RedisServer {self.shown_url}>"

    def execute(self, *command: Any) -> Any:
        """Run one command; its answer as Redis gives it.

        :raises RedisUnavailableError: Redis did not answer, or cannot serve now
        :raises RedisRefusedError: of these, when it answered
        :raises WrongTypeError: the key holds another type
        """
        self._admit()
        try:
            answer = self._ask(*command)
        except NoScriptError:
            self._answered()
            raise
        except RedisError as error:
            raise self._translated(error) from error
        self._answered()
        return answer

    def evaluate(self, script: "Script", key: str, *arguments: Any) -> Any:
        """Run a script on one key; its text is sent only when the server does not know it.

        :raises RedisUnavailableError: Redis did not answer, or cannot serve now
        """
        try:
            return self.execute("EVALSHA", script.sha, 1, key, *arguments)
        except NoScriptError:
            return self.execute("EVAL", script.text, 1, key, *arguments)

    def execute_many(self, commands: Sequence[tuple[Any, ...]]) -> list[Any]:
        """Run many independent commands in few round trips; their answers, in order.

        :raises RedisUnavailableError: Redis did not answer; some commands may have been run
        """
        answers: list[Any] = []
        for start in range(0, len(commands), PIPELINE_LENGTH):
            self._admit()
            try:
                with self._client.pipeline(transaction=False) as pipeline:
                    for command in commands[start : start + PIPELINE_LENGTH]:
                        pipeline.execute_command(*command)
                    answers += pipeline.execute()
            except RedisError as error:
                raise self._translated(error) from error
            self._answered()
        return answers

    def check(self) -> None:
        """Ask once whether the server can be used, and leave no connection behind.

        :raises ConfigurationError: it answers, but will never serve us as configured
        :raises RedisUnavailableError: it does not answer, which may pass
        """
        try:
            self._client.ping()
        except (AuthenticationError, NoPermissionError) as error:
            raise ConfigurationError(
                f"Redis at {self.shown_url} refuses the user or password of the URL ({error}); "
                "expected redis://user:password@host:port/db, or redis://:password@host:port/db"
            ) from error
        except RedisError as error:
            message = f"Redis at {self.shown_url}: {error}"
            if isinstance(error, ResponseError) and "DB index" in str(error):
                raise ConfigurationError(f"{message}; expected a database it has") from error
            raise RedisUnavailableError(message) from error
        finally:
            self.disconnect()

    def disconnect(self) -> None:
        """Close this process's connections; the next call opens one."""
        self._client.connection_pool.disconnect()

    def _ask(self, *command: Any) -> Any:
        """One round trip, with the pool and the retry of redis-py.

        Its ``execute_command`` does the same, and measures: a tenth of the time of a round trip.
        """
        pool = self._client.connection_pool
        connection = pool.get_connection()

        def ask() -> Any:
            connection.send_command(*command)
            return connection.read_response()

        try:
            return connection.retry.call_with_retry(ask, lambda _error: connection.disconnect())
        except RedisError:
            raise
        except BaseException:  # whatever interrupted it: the answer to come is nobody else's
            connection.disconnect()
            raise
        finally:
            pool.release(connection)

    def _admit(self) -> None:
        if not self._breaker.allows():
            raise RedisUnavailableError(f"Redis at {self.shown_url} did not answer a moment ago")

    def _answered(self) -> None:
        if self._breaker.succeed():
            _logger.info("Redis at %s answers again", self.shown_url)

    def _translated(self, error: RedisError) -> Exception:
        """Ours for a driver's error. Only silence opens the breaker: a refusal is an answer."""
        if isinstance(error, ResponseError):
            self._answered()
            if str(error).startswith("WRONGTYPE"):
                return WrongTypeError(str(error))
            return RedisRefusedError(f"Redis at {self.shown_url}: {error}")
        elif isinstance(error.__context__, queue.Empty):  # our own doing, not the server's
            _logger.warning("All %d connections to Redis are busy", MAX_CONNECTIONS)
        elif self._breaker.fail():
            _logger.warning("Redis at %s does not answer: %s", self.shown_url, error)
        return RedisUnavailableError(f"Redis at {self.shown_url}: {error}")


class Script:
    """A server-side script with a constant text; data reach it as arguments only."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.sha = sha1(text.encode(), usedforsecurity=False).hexdigest()
