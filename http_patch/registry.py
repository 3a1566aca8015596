"""``odoo.modules.registry.Registry``: which state of the database each cursor has seen.

* ``get_sequences`` is where core reads the signaling tables: it reads their rows instead of the
  newest ids only, in as much time, and keeps on the cursor what that snapshot saw.
* ``check_signaling`` clears tier 1 of all that is older than what it sees. Core clears nothing for
  a signal of its own process, nor for one that was committed after another with a higher id.
* ``reset_changes`` makes a thread forget what it invalidated: what waits for a commit is dropped.
* ``new`` opens tier 2, once the modules are loaded: their files tell who may share.
"""

import functools
import logging
from collections.abc import Callable
from contextlib import closing
from typing import Any

import psycopg2
from odoo import sql_db
from odoo.modules import registry as odoo_registry
from odoo.modules.registry import Registry
from odoo.orm.registry import _CACHES_BY_KEY
from odoo.tools import config
from psycopg2.extensions import TRANSACTION_STATUS_IDLE, TRANSACTION_STATUS_INTRANS

from ..ormcache import Generation, SharedOrmcache, Transaction
from ..ormcache.generation import REGISTRY
from . import generations, in_force
from .fingerprint import Fingerprint
from .shape import require_own, require_signature, require_source

_logger = logging.getLogger(__name__)

# Attributes of ours: on registries...
_SHARED, _CHECKED = "_redis_shared", "_redis_checked"
_TRANSACTION = "_redis_transaction"  # ... and on cursors

_make_shared: Callable[[str], SharedOrmcache]
_refused = False


def check() -> None:
    """Refuse an Odoo whose registries signal in another way."""
    require_source("Registry.get_sequences", Registry.get_sequences, "b1fccde08511")
    require_signature("Registry.check_signaling", Registry.check_signaling, "self", "cr")
    require_signature("Registry.reset_changes", Registry.reset_changes, "self")
    check_new()


def check_new() -> None:
    """Refuse an Odoo whose databases are loaded in another way."""
    require_own("odoo.modules.registry.Registry", Registry)
    require_signature(
        "Registry.new", Registry.new, "db_name", "update_module", "install_modules",
        "upgrade_modules", "reinit_modules", "new_db_demo", "models_to_check",
    )  # fmt: skip


def apply(make_shared: Callable[[str], SharedOrmcache]) -> None:
    """Patch the methods.

    :param make_shared: tier 2 for a database's name
    """
    global _make_shared
    _make_shared = make_shared
    for name, patched in (
        ("get_sequences", _reading_rows(Registry.get_sequences)),
        ("check_signaling", _clearing_what_is_older(Registry.check_signaling)),
        ("reset_changes", _dropping_what_waits(Registry.reset_changes)),
    ):
        in_force.put(in_force.ORMCACHE, odoo_registry, f"Registry.{name}", patched)
    Registry.new = classmethod(_opening(in_force.of_class(vars(Registry)["new"])))


def refuse(reason: str) -> None:
    """Share nothing any more in this process: what keeps it coherent is not in force.

    :param reason: is logged once
    """
    global _refused
    if not _refused:
        _logger.critical("%s", reason)
    _refused = True


def usable(registry: Any, cursor: Any) -> SharedOrmcache | None:
    """Tier 2, if lookups on this cursor may use it: not while modules are loaded or tests run."""
    if not _may_share(registry, cursor):
        return None
    shared = _shared(registry)
    if shared.code is None:
        _open(shared, registry, cursor)
    return shared if shared.code else None


def _may_share(registry: Any, cursor: Any) -> bool:
    return (
        type(cursor) is sql_db.Cursor
        and isinstance(registry, Registry)
        and registry.ready
        and not config["test_enable"]
        and not _refused
    )


def has_invalidated(registry: Any) -> bool:
    """Whether this thread has invalidated something that it has not signalled yet.

    What it sees may never be committed: until then it neither reads from tier 2 nor publishes.
    """
    return bool(registry.cache_invalidated or registry.registry_invalidated)


def transaction(registry: Any, cursor: Any) -> Transaction:
    """What a cursor takes from tier 2 and gives to it; it learns of commits and rollbacks."""
    found: Transaction | None = vars(cursor).get(_TRANSACTION)
    if found is None:
        found = Transaction(_shared(registry).remote, functools.partial(wrote_nothing, cursor))
        setattr(cursor, _TRANSACTION, found)
    if found.registry is not registry:  # another one, when the check of the signals loaded it
        if found.registry is not None and found.fills:
            _shared(found.registry).unsettle(found)  # its tier 1 will not be cleared of them
        elif found.registry is not None:
            _shared(found.registry).ended(found)
        found.registry = registry
    _shared(registry).began(found)
    _hook(found, cursor)
    return found


