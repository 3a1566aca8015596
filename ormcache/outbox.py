"""Values of this process on their way to Redis: a thread sends them, so that no request waits.

A value that waits here is committed, or its transaction was proven to have written nothing. What
cannot be sent is dropped: the shared cache may always do without.
"""

import atexit
import contextlib
import logging
import os
import queue
import threading
from collections.abc import Callable, Sequence
from typing import Any

from ..codec.value import Cost, Vault
from ..exceptions import NotShareableError
from .counters import Counter
from .policy import Budget
from .remote import RemoteTier, Stored

_logger = logging.getLogger(__name__)

MOST_WAITING = 64 * 2**20  # bytes


_Letter = tuple[Callable[..., Any], tuple[Any, ...], int]  # what sends, to whom what; bytes


class Entry:
    """A value on its way to Redis.

    :param key: of its hash
    :param data: itself, encoded
    :param cost: of computing it
    """

    __slots__ = ("_sealed", "_vault", "cost", "counter", "data", "field", "key")

    def __init__(
        self, vault: Vault, key: str, field: bytes, data: bytes, counter: Counter, cost: Cost
    ) -> None:
        self._vault = vault
        self._sealed: bytes | None = None
        self.key, self.field, self.data, self.cost = key, field, data, cost
        self.counter = counter

    @property
    def sealed(self) -> bytes | None:
        """The bytes to store; None: too big. Sealing takes a while, so it is left to the thread."""
        if self._sealed is None:
            with contextlib.suppress(NotShareableError):
                self._sealed = self._vault.seal(place(self.key, self.field), self.data, self.cost)
        return self._sealed


def place(key: str, field: bytes) -> bytes:
    """The place that a value is sealed for: nowhere else does it open."""
    return key.encode() + b"\0" + field


class Outbox:
    """Sends to one Redis, in the order of calls.

    A forked process has one of its own, with nothing in it: its parent sends what it had.

    :ivar budget: of this process for asking that Redis
    """

    _thread: threading.Thread | None

    def __init__(self, remote: RemoteTier) -> None:
        self._remote = remote
        self.budget = Budget()
        self._empty()
        os.register_at_fork(after_in_child=self._empty)
        atexit.register(self.flush, 1.0)

    def publish(self, entries: Sequence[Entry]) -> None:
        """Store values, as far as there is room."""
        if self._remote.is_away or self._bytes > MOST_WAITING:
            return
        by_key: dict[str, list[Entry]] = {}
        for entry in entries:
            by_key.setdefault(entry.key, []).append(entry)
        for key, group in by_key.items():
            self._put(self._publish, key, group, size=sum(len(entry.data) for entry in group))

    def release(self, key: str, fields: Sequence[bytes]) -> None:
        """Let others compute what this process claimed."""
        self._put(self._remote.release, key, fields)

    def retire(self, key: str) -> None:
        """Let a hash go that newer readers do not look at any more."""
        self._put(self._remote.retire, key)

    def flush(self, seconds: float = 5.0) -> bool:
        """Wait until all is sent that is here now; whether it was."""
        done = threading.Event()
        if self._thread:
            self._queue.put((done.set, (), 0))
        return not self._thread or done.wait(seconds)

    def close(self) -> None:
        """Send what is here, and have no thread: one that a fork cuts off would keep its locks."""
        thread, self._thread = self._thread, None
        if thread:
            self._queue.put(None)
            thread.join(5.0)

    def _empty(self) -> None:
        self._starting = threading.Lock()
        self._thread = None
        self._queue: queue.SimpleQueue[_Letter | None] = queue.SimpleQueue()
        self._bytes = 0

    def _put(self, send: Callable[..., Any], *arguments: Any, size: int = 0) -> None:
        if self._has_thread():
            self._bytes += size
            self._queue.put((send, arguments, size))
        else:
            send(*arguments)

    def _has_thread(self) -> bool:
        """Whether there is a thread that sends, started if need be."""
        if self._thread is None:
            with self._starting, contextlib.suppress(RuntimeError):  # out of threads, or at the end
                if self._thread is None:
                    thread = threading.Thread(target=self._run, name="redis-outbox", daemon=True)
                    thread.start()
                    self._thread = thread
        return self._thread is not None

    def _run(self) -> None:
        for send, arguments, size in iter(self._queue.get, None):
            self._bytes -= size
            try:
                send(*arguments)
            except Exception:  # what waits behind it is sent all the same
                _logger.exception("Not sent to Redis")

    def _publish(self, key: str, entries: Sequence[Entry]) -> None:
        values, refused = [], []
        for entry in entries:
            if sealed := entry.sealed:
                values.append((entry, sealed))
            else:
                refused.append(entry.field)
                entry.counter.rejected += 1
        stored = self._remote.publish(key, [(entry.field, sealed) for entry, sealed in values])
        for (entry, sealed), done in zip(values, stored, strict=False):  # none where it is away
            entry.counter.published += bool(done)
            entry.counter.bytes_out += bool(done) * len(sealed)
            if done == Stored.WANTED:
                self.budget.earn(entry.cost.seconds)
        self._remote.release(key, refused)
