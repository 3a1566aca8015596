"""The values that one cursor computes, from the beginning of a transaction to its end.

A transaction keeps what it computes in its own layers (``layers.py``). *In step* means, for a
container: its snapshot saw the same signals as the process last did, so what it computes may be put
where others find it, once it is known to be committed:

========== ============= ===================== ======================== =======================
in step    has changed   reads, after its own  what it computes is      seen by others
========== ============= ===================== ======================== =======================
yes        nothing       tier 1, tier 2        in its lowest layer      when proven to have
                                                                        written nothing, or
                                                                        after the commit
yes        something     tier 1, tier 2        in the layer of the      after the commit
                                               last change
either     this one      nothing               in the layer of the      in tier 1, after the
                                               last change              commit
no         either        tier 1, what was      as above                 never
                         fetched of tier 2
                         under the process's
                         newer generation
========== ============= ===================== ======================== =======================

"This one": the container was invalidated in this transaction. After the commit the process is ahead
of the signals for it (``local.py``).

The end of a transaction is the beginning of the next one on the same cursor, with empty layers and
another generation: that of its own snapshot, read when it is first needed. The exception is the
rollback that follows a check of the signals: ``Request._serve_db`` checks and begins anew at once.
The next snapshot goes by what the check saw, and may have seen more: then it is not in step.

>>> def seen(*ids):
...     rows = [f'({number},"2026-01-01",{number})' for number in ids]
...     keys = ["registry", "default"]
...     return Generation.from_rows(keys, [["(1,,1)"], rows], "db", "9:9:", {"default": keys})
>>> class Cursor:
...     sees, wrote = seen(1), False
...     def read_generation(self): return self.sees
...     def wrote_nothing(self): return not self.wrote
...     def has_pending_changes(self): return False
...     def is_current(self): return True
...     def look_around(self): pass
...     def lost(self, containers): pass
...     def learnt(self, seen): pass
...     def note_commit(self, number): self.number = number
>>> class Post:
...     def publish(self, entries): pass
...     def release(self, key, fields): print("gives up", *fields)
>>> cursor, tier1 = Cursor(), {"default": {}}
>>> local = LocalTier(tier1)
>>> transaction = Transaction(local, Post(), cursor)
>>> def compute(key, value):
...     reads = transaction.sharing("default")
...     transaction.keep("default", key, Computed(value), cost=0.030)
...     of = ".".join(map(str, reads.ids["default"])) if reads else None
...     return f"tier 2 of {of}", transaction.is_in_step("default"), tier1["default"]

In step, and nothing was changed: a proof is worth a query after some computing.

>>> compute("a", 1)
('tier 2 of 1', True, {})
>>> compute("b", 2)
('tier 2 of 1', True, {'a': 1, 'b': 2})

In step, and something was changed: nobody waits for its values any more, and they are seen after
the commit; a rollback drops them.

>>> transaction.claimed("hash", "field")
>>> transaction.changed()
>>> compute("c", 3), compute("d", 4)
gives up field
(('tier 2 of 1', True, {'a': 1, 'b': 2}), ('tier 2 of 1', True, {'a': 1, 'b': 2}))
>>> transaction.committed()
>>> tier1["default"]
{'a': 1, 'b': 2, 'c': 3, 'd': 4}
>>> transaction.changed()
>>> compute("e", 5)
('tier 2 of 1', True, {'a': 1, 'b': 2, 'c': 3, 'd': 4})
>>> transaction.rolled_back()
>>> "e" in tier1["default"]
False

The container was invalidated; Odoo has cleared tier 1, and another thread filled it meanwhile.
After the commit the process is ahead of the signals.

>>> tier1["default"].clear()
>>> transaction.invalidate({"default"})
>>> tier1["default"]["a"] = "before"
>>> compute("a", "after")
('tier 2 of None', False, {'a': 'before'})
>>> transaction.committed()
>>> compute("f", 6)
('tier 2 of None', False, {'a': 'after'})

Another thread has seen the signal: this transaction is older than that, and not in step.

>>> local.signalled({"default"}, cursor.number)
>>> local.learn(seen(2, 1), local.mark(is_current=True))
True
>>> compute("g", 7)
('tier 2 of 2.1', False, {})
>>> transaction.committed()
>>> tier1["default"]
{}

The next one on the cursor sees it as well.

>>> cursor.sees = seen(2, 1)
>>> compute("h", 8)
('tier 2 of 2.1', True, {})
"""