def _hook(found: Transaction, cursor: Any) -> None:
    """Learn how the transaction ends. The data of a queue of callbacks are cleared with them."""
    queues = {
        cursor.postcommit: _committed,
        cursor.prerollback: _rolling_back,
        cursor.postrollback: _rolled_back,
    }
    missing = [queue for queue in queues if _TRANSACTION not in queue.data]
    if not missing:
        return
    # Some only: another callback failed after a commit. What became of the values is not known.
    found.undone()
    for queue in missing:
        queue.data[_TRANSACTION] = True
        queue.add(functools.partial(queues[queue], found, cursor))


def transaction_of(cursor: Any) -> Transaction | None:
    """The same, if there is any yet; a test's cursor has none."""
    if type(cursor) is not sql_db.Cursor:
        return None
    found: Transaction | None = vars(cursor).get(_TRANSACTION)
    return found


def put(registry: Any, cursor: Any, lru: Any, key: Any, value: Any) -> bool:
    """Put a value in tier 1; False: the cursor's transaction is known to be too old for that."""
    found = transaction_of(cursor)
    if found is None:
        lru[key] = value
        return True
    return _shared(registry).put(lru, key, value, found, registry)


def fills(registry: Any, cursor: Any) -> None:
    """Take note, before this thread puts a value in tier 1, if it may never be committed.

    It may have changed something and not invalidated it yet. To find out takes a query, which is
    saved where no other transaction could see the value.
    """
    if _may_share(registry, cursor):
        found, shared = transaction(registry, cursor), _shared(registry)
        if has_invalidated(registry):
            shared.unsettle(found)
        elif not shared.is_alone(found):
            if found.is_clean():
                shared.settle(found, undone=False)
            else:
                shared.unsettle(found)


def filled(registry: Any, cursor: Any, container: str, key: Any) -> None:
    """Take note that this thread put a value in tier 1 that it computed in this transaction."""
    if _may_share(registry, cursor):
        found = transaction(registry, cursor)
        found.filled(container, key, pending=has_pending_changes(cursor))
        for other in _shared(registry).unsettled(found):  # it may have been computed from theirs
            other.filled(container, key, pending=False)


def is_tier_1_current(registry: Any, generation: Generation, container: str) -> bool:
    """Whether tier 1 was cleared of all that is older than a generation.

    Values are computed from others, which are as old as the last check of the signals.
    """
    checked = next(reversed(_checked(registry).values()), None)
    return (
        checked is not None
        and checked.equals(generation, container)
        and not checked.has_changed_since(generation, container)
    )


def undo(registry: Any, cursor: Any) -> None:
    """After a rollback, if only to a savepoint: drop from tier 1 what may come of what is undone.

    Core does it where an exception ends the request, and not where somebody goes on; nor where the
    exception came after the change and before its invalidation.
    """
    found = transaction_of(cursor)
    if found is None or config["test_enable"]:
        return
    found.undone()
    _shared(registry).settle(found, undone=True)
    keys = _CACHES_BY_KEY if registry.registry_invalidated else registry.cache_invalidated
    invalidated = {name for key in keys for name in _CACHES_BY_KEY[key]}
    # Of templates all: a cursor that has compiled one would do so again, from what is left.
    invalidated |= {name for name, _key in found.fills if name == "templates"}
    for name in invalidated:
        registry._Registry__caches[name].clear()
    for name, key in found.fills:
        registry._Registry__caches[name].pop(key, None)
    found.fills = []


def forget_hashes(registry: Any) -> None:
    """Fetch them from Redis again when they are looked into."""
    _shared(registry).forget_hashes()


def has_pending_changes(cursor: Any) -> bool:
    """Whether the ORM has changes that are not written to the database yet."""
    orm = cursor.transaction
    return orm is not None and (any(orm.tocompute.values()) or any(orm.field_dirty.values()))


def wrote_nothing(cursor: Any) -> bool:
    """Whether a transaction is proven to have written nothing, for the price of a query."""
    if has_pending_changes(cursor):
        return False
    if cursor.readonly:
        return True
    with cursor._cnx.cursor() as own:  # the cursor's is gone when it is being closed
        own.execute("SELECT pg_current_xact_id_if_assigned() IS NULL")
        return bool(own.fetchone()[0])


def _committed(found: Transaction, cursor: Any) -> None:
    # Another callback may have begun something on this cursor.
    ended = cursor._cnx.get_transaction_status() == TRANSACTION_STATUS_IDLE
    found.committed(publish=ended and not has_invalidated(found.registry))
    _shared(found.registry).settle(found, undone=False)
    _shared(found.registry).ended(found)
    _leave_replica(found, cursor)


def _rolling_back(found: Transaction, cursor: Any) -> None:
    in_transaction = cursor._cnx.get_transaction_status() == TRANSACTION_STATUS_INTRANS
    try:
        found.rolling_back(may_ask=in_transaction)
    except psycopg2.Error:  # the connection is lost, and the rollback is still to be done
        found.rolling_back(may_ask=False)


