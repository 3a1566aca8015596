"""Which state of the database a cached value belongs to. Pure: no I/O, no Odoo.

Odoo tells its processes of an invalidation by inserting a row in ``orm_signaling_<key>``. The
generation of a cache container is what one snapshot of the database sees of these tables: the
newest rows of ``registry`` and of every key that clears the container. Not only the newest one, as
core looks at: of two that signal at once, the later id may commit first, and the other's row then
appears below it.

A row is told by its id, its date and the transaction that wrote it, and all of them by the file of
the table and the start of the server (the *origin*). So a database that was restored, copied or
made anew never meets the values of the other, though its ids repeat. What a replica says is
compared by ids and dates, because a logical replica writes the rows in transactions of its own.

Of the tables that values are computed from (``tables.py``) a generation has the state that its
process read with the snapshot that was the first to see these rows.

>>> keys = {"default": ("default",), "templates": ("templates", "groups")}
>>> def seen(**rows):
...     tables = {"registry": [7], "default": [3], "templates": [3], "groups": [9], **rows}
...     return Generation.from_rows(
...         list(tables), [[f'({i},"2026-01-01",70{i})' for i in ids] for ids in tables.values()],
...         "16384", "100:105:101", keys)
>>> before, after = seen(), seen(groups=[10, 9])
>>> before.token("default") == after.token("default")
True
>>> before.token("templates") == after.token("templates")
False
>>> after.newest["groups"], before.older_than(after.ids), after.older_than(before.ids)
(10, True, False)
>>> late, later = seen(groups=[11, 9]), seen(groups=[11, 10, 9])
>>> late.older_than(later.ids), later.follows(late, "groups"), after.follows(before, "groups")
(True, False, True)
>>> before.precedes(after), after.precedes(before), before.differs_from(after, "default")
(True, False, False)
"""

from collections.abc import Iterable, Mapping, Sequence
from hashlib import blake2b
from typing import Any

WINDOW = 8  # ids: core keeps the newest ten when it tidies the tables
REGISTRY = "registry"

Ids = Mapping[str, tuple[int, ...]]


def query(keys: Iterable[str]) -> str:
    """SQL for :meth:`Generation.from_rows`: one array of rows a key, the origin, the snapshot.

    It takes as long as the one of ``Registry.get_sequences`` that it stands for.

    :param keys: names of signaling tables, ``registry`` first; they are code, not data
    """
    arrays = [
        f"ARRAY(SELECT (id, date, xmin)::text FROM orm_signaling_{key}"
        f" ORDER BY id DESC LIMIT {WINDOW})"
        for key in keys
    ]
    # The path tells database and table; the server's start, that it was not restored meanwhile.
    origin = "pg_relation_filepath('orm_signaling_registry') || pg_postmaster_start_time()"
    return f"SELECT {', '.join(arrays)}, {origin}, pg_current_snapshot()::text"


def is_earlier(snapshot: str, other: str) -> bool:
    """Whether a snapshot was taken before another one of the same database, as far as it matters.

    :param snapshot: ``xmin:xmax:xip_list``, as ``pg_current_snapshot`` gives it

    >>> is_earlier("100:105:101,103", "100:106:101"), is_earlier("100:105:101", "100:105:101,103")
    (True, False)
    >>> is_earlier("100:105:101,103", "103:105:103"), is_earlier("9:9:", "9:9:")
    (True, False)
    """
    _xmin, xmax, running = snapshot.split(":")
    _xmin, other_xmax, other_running = other.split(":")
    if xmax != other_xmax:
        return int(xmax) < int(other_xmax)
    # All below xmax have begun: of those that were running, some may have ended since.
    return len(running) > len(other_running)


