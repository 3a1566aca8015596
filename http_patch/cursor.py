"""Odoo's cursors and threads, as the shared cache asks and hears of them.

* Every statement of a cursor passes by the query hooks of its thread, as the profiler's does: it
  tells of savepoints, and of what changes something.
* The callbacks of a cursor tell how its transactions end.
* The set in which Odoo notes what a thread has invalidated (``Registry.cache_invalidated``) is one
  of ours: it tells the open transactions of the thread.
"""

import re
import threading
from collections.abc import Callable, Iterable
from typing import Any
from weakref import WeakSet

from odoo import sql_db
from odoo.orm.registry import _CACHES_BY_KEY
from odoo.sql_db import Cursor
from odoo.tools.misc import Callbacks
from psycopg2.extensions import TRANSACTION_STATUS_IDLE

from ..exceptions import ReplacedError
from ..ormcache import Generation, SharedOrmcache, Transaction
from ..ormcache.generation import REGISTRY
from . import generations, in_force
from .shape import replaced_by, require

_CONNECTION = "_redis_connection"  # an attribute of cursors, and a key in their callbacks' data
_BATCH = "_compile_batch_"  # where a cursor keeps the trees of templates, which compiling consumes
LOOKUPS = "_ormcache_lookups"  # where core keeps what a cursor looked up

_savepoint = re.compile(
    r'\s*(SAVEPOINT|ROLLBACK\s+TO|RELEASE)\s+(?:SAVEPOINT\s+)?"?([^"\s;]+)"?[\s;]*', re.IGNORECASE
).fullmatch
_reads = re.compile(r"\s*(SELECT|WITH)\b[^;]*;?\s*", re.IGNORECASE).fullmatch
_writes = re.compile(r"\b(INSERT|UPDATE|DELETE|MERGE)\b", re.IGNORECASE).search


def check() -> None:
    """Refuse an Odoo whose cursors are used in another way."""
    has_hooks = _mentions(Cursor.execute, "query_hooks")
    if not has_hooks and (other := replaced_by(Cursor.execute)):
        raise ReplacedError(f"Cursor.execute was replaced by {other}")
    require(has_hooks, "a thread has hooks for queries")
    require(_mentions(Cursor.rollback, "_cnx"), "a cursor keeps its connection as _cnx")
    require(Callbacks.__slots__ == ["_funcs", "data"], "callbacks are in a queue of functions")


def apply() -> None:
    """Rely on the hooks for queries."""
    in_force.rely_on(in_force.ORMCACHE, sql_db, "Cursor.execute")


def _mentions(function: Any, name: str) -> bool:
    """Whether the code of a function, or of one that it wraps, has a name or a text."""
    codes = (getattr(each, "__code__", None) for each in in_force.wrapped_by(function))
    return any(name in (*code.co_names, *code.co_consts) for code in codes if code)


def only_reads(statement: str) -> bool:
    """Whether a statement changes nothing.

    >>> only_reads("SELECT id FROM res_partner"), only_reads("WITH a AS (SELECT 1) SELECT 2")
    (True, True)
    >>> only_reads("SELECT 1; DROP TABLE a"), only_reads("WITH a AS (DELETE FROM b) SELECT 1")
    (False, False)
    >>> only_reads("INSERT INTO a SELECT 1")
    False
    """
    found = _reads(statement)
    return found is not None and (found[1][0] in "Ss" or not _writes(statement))


