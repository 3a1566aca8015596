"""Which state of the tables a process goes by, while the signaling tables have the same rows.

A change that nobody signalled gives a table another state. A process *pins* a generation when it
first sees its rows: with the state that the tables have for this snapshot. Tier 1 may hold values
as old as that, so the process goes by it, until it sees another row, is forked, or finds out beside
its requests (:meth:`Pins.find_changes`) that the state is another one by now. Then the tables are
read again, and tier 1 is cleared of what is older (``local.py``).

Pure: what is read comes from a :class:`Snapshot`.
"""

import os
import threading
import time
from collections.abc import Container, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from . import tables
from .generation import Generation, is_earlier

Place = tuple[str, bool]  # origin; whether it is a replica


class Found(NamedTuple):
    """The tables that values come from, as a snapshot sees them.

    :param tables: the names of those that there are
    :param states: by source: ``tables.SOURCES``
    :param secret: the database's own; "" if there is none
    :param rules: what restricts access, by model, as the snapshot gives it
    """

    tables: Container[str]
    states: Mapping[str, str]
    secret: str
    rules: Mapping[str, Any]


class Snapshot(Protocol):
    """Reads the database; all of it as one snapshot sees it.

    :ivar is_replica: whether a replica says it
    """

    is_replica: bool

    def signals(self) -> tuple[list[list[str]], str, str]:
        """Rows by key, origin, snapshot: the answer to ``generation.query``."""

    def tables(self, known: Found | None) -> Found | None:
        """The state of the tables; None where they cannot be read, as while one is being altered.

        :param known: what was found since the registry was last reloaded: what modules define was
            not changed with a signal since then, and is most of what there is to read
        """

    def table(self, name: str) -> str | None:
        """The state of one table; "" for none, None where it cannot be told."""

    def wrote_nothing(self) -> bool:
        """Whether its transaction is proven to have written nothing."""


class Pin:
    """A generation that a process keeps to.

    :param rows: by key, as the database gave them
    :param found: the state; None: it could not be read
    :ivar process: which read the state; a forked one reads it again. 0: it is to be read again
    :ivar earliest: snapshot by which it may be read again: an older one misses the change
    :ivar verified: when all of the state was last read, on the monotonic clock
    """

    def __init__(self, rows: list[list[str]], generation: Generation, found: Found | None) -> None:
        self.rows = rows
        self.generation = generation
        self.found = found
        self.process = os.getpid()
        self.earliest = generation.snapshot
        self.verified = time.monotonic()

    def holds_for(self, rows: list[list[str]], snapshot: str) -> bool:
        """Whether the state is known to be right, or older, for who sees these rows."""
        return (
            self.rows == rows
            and self.process == os.getpid()
            and not is_earlier(snapshot, self.generation.snapshot)
        )


class Pins:
    """The generations that a process has pinned of one database.

    :param keys: of the signaling tables, as :meth:`Snapshot.signals` orders them
    :param keys_of: per container, the keys that clear it
    """

    def __init__(self, keys: Sequence[str], keys_of: Mapping[str, Sequence[str]]) -> None:
        self._keys, self._keys_of = keys, keys_of
        self._pins: dict[Place, Pin] = {}
        self._lock = threading.Lock()

    def seen_by(self, snapshot: Snapshot) -> Generation:
        """The generation of a snapshot, for the price of a query, or two where the rows are new."""
        rows, origin, name = snapshot.signals()
        place = origin, snapshot.is_replica
        pin = self._pins.get(place)
        if pin and pin.holds_for(rows, name):
            return pin.generation
        generation = Generation.from_rows(
            self._keys, rows, origin, name, self._keys_of, is_replica=snapshot.is_replica
        )
        if pin and generation.older_than(pin.generation.ids):
            return generation  # nothing is shared under it, so the state of the tables is not read
        known = None
        if pin and pin.process == os.getpid() and not generation.reloads(pin.generation):
            known = pin.found
        found = snapshot.tables(known)
        new = Pin(rows, generation, found)
        if found is None:  # nothing is shared, and nothing cleared but what was signalled
            generation.states = pin.generation.states if pin else {}
            self._pins[place] = new
            return generation
        generation.states = tables.states_of(found.states)
        generation.secret, generation.rules = found.secret, found.rules
        if pin and known:
            new.verified = pin.verified
        for container, table in list(pin.generation.own_states) if pin else ():
            self.own_state(generation, snapshot, container, table)
        return self._pinned(place, new)

    def _pinned(self, place: Place, new: Pin) -> Generation:
        """The generation to go by: a new one, or the one that is pinned."""
        generation = new.generation
        with self._lock:
            pin = self._pins.get(place)
            if pin is None or pin.rows != new.rows:
                if pin is None or not generation.older_than(pin.generation.ids):
                    self._pins[place] = new
                return generation
            known = pin.generation
            is_unchanged = not any(known.differs_from(generation, each) for each in self._keys_of)
            is_early = is_earlier(generation.snapshot, pin.earliest)
            if is_unchanged and known.secret == generation.secret:
                if pin.process != new.process and not is_early:
                    self._pins[place] = Pin(pin.rows, known, new.found)
                return known
            if is_earlier(generation.snapshot, known.snapshot):
                return generation
            if pin.process == new.process:  # another thread was the first
                return known
            if is_early:  # it is to be read again all the same
                new.process, new.earliest = 0, pin.earliest
            self._pins[place] = new
            return generation

    def own_state(
        self, generation: Generation, snapshot: Snapshot, container: str, table: str
    ) -> str | None:
        """The state of a table beside those of ``tables.SOURCES``, as when it was first asked for
        in a generation.

        :return: "" where there is no such table; None where its state cannot be told, or this
            transaction has written something
        """
        place = container, table
        if place not in generation.own_states:
            if not snapshot.wrote_nothing():
                return None  # it may see what is never committed; another transaction will tell
            generation.own_states.setdefault(place, snapshot.table(table))
        return generation.own_states[place]

    def read_again(self) -> None:
        """Have the next check read the tables again, and clear what is older."""
        for pin in list(self._pins.values()):
            pin.process = 0

    def due(self, seconds: float) -> list[Pin]:
        """Pins that were not verified for so long; they count as verified now."""
        now = time.monotonic()
        found = [pin for pin in list(self._pins.values()) if now - pin.verified >= seconds]
        for pin in found:
            pin.verified = now
        return found

    def all(self) -> list[Pin]:
        """Each of them."""
        return list(self._pins.values())

    def find_changes(self, pin: Pin, snapshot: Snapshot) -> set[str]:
        """Containers whose tables were changed without a signal; the next check clears them.

        :param snapshot: a new one, of the server that was pinned
        """
        rows, _origin, read_by = snapshot.signals()
        if rows != pin.rows:  # the next request will see it
            return set()
        found = snapshot.tables(None)
        if found is None:
            return set()
        states = tables.states_of(found.states)
        known = pin.generation
        if known.secret is None:  # they could not be read when it was pinned
            pin.process = 0
            return set()
        changed = {name for name, state in states.items() if state != known.states.get(name)}
        changed |= {
            container
            for (container, table), state in list(known.own_states.items())
            if state is not None and snapshot.table(table) not in (state, None)
        }
        if changed:
            pin.process, pin.earliest = 0, read_by
        return changed
