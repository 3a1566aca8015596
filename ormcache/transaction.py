"""What one cursor may take from tier 2, and what it will give to it."""

import time
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

from .counters import Counter
from .generation import Generation
from .policy import Method
from .remote import Claim, RemoteTier

T = TypeVar("T")

PUBLISH_AFTER = 0.015  # seconds that others wait at most for what a long request computed
PATIENCE = 0.040  # seconds to wait for a value that somebody computes, and ...
PATIENCE_FACTOR = 4  # ... that many times what one of its method takes
MAX_PATIENCE = 2.0  # seconds
MAX_WAIT = 0.5  # seconds that one cursor waits for Redis, all in all, before it does without
_FIRST_PAUSE, _LONGEST_PAUSE = 0.001, 0.008  # seconds between two looks


class Hash:
    """A hash of Redis as this process fetched it, and what was found out about it since.

    :param values: fetched and not looked for yet
    """

    __slots__ = ("failed", "key", "values")

    def __init__(self, key: str, values: dict[bytes, bytes]) -> None:
        self.key = key
        self.values = values
        self.failed: set[bytes] = set()  # fields whose method raised: nobody will publish them


class Entry(NamedTuple):
    """A value on its way to Redis."""

    key: str
    field: bytes
    sealed: bytes
    counter: Counter


