"""A Redis, whatever its topology: commands, errors, and what happens while it does not answer.

Callers see values and our errors; what an error means for a request is decided further up.
"""

import contextlib
import logging
import os
import queue
from collections.abc import Callable, Iterator, Sequence
from hashlib import sha1
from typing import Any, TypeVar

from redis.exceptions import (
    ClusterDownError,
    NoScriptError,
    ResponseError,
)

from ..exceptions import (
    RedisRefusedError,
    RedisUnavailableError,
    WrongTypeError,
)
from ..url import CLUSTER, parse
from .check import check, insist, marked, refusal_in, serves
from .client import DRIVER_ERRORS, MAX_CALLS, begin, key_of, make_client
from .clock import monotonic
from .latency import Latency
from .silence import Silences

_logger = logging.getLogger(__name__)

T = TypeVar("T")

CHECK_SECONDS = 3.0  # that the questions at start may take at least
HEALTHY = 1 / 20  # of the timeout: an answer that took no longer is none that was waited for
PIPELINE_LENGTH = 1000  # commands a round trip, where there are many
PATIENCE = 30.0  # seconds that a websocket, which is no request, waits for its turn


class RedisServer:
    """One Redis, safe to share between threads, greenlets and forked processes.

    Who finds that it does not answer waits ``timeout`` at most; all others fail at once, until a
    thread that keeps asking has an answer. In a Cluster that is so for each node.

    :param url: as :func:`url.parse` understands it
    :param half: whose it is, "sessions" or "ormcache"
    :param timeout: seconds that one call may take, with opening a connection, finding the primary,
        and trying again; and all calls for one request together that failed or were slow. One that
        is answered within a twentieth of it is work, of which a request may do any amount
    :param request: gives the request at hand, an object with a ``__dict__``, or None
    :ivar clock: Redis' own, as far as it is known
    :ivar latencies: how long it took to answer, by command, or by the name of a script, which is in
        small letters; a round trip of many commands is one of the first
    """

    def __init__(
        self, url: str, *, half: str, timeout: float, request: Callable[[], Any] = lambda: None
    ) -> None:
        self.half = half
        self._url = parse(url)
        self.shown_url = str(self._url) if half == "sessions" else f"{self._url} ({half})"
        self._timeout = timeout
        self._request = request
        self._waited = f"_redis_{half}_waited"  # seconds, an attribute of requests
        self._client = make_client(self._url, half=half, timeout=timeout)
        self.clock = self._client.clock
        self.latencies: dict[str, Latency] = {}
        self._has_nodes = self._url.topology == CLUSTER
        self._patience = PATIENCE if half == "sessions" else timeout
        self._silent = Silences(self._answers, self._answers_again)
        self._turns, self._process = _turns(), os.getpid()
        self._is_tried_out = False  # who does so says himself what does not answer

    def __repr__(self) -> str:
        return f"<RedisServer {self.shown_url}>"

    def execute(self, *command: Any) -> Any:
        """Run one command on one key; its answer as Redis gives it.

        :raises RedisUnavailableError: Redis did not answer, or cannot serve now
        :raises RedisRefusedError: of these, when it answered
        :raises WrongTypeError: the key holds another type
        """
        return self._call(self._client.ask, command, self._admit(command))

    def evaluate(self, script: "Script", key: str, *arguments: Any) -> Any:
        """Run a script on one key; its text is sent only when the server does not know it.

        :param arguments: those of a script of more keys begin with its other keys
        :raises RedisUnavailableError: Redis did not answer, or cannot serve now
        """
        return _evaluate(
            script, lambda *command: self.execute(*command, script.keys, key, *arguments)
        )

    def execute_many(self, commands: Sequence[tuple[Any, ...]]) -> list[Any]:
        """Run many independent commands in few round trips; their answers, in order.

        :raises RedisUnavailableError: Redis did not answer; some commands may have been run
        """
        by_place: dict[str, list[int]] = {}
        for number, command in enumerate(commands):
            by_place.setdefault(self._client.place(key_of(command)), []).append(number)
        answers: list[Any] = [None] * len(commands)
        for numbers in by_place.values():
            for start in range(0, len(numbers), PIPELINE_LENGTH):
                part = numbers[start : start + PIPELINE_LENGTH]
                first = commands[part[0]]
                found = self._call(
                    lambda *asked: self._client.ask_many(asked),
                    [commands[number] for number in part],
                    self._admit(first),
                    first,
                )
                for number, answer in zip(part, found, strict=True):
                    answers[number] = answer
        return answers

    def evaluate_many(self, script: "Script", calls: Sequence[tuple[Any, ...]]) -> list[Any]:
        """Run a script on many keys in few round trips; its answers, in order.

        :param calls: key and arguments
        :raises RedisUnavailableError: Redis did not answer; some may have been run
        """
        return _evaluate(
            script,
            lambda *command: self.execute_many([(*command, script.keys, *call) for call in calls]),
        )

    def scan(self, pattern: str) -> Iterator[bytes]:
        """The keys of all its servers that match; one may come twice.

        :raises RedisUnavailableError: Redis did not answer
        """
        command = "SCAN", pattern
        self._admit(command)
        try:
            begin(self._timeout)
            for server in self._client.servers():
                cursor = None
                while cursor != 0:
                    begin(self._timeout)
                    cursor, keys = server.scan(cursor or 0, match=pattern, count=PIPELINE_LENGTH)
                    yield from keys
        except DRIVER_ERRORS as error:
            raise self._translated(error, "", command, True) from error

    def check(self, *, durable: bool) -> list[str]:
        """Ask once whether the servers are fit for use.

        :param durable: whether what is stored may not be lost
        :return: what should be known of them: dangers, in sentences
        :raises ConfigurationError: they will never serve us as configured
        :raises RedisUnavailableError: they do not answer, which may pass
        """

        def attempt() -> list[str]:
            begin(max(self._timeout, CHECK_SECONDS))
            return check(self._client, self._url, durable=durable)

        return insist(attempt, self.disconnect)

    def try_out(self, use: Callable[[], None]) -> None:
        """Do once what will be done.

        :raises ConfigurationError: Redis refuses a command for good, whatever its words
        :raises RedisUnavailableError: it does not do it, which may pass
        """

        def attempt() -> None:
            try:
                use()
            except RedisUnavailableError as error:
                if error.command and not self._serves(error.key):
                    error.command = ""
                raise

        self._is_tried_out = True
        try:
            insist(attempt, self.disconnect)
        finally:
            self._is_tried_out = False

    @property
    def is_away(self) -> bool:
        """Whether no call would get an answer now; of a Cluster, that is not known."""
        return not self._has_nodes and bool(self._silent)

    def disconnect(self) -> None:
        """Close this process's connections, and end its threads; the next call opens one."""
        self._silent.clear()
        self._client.disconnect()

    # -- a call ------------------------------------------------------------------------------------

    def _admit(self, command: Sequence[Any]) -> str:
        """The place that has a command's key; it answered when it was last asked."""
        place = self._client.place(key_of(command)) if self._has_nodes else ""
        if self._silent and place in self._silent:
            raise self._unheard(place)
        return place

    def _unheard(self, place: str) -> RedisUnavailableError:
        return RedisUnavailableError(f"{self._named(place)} did not answer a moment ago")

    def _call(
        self,
        ask: Callable[..., Any],
        arguments: Sequence[Any],
        place: str,
        command: Sequence[Any] = (),
    ) -> Any:
        """Ask, in the time that the request at hand has left.

        :param command: the first of many; otherwise ``arguments`` are one
        """
        request = self._request()
        waited = request.__dict__.get(self._waited, 0.0) if request is not None else 0.0
        seconds = self._timeout - waited
        if seconds <= 0:
            raise RedisUnavailableError(
                f"{self._named(place)} took {waited:.1f} s of this request already"
            )
        began, turns, free = monotonic(), None, 0.0
        try:
            turns = self._await_turn(place, self._patience if request is None else seconds)
            if request is not None:
                seconds -= monotonic() - began
            begin(seconds)
            answer = ask(*arguments)
            free = self._timeout * HEALTHY
            return answer
        except DRIVER_ERRORS as error:
            # One that had little time left says nothing of the server.
            had_time = seconds > self._timeout / 2
            raise self._translated(error, place, command or arguments, had_time) from error
        finally:
            if turns is not None:
                turns.put(None)
            took = monotonic() - began
            if request is not None and took > free:
                request.__dict__[self._waited] = waited + took
            self._observe(command or arguments, took)

    def _observe(self, command: Sequence[Any], seconds: float) -> None:
        name = command[0]
        if name in ("EVALSHA", "EVAL"):
            name = _names.get(command[1], name)
        latency = self.latencies.get(name)
        if latency is None:
            latency = self.latencies.setdefault(name, Latency())
        latency.observe(seconds)

    def _await_turn(self, place: str, seconds: float) -> "queue.SimpleQueue[None]":
        """Take one of the calls that there may be at once; where to give it back."""
        if self._process != os.getpid():  # a fork: whose turn it was there is nothing to it
            self._turns, self._process = _turns(), os.getpid()
        turns = self._turns
        try:
            turns.get_nowait()
        except queue.Empty:
            try:
                turns.get(timeout=seconds)
            except queue.Empty:
                told = f"{self._named(place)}: {MAX_CALLS} calls are busy"
                raise RedisUnavailableError(told) from None
            if place in self._silent:
                turns.put(None)
                raise self._unheard(place) from None
        return turns

    def _translated(
        self, error: Exception, place: str, command: Sequence[Any], had_time: bool
    ) -> Exception:
        """Ours for a driver's error."""
        told = f"{self._named(place)}: {error}"
        if isinstance(error, ResponseError) and not isinstance(error, ClusterDownError):
            if str(error).startswith("WRONGTYPE"):
                return WrongTypeError(told)
            ours: RedisUnavailableError = RedisRefusedError(told)
        else:
            tell = had_time and not self._is_tried_out
            if tell and self._silent.add(place, key_of(command)):
                _logger.warning("%s does not answer: %s", self._named(place), error)
            ours = RedisUnavailableError(told)
        if refusal := refusal_in(error):
            ours.key = key_of(command)
            return marked(ours, refusal, command[0])
        return ours

    def _serves(self, key: Any) -> bool:
        """Whether a question about a key is answered, on a new connection."""
        self.disconnect()
        for question in (("EXISTS", key), ("HGET", key, "")):
            begin(self._timeout)
            if serves(lambda question=question: self._client.ask(*question)):  # type: ignore[misc]
                return True
        return False

    # -- silence -----------------------------------------------------------------------------------

    def _answers(self, place: str, key: Any) -> bool:
        """Whether whoever has a key by now answers; or a Cluster of which nobody was known."""
        begin(self._timeout / 4)
        with contextlib.suppress(*DRIVER_ERRORS):
            if self._client.has_answer_of(place, key):
                return True  # though the node to which it sends callers may not answer
        begin(self._timeout)
        try:
            self._client.ask("EXISTS", key)
        except ClusterDownError:
            return False
        except ResponseError:
            return True
        except DRIVER_ERRORS as error:
            _logger.debug("%s: %s", self._named(place), error)
            return not place and bool(self._client.place(key))
        return True

    def _answers_again(self, place: str) -> None:
        _logger.info("%s answers again", self._named(place))

    def _named(self, place: str) -> str:
        return f"Redis at {self.shown_url}, node {place}" if place else f"Redis at {self.shown_url}"


def _turns() -> "queue.SimpleQueue[None]":
    """A semaphore; Python's own takes longer."""
    turns: queue.SimpleQueue[None] = queue.SimpleQueue()
    for _ in range(MAX_CALLS):
        turns.put(None)
    return turns


def _evaluate(script: "Script", run: Callable[[str, str], T]) -> T:
    """Run a script by its digest, or by its text where the server does not know it."""
    try:
        return run("EVALSHA", script.sha)
    except RedisRefusedError as error:
        if not isinstance(error.__cause__, NoScriptError):
            raise
        return run("EVAL", script.text)


_names: dict[str, str] = {}  # of scripts, by text and by digest


class Script:
    """A server-side script with a constant text; data reach it as arguments only.

    :param name: in measurements, in small letters: some are those of commands of Redis, too
    :param keys: how many it is for; in a Cluster all have one slot
    """

    def __init__(self, name: str, text: str, keys: int = 1) -> None:
        self.text, self.keys = text, keys
        self.sha = sha1(text.encode(), usedforsecurity=False).hexdigest()
        _names[self.sha] = _names[text] = name