class Connection:
    """A cursor that reads with one registry: ``ormcache.transaction.Connection``.

    :ivar transaction: what it computes
    :ivar clears: how often templates had been cleared when the cursor last missed one
    """

    def __init__(self, shared: SharedOrmcache, registry: Any, cursor: Any) -> None:
        self.registry, self.cursor, self.shared = registry, cursor, shared
        self.clears: int | None = None
        self.transaction: Transaction = shared.begin(self)
        invalidated = self._invalidated
        invalidated.transactions.add(self.transaction)
        if invalidated and not self._is_idle():  # this cursor may have written that
            self.transaction.invalidate(_containers(invalidated))

    @property
    def _invalidated(self) -> "Invalidated":
        """By the thread that asks."""
        return Invalidated.of_thread(self.registry, self.shared)

    # -- what the cache asks

    def read_generation(self) -> Generation:
        return generations.read_generation(self.registry, self.cursor)

    def learnt(self, seen: Generation) -> None:
        sequences = {key: seen.newest[key] for key in _CACHES_BY_KEY}
        self.registry.cache_sequences.update(sequences)

    def wrote_nothing(self) -> bool:
        return not has_pending_changes(self.cursor) and generations.wrote_nothing(self.cursor)

    def has_pending_changes(self) -> bool:
        return has_pending_changes(self.cursor)

    def is_current(self) -> bool:
        return not self.cursor.readonly and self._is_idle()

    def _is_idle(self) -> bool:
        cursor = self.cursor
        return cursor._cnx.get_transaction_status() == TRANSACTION_STATUS_IDLE  # type: ignore[no-any-return]

    def look_around(self) -> None:
        self._invalidated.look_at_registry()

    def lost(self, containers: set[str]) -> None:
        if "templates" in containers:
            self.forget_batch()

    def note_commit(self, number: int) -> None:
        self._invalidated.note_commit(number)

    def signal(self, keys: Iterable[str]) -> None:
        self._invalidated.signal(keys)

    # -- what it tells

    def forget_batch(self) -> None:
        """Have the trees of templates made again: a tree is consumed when it is compiled."""
        self.cursor.cache.pop(_BATCH, None)

    def watch(self) -> None:
        """Hear of what this thread does with the cursor, and how its transaction ends."""
        hooks = vars(threading.current_thread()).setdefault("query_hooks", [])
        if _ran not in hooks:
            hooks.append(_ran)
        self._hear_of_end()

    def ran(self, query: Any) -> None:
        """A statement was executed."""
        self._hear_of_end()
        if not isinstance(query, str):
            query = (self.cursor._obj.query or b"").decode(errors="replace")
        if only_reads(query):
            return
        if found := _savepoint(query):
            kind, name = found[1].upper(), found[2]
            if kind == "SAVEPOINT":
                self.transaction.savepoint_begun(name)
            elif kind == "RELEASE":
                self.transaction.savepoint_released(name)
            else:
                self.transaction.savepoint_rolled_back(name)
        else:
            self.transaction.changed()

    def _hear_of_end(self) -> None:
        """Be called at each end. A queue's data are cleared when its callbacks are called."""
        cursor = self.cursor
        if (
            cursor.postcommit.data.get(_CONNECTION)
            is cursor.prerollback.data.get(_CONNECTION)
            is cursor.postrollback.data.get(_CONNECTION)
            is self
        ):
            return
        self._be_first(cursor.postcommit, self._committed)
        self._be_first(cursor.prerollback, self._rolling_back)
        self._be_first(cursor.postrollback, self._rolled_back)

    def _be_first(self, queue: Callbacks, callback: Callable[[], None]) -> None:
        """Call something before all other callbacks, which may fail or use the cursor."""
        if queue.data.get(_CONNECTION) is not self:
            queue.data[_CONNECTION] = self
            queue._funcs.appendleft(callback)

    def _committed(self) -> None:
        self.cursor.postcommit.data.pop(_CONNECTION, None)  # Odoo leaves it if a callback fails
        self.transaction.committed(is_over=self._is_idle())

    def _rolling_back(self) -> None:
        self.transaction.rolling_back()

    def _rolled_back(self) -> None:
        self.transaction.rolled_back()
        # A commit that comes now ends a transaction that nothing was executed in.
        self._be_first(self.cursor.postcommit, self._committed)
        if "_obj" not in vars(self.cursor):  # it is being closed
            self._invalidated.transactions.discard(self.transaction)


def attached(cursor: Any) -> Connection | None:
    """The connection of a cursor, if there is one yet; a test's cursor has none."""
    if type(cursor) is not sql_db.Cursor:
        return None
    found: Connection | None = vars(cursor).get(_CONNECTION)
    return found