class Transaction:
    """One cursor's transaction, and those that follow it on the same cursor.

    :param wrote_nothing: whether the transaction is proven to have written nothing so far
    :param generation: what a snapshot of this cursor saw, this one's or an earlier one's; None: not
        known yet
    """

    __slots__ = (
        "__weakref__",
        "_claimed",
        "_doubts",
        "_entries",
        "_remote",
        "_since",
        "_wrote_nothing",
        "epoch",
        "fills",
        "generation",
        "open_in",
        "outdated",
        "own",
        "parameters",
        "registry",
        "waited",
        "wrote",
    )

    def __init__(
        self,
        remote: RemoteTier,
        wrote_nothing: Callable[[], bool],
        generation: Generation | None = None,
    ) -> None:
        self.generation = generation
        self.epoch = 0  # another one after each rollback
        self.fills: list[tuple[str, Any]] = []  # what it computed for tier 1: container and key
        self.registry: Any = None  # whose tier 1 it fills
        self.open_in: Any = None  # the SharedOrmcache that reckons with it
        self.outdated: Any = None  # what the process knew when this snapshot turned out older
        # What it computed since, which is for itself only: values by container and key.
        self.own: dict[tuple[str, Any], Any] = {}
        # All system parameters as it sees them; None: it has not asked, or has written since.
        self.parameters: dict[str, str] | None = None
        self.waited = 0.0  # seconds, for Redis
        self.wrote = False  # whether it wrote, or may have
        self._remote = remote
        self._wrote_nothing = wrote_nothing
        self._entries: list[Entry] = []
        self._doubts = False  # whether fills may come of changes that were not written yet
        self._claimed: dict[str, list[bytes]] = {}
        self._since = 0.0  # when the oldest entry came

    def find(self, hash_: Hash, field: bytes, method: Method) -> bytes | None:
        """The sealed value of a field; None: the caller is to compute it."""
        value = hash_.values.pop(field, None)
        if value is not None or field in hash_.failed or method.is_cheap or self.has_waited_enough:
            return value
        answer = self.waiting(self._remote.ask, hash_.key, field, claim=not self.wrote)
        if answer == Claim.THEIRS:
            self.publish_early()  # somebody may be waiting for what this transaction holds
            answer = self._wait(hash_.key, field, method)
        if answer == Claim.OURS:
            self._claimed.setdefault(hash_.key, []).append(field)
        return answer if isinstance(answer, bytes) else None

    def _wait(self, key: str, field: bytes, method: Method) -> bytes | int | None:
        patience = PATIENCE + PATIENCE_FACTOR * (method.mean_cost or PATIENCE)
        deadline = time.monotonic() + min(patience, MAX_PATIENCE)
        pause = _FIRST_PAUSE
        answer: bytes | int | None = Claim.THEIRS
        while answer == Claim.THEIRS and time.monotonic() < deadline and not self.has_waited_enough:
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)
            answer = self.waiting(self._remote.ask, key, field, claim=not self.wrote)
        return answer

    @property
    def has_waited_enough(self) -> bool:
        """Whether Redis is too slow for this transaction."""
        return self.waited >= MAX_WAIT

    def waiting(self, ask: Callable[..., T], *arguments: Any, **options: Any) -> T:
        """Call what asks Redis, and note how long that takes."""
        began = time.monotonic()
        try:
            return ask(*arguments, **options)
        finally:
            self.waited += time.monotonic() - began

    def filled(self, container: str, key: Any, *, pending: bool) -> None:
        """Take note of a value computed for tier 1, which a rollback may make void.

        :param pending: whether there are changes that were not written yet
        """
        self.fills.append((container, key))
        self._doubts |= pending

    def offer(self, entry: Entry) -> None:
        """Publish a value after the commit, or soon if the transaction wrote nothing."""
        now = time.monotonic()
        if not self._entries:
            self._since = now
        self._entries.append(entry)
        if now - self._since >= PUBLISH_AFTER:
            self.publish_early()

    def publish_early(self) -> None:
        """Publish before the commit, which is right only for a transaction that wrote nothing.

        Otherwise let the others compute what they wait for.
        """
        if self._entries and not self.wrote:
            self.wrote = not self._wrote_nothing()
        if self.wrote:
            self.release()
        else:
            self._publish()

    def is_clean(self) -> bool:
        """Whether nothing it put in tier 1 can come of changes of its own."""
        self.wrote = self.wrote or not self._wrote_nothing()
        return not (self.wrote or self._doubts)

    def release(self, *fields: bytes) -> None:
        """Let others compute what this transaction claimed: these fields, or all."""
        for key, claimed in self._claimed.items():
            given = [field for field in claimed if not fields or field in fields]
            if given and not self.has_waited_enough:  # others don't wait for long
                self.waiting(self._remote.release, key, given)
            claimed[:] = [field for field in claimed if field not in given]

    def committed(self, *, publish: bool) -> None:
        """After the commit.

        :param publish: whether what was computed before it is still valid
        """
        if publish:
            self._publish()
        self._ended()
        self.waited = 0.0

    def rolling_back(self, *, may_ask: bool) -> None:
        """Before the rollback of the whole transaction.

        What it computed is valid without its commit, if it wrote nothing: ``Request._serve_db``
        rolls back after it found the controller, for one.

        :param may_ask: whether the database can still be asked
        """
        if not self._entries and not self.fills:
            return
        self.wrote = self.wrote or not may_ask or not self._wrote_nothing()
        if not self.wrote:
            self._publish()
            if not self._doubts:
                self.fills = []

    def rolled_back(self) -> None:
        """After the rollback of the whole transaction."""
        self.undone()
        self._ended()

    def drop(self) -> None:
        """Publish nothing of what was computed so far."""
        self._entries = []

    def undone(self) -> None:
        """After a rollback, even if only to a savepoint: what was computed may be void."""
        self.epoch += 1
        self.parameters = None
        self.own = {}
        self.drop()
        self.release()

    def _ended(self) -> None:
        self.wrote = self._doubts = False
        self.outdated = self.parameters = None
        self.own = {}
        self._entries = []
        self.fills = []
        self.release()

    def _publish(self) -> None:
        by_key: dict[str, list[Entry]] = {}
        for entry in self._entries:
            by_key.setdefault(entry.key, []).append(entry)
        self._entries = []
        for key, entries in by_key.items():
            if self.has_waited_enough:
                return
            values = [(entry.field, entry.sealed) for entry in entries]
            stored = self.waiting(self._remote.publish, key, values)
            for entry, done in zip(entries, stored, strict=False):  # none, when Redis is away
                entry.counter.published += done
                entry.counter.bytes_out += done * len(entry.sealed)
            published = {entry.field for entry, done in zip(entries, stored, strict=False) if done}
            if claimed := self._claimed.get(key):
                claimed[:] = [field for field in claimed if field not in published]