class Generation:
    """What one snapshot saw of the signaling tables.

    :param rows: per key, the newest rows as text, newest first
    :param ids: their ids. In one database such tuples only grow, in the order of tuples
    :param origin: what tells this database, on this server, from others
    :param snapshot: with which it was read
    :param keys_of: per container, the keys that clear it
    :param is_replica: whether a replica said so
    :ivar newest: per key, ``max(id)`` of its table; None when it is empty
    :ivar states: per container, the state of the tables that its values come from
    :ivar own_states: the same of tables that are not among these, by container and name
    :ivar rules: what restricts access, by model: ``pins.Found``
    :ivar secret: the database's own; "" where it has none; None: it is not known
    """

    __slots__ = (
        "_keys_of",
        "_rows",
        "_tokens",
        "ids",
        "is_replica",
        "newest",
        "origin",
        "own_states",
        "rules",
        "secret",
        "snapshot",
        "states",
    )

    def __init__(
        self,
        rows: Mapping[str, Sequence[str]],
        ids: Ids,
        origin: str,
        snapshot: str,
        keys_of: Mapping[str, Sequence[str]],
        *,
        is_replica: bool = False,
    ) -> None:
        self.ids = ids
        self.newest = {key: numbers[0] if numbers else None for key, numbers in ids.items()}
        self._rows = rows
        self.origin = f"{origin} {is_replica}"
        self.is_replica = is_replica
        self.snapshot = snapshot
        self.states: Mapping[str, str] = {}
        self.own_states: dict[tuple[str, str], str | None] = {}
        self.rules: Mapping[str, Any] = {}
        self.secret: str | None = None
        self._keys_of = keys_of
        self._tokens: dict[str, bytes] = {}

    @classmethod
    def from_rows(
        cls,
        keys: Sequence[str],
        arrays: Sequence[Sequence[str]],
        origin: str,
        snapshot: str,
        keys_of: Mapping[str, Sequence[str]],
        *,
        is_replica: bool = False,
    ) -> "Generation":
        """From the answer to :func:`query`: rows look like ``(12,"2026-01-01 00:00:00",705)``."""
        rows, ids = {}, {}
        for key, array in zip(keys, arrays, strict=True):
            numbers = [int(row[1 : row.index(",")]) for row in array]
            # Older ones may be tidied away at any time.
            within = sum(number > numbers[0] - WINDOW for number in numbers)
            rows[key], ids[key] = array[:within], tuple(numbers[:within])
        return cls(rows, ids, origin, snapshot, keys_of, is_replica=is_replica)

    def token(self, container: str) -> bytes:
        """What differs between two generations of a container."""
        token = self._tokens.get(container)
        if token is None:
            digest = blake2b(self.origin.encode(), digest_size=16)
            for key in (REGISTRY, *self._keys_of[container]):
                digest.update(f"|{key}:{';'.join(self._rows[key])}".encode())
            digest.update(f"|{self.states.get(container)}".encode())
            token = self._tokens[container] = digest.digest()
        return token

    def older_than(self, known: Ids) -> bool:
        """Whether this snapshot misses something that ``known`` says was signalled."""
        return any(self.ids.get(key, ()) < ids for key, ids in known.items())

    def follows(self, before: "Generation", key: str) -> bool:
        """Whether since ``before`` at most one row appeared, as the newest.

        Core, which compares newest ids, may not notice anything else: a signal that was committed
        after one with a higher id, or a database that was restored.
        """
        rows, old = self._comparable(before, key), before._comparable(self, key)
        if rows == old:
            return True
        ids, old_ids = self.ids[key], before.ids[key]
        within = sum(number > ids[0] - WINDOW for number in old_ids) if ids else 0
        return ids > old_ids and rows[1:] == old[:within]

    def differs_from(self, other: "Generation", container: str) -> bool:
        """Whether a container's values may differ between the two."""
        if self is other:
            return False
        if self.origin == other.origin:
            return self.token(container) != other.token(container) or not self._agrees_on_tables(
                other, container
            )
        keys = (REGISTRY, *self._keys_of[container])
        return any(self._comparable(other, key) != other._comparable(self, key) for key in keys)

    def reloads(self, other: "Generation") -> bool:
        """Whether between the two the registry changed."""
        return self._comparable(other, REGISTRY) != other._comparable(self, REGISTRY)

    def precedes(self, other: "Generation") -> bool:
        """Whether this snapshot is known to be an older one of the same database.

        Of a replica and its primary the one that has no other rows is older: it lags.
        """
        if self.origin == other.origin and self.ids != other.ids:
            return self.older_than(other.ids)
        if not any(self.differs_from(other, each) for each in self._keys_of):
            return False
        if self.origin == other.origin:
            return is_earlier(self.snapshot, other.snapshot)
        return self.is_replica != other.is_replica and self._lags(other)

    def _lags(self, other: "Generation") -> bool:
        """Whether the other one has all of this one's rows, or keeps newer ones only."""
        for key, ids in self.ids.items():
            others = other._comparable(self, key)
            oldest = other.ids[key][-1] if others else 0
            for number, row in zip(ids, self._comparable(other, key), strict=True):
                if number >= oldest and row not in others:
                    return False
        return True

    def _agrees_on_tables(self, other: "Generation", container: str) -> bool:
        """Whether what both know of tables beside those of :attr:`states` is the same."""
        return all(
            other.own_states.get(place, state) == state
            for place, state in list(self.own_states.items())
            if place[0] == container
        )

    def _comparable(self, other: "Generation", key: str) -> Sequence[str]:
        """Rows without ``xmin``, where replicas have their own."""
        rows = self._rows[key]
        if self.origin == other.origin or not (self.is_replica or other.is_replica):
            return rows
        return [row[: row.rindex(",")] for row in rows]