def attach(shared: SharedOrmcache, registry: Any, cursor: Any) -> Connection:
    """The same, made if need be: another one when the check of the signals loaded the registry."""
    found: Connection | None = vars(cursor).get(_CONNECTION)
    if found is None or found.registry is not registry:
        before, found = found, Connection(shared, registry, cursor)
        if before:
            found.transaction.take_over(before.transaction, _keys)
        setattr(cursor, _CONNECTION, found)
        if LOOKUPS in cursor.cache:
            cursor.cache[LOOKUPS].transaction = found.transaction
    found.watch()
    return found


def _ran(cursor: Any, query: Any, _params: Any, _start: float, _delay: float) -> None:
    connection = vars(cursor).get(_CONNECTION)
    if connection is not None:
        connection.ran(query)


class Invalidated(set[str]):
    """Keys that a thread has invalidated and not signalled: ``Registry.cache_invalidated``.

    :ivar transactions: of the thread's open cursors
    :ivar committed: keys that a commit of this thread made valid; they are to be signalled
    :ivar is_forgotten: whether the others will not be, because something failed
    """

    def __init__(self, registry: Any, shared: SharedOrmcache, known: Iterable[str]) -> None:
        super().__init__(known)
        self.transactions: WeakSet[Transaction] = WeakSet()
        self.committed: set[str] = set()
        self.is_forgotten = False
        self._number = 0  # of its last commit
        self._registry, self._local = registry, shared.local
        self._is_reloading = False  # whether it has noticed that the registry is invalidated

    @classmethod
    def of_thread(cls, registry: Any, shared: SharedOrmcache) -> "Invalidated":
        """This thread's, made if need be."""
        found = registry.cache_invalidated
        if type(found) is not cls:
            found = registry._invalidation_flags.cache = cls(registry, shared, found)
        return found

    def add(self, key: str) -> None:
        """A cache was cleared, or should have been."""
        set.add(self, key)
        containers = _containers({key})
        self._local.forget(containers)
        for transaction in list(self.transactions):
            transaction.invalidate(containers)

    def look_at_registry(self) -> None:
        """Its flag is an attribute, which nobody tells of."""
        is_invalidated = self._registry.registry_invalidated
        if is_invalidated and not self._is_reloading:
            for transaction in list(self.transactions):
                transaction.invalidate(_containers({REGISTRY}))
        self._is_reloading = is_invalidated

    def note_commit(self, number: int) -> None:
        """A cursor of the thread was committed that had invalidated something."""
        self._number = number
        self.committed.update(self)
        if self._registry.registry_invalidated:
            self.committed.add(REGISTRY)

    def signal(self, keys: Iterable[str]) -> None:
        """Signal what is committed; no open transaction has invalidated it."""
        for key in keys:
            if key == REGISTRY:
                self._registry.registry_invalidated = self._is_reloading = True
            else:
                set.add(self, key)
        self._registry.signal_changes()

    def clear(self) -> None:
        """All was signalled, or is forgotten because something failed."""
        keys = {*self, REGISTRY} if self._is_reloading else set(self)
        self._is_reloading = False
        for transaction in list(self.transactions):
            transaction.signalled(keys)
        if not self.is_forgotten:
            self._local.signalled(_containers(keys), self._number)
            self.committed = set()
        set.clear(self)


def _containers(keys: Iterable[str]) -> set[str]:
    """The containers that keys clear: all, if the registry is one of them."""
    keys = set(keys)
    groups = _CACHES_BY_KEY.values() if REGISTRY in keys else map(_CACHES_BY_KEY.get, keys)
    return {name for group in groups for name in group or ()}


def _keys(containers: set[str]) -> list[str]:
    """The keys that clear nothing but these containers."""
    return [key for key, group in _CACHES_BY_KEY.items() if containers.issuperset(group)]


def has_pending_changes(cursor: Any) -> bool:
    """Whether the ORM has changes that are not written to the database yet."""
    orm = cursor.transaction
    return orm is not None and (any(orm.tocompute.values()) or any(orm.field_dirty.values()))