import time
from collections.abc import Callable, Iterable
from typing import Any, Protocol, TypeVar

from .generation import Generation
from .layers import Computed, Layers, View
from .local import LocalTier
from .originals import EDITED
from .outbox import Outbox

T = TypeVar("T")

MAX_WAIT = 0.5  # seconds that one transaction waits for Redis, all in all, before it does without
PROOF_AFTER = 0.050  # seconds of computing that are worth a proof: a hundred times what it takes


class Connection(Protocol):
    """The questions of the cache to a cursor."""

    def read_generation(self) -> Generation:
        """The signals that its snapshot sees, for the price of a query."""

    def learnt(self, seen: Generation) -> None:
        """The process has cleared its caches of all that is older than what was read."""

    def wrote_nothing(self) -> bool:
        """Whether the transaction is proven to have written nothing, for the price of a query."""

    def has_pending_changes(self) -> bool:
        """Whether there are changes that were not written to the database yet."""

    def is_current(self) -> bool:
        """Whether its next query will see all that is committed by now: not in the middle of a
        transaction, nor on a replica.
        """

    def look_around(self) -> None:
        """Have :meth:`Transaction.invalidate` called for what was not told yet."""

    def lost(self, containers: set[str]) -> None:
        """Values of these were dropped, which the cursor's user may have relied on."""

    def note_commit(self, number: int) -> None:
        """The changes that its thread invalidated are committed, with the number that
        :meth:`LocalTier.committed` gave.
        """

    def signal(self, keys: Iterable[str]) -> None:
        """Insert rows in the signaling tables, by a transaction of its own."""