def _rolled_back(found: Transaction, cursor: Any) -> None:
    undo(found.registry, cursor)
    found.rolled_back()
    _shared(found.registry).ended(found)
    _leave_replica(found, cursor)


def _leave_replica(found: Transaction, cursor: Any) -> None:
    # The next transaction may be on another replica, which is behind.
    if not cursor.closed and cursor.readonly:
        found.generation = None


def _shared(registry: Any) -> SharedOrmcache:
    found: SharedOrmcache | None = vars(registry).get(_SHARED)
    if found is None:
        found = _make_shared(registry.db_name)
        setattr(registry, _SHARED, found)
    return found


def _open(shared: SharedOrmcache, registry: Any, cursor: Any) -> None:
    """Find out with which processes values are shared."""
    if shared.is_closed:
        return
    database = registry.db_name
    cursor.execute("SELECT value FROM ir_config_parameter WHERE key = 'database.secret'")
    row = cursor.fetchone()
    if not (row and row[0]):
        shared.is_closed = True
        _logger.warning("%s has no database.secret: its cache stays local", database)
        return
    remember = functools.partial(shared.remember, shared.vault(row[0]))
    code = Fingerprint(registry._init_modules, remember)
    cursor.execute("SELECT code FROM res_lang WHERE active")
    code.of_languages([language for (language,) in cursor.fetchall()])  # as they are now
    shared.code = code
    if _told.get(database) != code.content:
        _told[database] = code.content
        _logger.info(
            "%s: cached values are shared with processes of fingerprint %s (%d modules, %d files)",
            database,
            code,
            len(code.modules),
            code.count,
        )
        _logger.debug("%s: the fingerprint %s is of\n%s", database, code, code.listing())


_told: dict[str, bytes] = {}  # the fingerprint in the log, by database


# -- the patches -----------------------------------------------------------------------------------


def _reading_rows(original: Any) -> Any:
    @functools.wraps(original)
    def get_sequences(self: Any, cr: Any) -> tuple[int | None, dict[str, int | None]]:
        if type(cr) is not sql_db.Cursor:
            found: tuple[int | None, dict[str, int | None]] = original(self, cr)
            return found
        generation = transaction(self, cr).generation = generations.read_generation(self, cr)
        _shared(self).learn(generation)
        if not _checked(self):  # the first time: tier 1 is empty
            _checked(self)[generation.is_replica] = generation
        return generation.newest[REGISTRY], {key: generation.newest[key] for key in _CACHES_BY_KEY}

    return get_sequences


def _clearing_what_is_older(original: Any) -> Any:
    @functools.wraps(original)
    def check_signaling(self: Any, cr: Any = None) -> Any:
        if cr is None:
            with closing(self.cursor(readonly=True)) as cursor:
                return check_signaling(self, cursor)
        before = _checked(self)
        registry = original(self, cr)
        found = transaction_of(cr)
        if found is None or found.generation is None:  # a test's cursor
            return registry
        if registry is not self:
            # Loading it took a while: it may have seen a later state of the tables than this one.
            found.generation = generations.read_generation(registry, cr)
        elif before:
            seen, latest_first = found.generation, list(reversed(before.values()))
            if not all(seen.follows(each, REGISTRY) for each in latest_first):
                self.registry_sequence = -1
                return check_signaling(self, cr)
            _clear_what_is_older(self, latest_first, seen)
        checked = _checked(registry)
        checked.pop(found.generation.is_replica, None)
        checked[found.generation.is_replica] = found.generation  # after clearing: others rely on it
        return registry

    return check_signaling


def _checked(registry: Any) -> dict[bool, Generation]:
    """What tier 1 was last cleared for: by a replica and by the primary, the latest one last."""
    found: dict[bool, Generation] = vars(registry).setdefault(_CHECKED, {})
    return found


def _clear_what_is_older(registry: Any, before: list[Generation], seen: Generation) -> None:
    """Between a change of this process and its signal, another of its cursors, which may see the
    state before, may have filled tier 1.

    :param before: what was checked so far, the latest first
    """
    for container, lru in registry._Registry__caches.items():
        if not seen.equals(before[0], container) or any(
            seen.has_changed_since(other, container) for other in before
        ):
            lru.clear()


def _dropping_what_waits(original: Any) -> Any:
    """Another cursor of the thread may have changed what it invalidated, and commit later."""

    @functools.wraps(original)
    def reset_changes(self: Any) -> None:
        if has_invalidated(self):
            _shared(self).drop_what_waits()
        original(self)

    return reset_changes


def _opening(original: Any) -> Any:
    @functools.wraps(original)
    def new(cls: Any, db_name: str, **options: Any) -> Any:
        registry = original(cls, db_name, **options)
        if "base" in registry._init_modules and not config["test_enable"]:
            try:
                with registry.cursor() as cr:
                    _open(_shared(registry), registry, cr)
            except psycopg2.Error as error:  # the next lookup tries again
                _logger.warning("%s: its cache is not shared yet: %s", db_name, error)
        return registry

    return new
