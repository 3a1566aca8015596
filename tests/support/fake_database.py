"""PostgreSQL in memory, as far as a cache notices: snapshots, row locks, savepoints, signals.

A transaction reads what was committed before its first query, and its own changes. An object has
versions, which grow in the order of commits because a writer locks it. A replica has the commits of
its primary in the same order, later.
"""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from odoo.addons.redis_session_ormcache.ormcache.generation import REGISTRY, WINDOW

_FIRST_XID = 100
_NEVER_TIDIED = 10  # rows of a signaling table


class ConflictError(Exception):
    """The object was changed since the snapshot was taken, or somebody else is changing it."""


class Moment(NamedTuple):
    """The database after so many commits.

    :param number: of commits
    :param committed: versions by object
    :param signalled: versions by container and object: those that were committed when the newest
        signal for the container was. A snapshot that sees this signal sees nothing older
    """

    number: int
    committed: Mapping[str, int]
    signalled: Mapping[tuple[str, str], int]

    def newer(self, other: "Moment | None") -> "Moment":
        return self if other is None or self.number > other.number else other

    def older(self, other: "Moment") -> "Moment":
        return self if self.number < other.number else other


class Snapshot(NamedTuple):
    """What a transaction sees: of the transactions below ``xmax`` those that are not ``hidden``."""

    xmax: int
    hidden: frozenset[int]

    def sees(self, xid: int) -> bool:
        return xid < self.xmax and xid not in self.hidden

    def __str__(self) -> str:
        xmin = min(self.hidden, default=self.xmax)
        return f"{xmin}:{self.xmax}:{','.join(map(str, sorted(self.hidden)))}"


class Database:
    """A primary and its replica.

    :param keys: names of signaling tables, ``registry`` first
    :param keys_of: per container, the keys that clear it
    :param names: of its objects
    :param sources: per container, the objects that its values come from
    :ivar moments: one after each commit, and that of the beginning
    :ivar replayed: how many commits the replica has
    :ivar valid: versions that were ever committed
    """

    def __init__(
        self,
        keys: Sequence[str],
        keys_of: Mapping[str, Sequence[str]],
        names: Sequence[str],
        sources: Mapping[str, Sequence[str]],
    ) -> None:
        self.keys, self.keys_of, self.sources = keys, keys_of, sources
        self.versions = itertools.count(1)
        committed = {name: next(self.versions) for name in names}
        self.rows = {name: [(_FIRST_XID, version)] for name, version in committed.items()}
        self.signals = {key: [(1, _FIRST_XID)] for key in keys}
        self._ids = {key: itertools.count(2) for key in keys}
        self._xids = itertools.count(_FIRST_XID + 1)
        self._log = [_FIRST_XID]
        self._running: set[int] = set()
        signalled = {(container, name): v for container in keys_of for name, v in committed.items()}
        self.moments = [Moment(1, committed, signalled)]
        self.replayed = 1
        self.valid = set(committed.values())

    @property
    def now(self) -> Moment:
        return self.moments[-1]

    def snapshot(self, commits: int) -> Snapshot:
        """That of a transaction which begins after so many commits."""
        seen = self._log[:commits]
        xmax = max(seen) + 1
        later = itertools.chain(self._running, self._log[commits:])
        return Snapshot(xmax, frozenset(xid for xid in later if xid < xmax))

    def is_locked(self, name: str, session: "Session") -> bool:
        """Whether another session is changing an object."""
        return self.rows[name][-1][0] in self._running - {session.xid}

    def begin(self) -> int:
        """A new transaction identifier."""
        xid = next(self._xids)
        self._running.add(xid)
        return xid

    def insert_signal(self, key: str, xid: int) -> None:
        self.signals[key].append((next(self._ids[key]), xid))

    def end(self, xid: int, versions: Mapping[str, int], signals: Iterable[str] | None) -> None:
        """A transaction is committed; or rolled back, if ``signals`` is None."""
        self._running.remove(xid)
        if signals is None:
            for rows in self.signals.values():
                rows[:] = [row for row in rows if row[1] != xid]
            return
        self._log.append(xid)
        self.valid.update(versions.values())
        committed = {**self.now.committed, **versions}
        cleared = [
            container
            for container, keys in self.keys_of.items()
            if any(key == REGISTRY or key in keys for key in signals)
        ]
        signalled = {(each, name): v for each in cleared for name, v in committed.items()}
        self.moments.append(Moment(len(self._log), committed, {**self.now.signalled, **signalled}))

    def tidy(self) -> None:
        """Delete old signals, as Odoo's autovacuum does."""
        for rows in self.signals.values():
            newest = max(number for number, _xid in rows)
            rows[:] = [row for row in rows if row[0] >= newest - _NEVER_TIDIED + 1]