class Transaction:
    """One cursor's transaction, and those that follow it on the same cursor.

    :ivar view: what the lookups of the cursor are to see; None: tier 1 only
    :ivar number: how many have ended on this cursor
    :ivar epoch: another number after each end and each rollback to a savepoint
    :ivar until_changed: whatever is valid until the transaction writes something, or ends
    :ivar waited: seconds, for Redis
    :ivar is_of_verification: whether it computes values again that Redis has
    """

    __slots__ = (
        "__weakref__",
        "_awaits_reload",
        "_claims",
        "_connection",
        "_generation",
        "_layers",
        "_local",
        "_mark",
        "_outbox",
        "_signal_again",
        "_survives",
        "_unproven",
        "epoch",
        "is_of_verification",
        "number",
        "until_changed",
        "view",
        "waited",
    )

    def __init__(self, local: LocalTier, outbox: Outbox, connection: Connection) -> None:
        self._local, self._outbox, self._connection = local, outbox, connection
        self._layers = Layers()
        self._generation: Generation | None = None
        self._survives = False  # whether a rollback that comes now leaves the generation
        self._awaits_reload = False  # whether it has seen what tier 1 was not cleared for
        self._claims: dict[str, set[bytes]] = {}
        self._unproven = 0.0  # seconds that computing took since there was a proof
        self._signal_again: set[str] = set()
        self._mark = local.mark(is_current=connection.is_current())
        self.epoch = self.number = 0
        self.until_changed: dict[str, Any] = {}
        self.view: View | None = None
        self.waited = 0.0
        self.is_of_verification = False

    # -- the generation

    def checked(self, seen: Generation) -> None:
        """The signals were checked on this cursor; what it has computed before may be older."""
        if self._layers.view and seen is not self._generation:
            self._drop_values()
        self._generation, self._survives, self._awaits_reload = seen, True, False

    def look_around(self) -> None:
        """Take note of what its thread did since it last looked something up."""
        self._connection.look_around()

    def generation(self) -> Generation:
        """The signals that this cursor has seen."""
        if self._generation is None:
            self._generation = self._connection.read_generation()
            if self.learn(self._generation):
                self._connection.learnt(self._generation)
            self._awaits_reload = self._local.awaits_reload(self._generation)
        return self._generation

    def learn(self, seen: Generation, *, loaded: bool = False) -> bool:
        """Have the process take note of what its snapshot sees: see :meth:`LocalTier.learn`."""
        return self._local.learn(seen, self._mark, loaded=loaded)

    def is_in_step(self, container: str) -> bool:
        """Whether what it computes may be seen by others, once it is committed."""
        seen = self.generation()
        return (
            container not in self._layers.view.invalidated
            and not self._local.is_ahead(container)
            and not self._awaits_reload
            and self._local.agrees(seen, container)
        )

    def sharing(self, container: str) -> Generation | None:
        """The generation under which it may read from tier 2; None: it may not."""
        seen = self.generation()
        if container in self._layers.view.invalidated or self._local.is_ahead(container):
            return None
        if self._local.agrees(seen, container):
            return seen
        return self._local.state if self._local.is_past(seen) else None

    # -- changes

    def changed(self) -> None:
        """It wrote something."""
        self.until_changed.clear()
        self._layers.mark_changed()

    def invalidate(self, containers: Iterable[str]) -> None:
        """Its thread has invalidated these."""
        self._layers.invalidate(containers)
        self._show()

    def signalled(self, keys: Iterable[str]) -> None:
        """Its thread has signalled these, or forgotten them because something failed on another
        cursor: what this transaction changed is not committed, so it has to be signalled then.
        """
        if self._layers.view.invalidated:
            self._signal_again.update(keys)

    def take_over(
        self, before: "Transaction", keys_of: Callable[[set[str]], Iterable[str]]
    ) -> None:
        """Go on for another registry's transaction on the same cursor: what that one has changed is
        not committed yet, and nobody tells it of savepoints any more.

        :param keys_of: the keys that clear some containers
        """
        before._drop_values()
        if before.has_changed:
            self.changed()
        if invalidated := before._layers.view.invalidated:
            self.invalidate(invalidated)
            self._signal_again.update(keys_of(invalidated))

    def savepoint_begun(self, name: str) -> None:
        self._layers.begin(name)

    def savepoint_released(self, name: str) -> None:
        self._layers.release(name)

    def savepoint_rolled_back(self, name: str) -> None:
        self.until_changed.clear()
        self.epoch += 1
        lost, unsure = self._layers.roll_back(name)
        if lost:
            self._connection.lost(lost)
        if unsure and not self._connection.wrote_nothing():
            for computed in unsure:  # of what a function wrote, perhaps, that a SELECT called
                computed.entry, computed.original = None, EDITED
        self._give_up_claims()
        self._show()

    # -- values

    def keep(self, container: str, key: Any, computed: Computed, cost: float) -> None:
        """Keep what it computed, and let others have it if that is known to be right.

        :param cost: seconds that computing it took
        """
        if self._connection.has_pending_changes():
            self._layers.mark_changed()
        self._layers.put(container, key, computed)
        self._show()
        self._unproven += cost
        entry = computed.entry
        is_claimed = entry is not None and entry.field in self._claims.get(entry.key, ())
        if is_claimed or self._unproven >= PROOF_AFTER:
            self.settle()

    def take_in(self, container: str, key: Any, computed: Computed, generation: Generation) -> None:
        """Put a value of tier 2 where this process will look it up."""
        if not self._local.put(container, key, computed, generation, self._mark):
            self._layers.put(container, key, computed)
            self._show()

    def find(self, key: Any) -> Computed | None:
        """A value of its own."""
        return self._layers.view.get(key)

    def settle(self) -> None:
        """Let others see what it computed, if it is proven to have written nothing."""
        self._unproven = 0.0
        if not self._layers.has_changed:
            if self._connection.wrote_nothing():
                self._hand_over()
                return
            self._layers.mark_changed()
        self._give_up_claims()

    def settle_claims(self) -> None:
        """The same, if others may wait for something of it."""
        if any(self._claims.values()):
            self.settle()

    def _hand_over(self) -> None:
        """Its values are valid, whatever becomes of it: to tier 1, and to Redis."""
        values = self._layers.take()
        entries = []
        for container in values.values():
            for computed in container.values():
                if computed.entry:
                    entries.append(computed.entry)
                    computed.entry = None
        for entry in entries:
            self._claims.get(entry.key, set()).discard(entry.field)
        self._outbox.publish(entries)
        if values and self._generation is not None and not self._awaits_reload:
            values = self._local.merge(values, self._generation, self._mark)
        for name, container in values.items():  # others do better without
            for key, computed in container.items():
                self._layers.put(name, key, computed)
        self._show()

    def _show(self) -> None:
        view = self._layers.view
        self.view = view if view or view.invalidated else None

    # -- Redis

    @property
    def has_changed(self) -> bool:
        """Whether it may have changed the database, so that nobody should wait for its values."""
        return self._layers.has_changed

    @property
    def has_waited_enough(self) -> bool:
        """Whether Redis is too slow for this transaction."""
        return self.waited >= MAX_WAIT

    def waiting(self, ask: Callable[..., T], *arguments: Any, **options: Any) -> T:
        """Call what waits for Redis, and note how long that takes."""
        began = time.monotonic()
        try:
            return ask(*arguments, **options)
        finally:
            self.waited += time.monotonic() - began

    def claimed(self, key: str, field: bytes) -> None:
        """Others wait for this transaction to compute a value."""
        self._claims.setdefault(key, set()).add(field)

    def give_up(self, key: str, field: bytes) -> None:
        """It will not publish this one."""
        if field in self._claims.get(key, ()):
            self._claims[key].discard(field)
            self._outbox.release(key, [field])

    def _give_up_claims(self) -> None:
        claims, self._claims = self._claims, {}
        for key, fields in claims.items():
            if fields:
                self._outbox.release(key, list(fields))

    # -- the end

    def committed(self, *, is_over: bool = True) -> None:
        """After the commit.

        :param is_over: False: another callback has begun the next transaction already, whose end
            may pass unheard, so its values are dropped
        """
        if not is_over:
            self._drop_values()
        self.look_around()
        invalidated = set(self._layers.view.invalidated)
        if invalidated:
            number = self._local.committed(invalidated)
            self._mark.commits.update(invalidated)
            self._connection.note_commit(number)
        again, self._signal_again = self._signal_again, set()
        self._layers.flatten()
        self._hand_over()
        self._begin(keeps_generation=False)
        if again:
            self._connection.signal(again)

    def rolling_back(self) -> None:
        """Before the rollback of the whole transaction: if that wrote nothing, its values are valid
        without a commit.
        """
        if self._layers.view:
            self.settle()

    def rolled_back(self) -> None:
        """After the rollback of the whole transaction."""
        self._signal_again = set()
        self._begin(keeps_generation=self._survives)

    def _drop_values(self) -> None:
        if lost := self._layers.clear():
            self._connection.lost(lost)
        self._give_up_claims()
        self._show()

    def _begin(self, *, keeps_generation: bool) -> None:
        self._drop_values()
        self._layers = Layers()
        if not keeps_generation:
            self._generation = None
        self._survives = self._awaits_reload = False
        self._unproven = self.waited = 0.0
        self.epoch += 1
        self.number += 1
        self.until_changed = {}
        self._mark = self._local.mark(is_current=self._connection.is_current())
        self._show()