class Session:
    """A connection to the primary, or to the replica.

    :ivar is_open: whether a transaction has begun; its first query takes the snapshot
    :ivar has_failed: whether it has to be rolled back
    :ivar snapshot: what it sees
    :ivar moment: when that was taken
    :ivar xid: its identifier, since it first changed something
    """

    def __init__(self, database: Database, *, is_replica: bool = False) -> None:
        self.database, self.is_replica = database, is_replica
        self._forget()

    def _forget(self) -> None:
        self.is_open = self.has_failed = False
        self.snapshot: Snapshot | None = None
        self.moment: Moment | None = None
        self.xid: int | None = None
        self._written: list[str] = []
        self._signals: set[str] = set()
        self._savepoints: dict[str, int] = {}

    def query(self) -> Snapshot:
        """Take the snapshot, unless there is one."""
        self.is_open = True
        if self.snapshot is None:
            database = self.database
            commits = database.replayed if self.is_replica else database.now.number
            self.moment = database.moments[commits - 1]
            self.snapshot = database.snapshot(commits)
        return self.snapshot

    def read(self, name: str) -> int:
        """An object's version."""
        snapshot = self.query()
        return next(
            version
            for xid, version in reversed(self.database.rows[name])
            if xid == self.xid or snapshot.sees(xid)
        )

    def write(self, name: str, version: int) -> None:
        """Give an object a version.

        :raises ConflictError: the transaction has to be rolled back, to a savepoint at least
        """
        assert not self.is_replica
        snapshot, rows = self.query(), self.database.rows[name]
        last = rows[-1][0]
        if last != self.xid and not snapshot.sees(last):
            self.has_failed = True
            raise ConflictError(name)
        rows.append((self._identify(), version))
        self._written.append(name)

    def signal(self, key: str) -> None:
        """Insert a row in a signaling table."""
        self.query()
        self.database.insert_signal(key, self._identify())
        self._signals.add(key)

    def _identify(self) -> int:
        if self.xid is None:
            self.xid = self.database.begin()
        return self.xid

    def signals(self) -> tuple[list[list[str]], str, str]:
        """What ``ormcache.generation.query`` answers: rows by key, the origin, the snapshot."""
        snapshot = self.query()
        arrays = []
        for key in self.database.keys:
            seen = [row for row in self.database.signals[key] if snapshot.sees(row[1])]
            newest = sorted(seen, reverse=True)[:WINDOW]
            # A logical replica writes them in transactions of its own.
            arrays.append(
                [f'({number},"day {number}",{xid + 9 * self.is_replica})' for number, xid in newest]
            )
        return arrays, "replica" if self.is_replica else "primary", str(snapshot)

    def states(self) -> dict[str, str]:
        """What ``ormcache.tables`` answers: per container, the state of its sources."""
        return {
            container: " ".join(str(self.read(name)) for name in names)
            for container, names in self.database.sources.items()
        }

    def savepoint(self, name: str) -> None:
        self.is_open = True
        self._savepoints[name] = len(self._written)

    def release(self, name: str) -> None:
        """Forget a savepoint, and those after it."""
        while self._savepoints.popitem()[0] != name:
            pass

    def roll_back_to(self, name: str) -> None:
        """Undo what was done since a savepoint, which stays."""
        length, self.has_failed = self._savepoints[name], False
        self._undo(length)
        self.release(name)
        self._savepoints[name] = length

    def _undo(self, length: int) -> None:
        while len(self._written) > length:
            del self.database.rows[self._written.pop()][-1]

    def commit(self) -> None:
        if self.xid is not None:
            versions = {name: self.database.rows[name][-1][1] for name in self._written}
            self.database.end(self.xid, versions, self._signals)
        self._forget()

    def rollback(self) -> None:
        self._undo(0)
        if self.xid is not None:
            self.database.end(self.xid, {}, None)
        self._forget()
