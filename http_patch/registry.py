"""``odoo.modules.registry.Registry``: which state of the database each cursor has seen.

* ``get_sequences`` is where core reads the signaling tables: it reads their rows instead of the
  newest ids only, in as much time, and keeps on the cursor what that snapshot saw. What a replica
  that lags behind sees is not news.
* ``check_signaling`` clears tier 1 of all that is older than what it sees. Core clears nothing for
  a signal of its own process, nor for one that was committed after another with a higher id.
* ``reset_changes`` makes a thread forget what it invalidated, because something failed. What it had
  committed before that is signalled; in core nobody is told.
* ``cursor`` makes those whose transactions are known from their first statement on.
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

from ..ormcache import SharedOrmcache
from ..ormcache.generation import REGISTRY
from . import generations, in_force
from .cursor import Connection, Invalidated, attach, attached
from .fingerprint import Fingerprint
from .shape import require_own, require_signature, require_source

_logger = logging.getLogger(__name__)

_SHARED, _SERVER = "_redis_shared", "_redis_server"  # attributes of registries

_make_shared: Callable[[str, Any], SharedOrmcache]
_refused = False


def check() -> None:
    """Refuse an Odoo whose registries signal in another way."""
    require_source("Registry.get_sequences", Registry.get_sequences, "b1fccde08511")
    require_signature("Registry.check_signaling", Registry.check_signaling, "self", "cr")
    require_signature("Registry.reset_changes", Registry.reset_changes, "self")
    require_signature("Registry.cursor", Registry.cursor, "self", "readonly")
    check_new()


def check_new() -> None:
    """Refuse an Odoo whose databases are loaded in another way."""
    require_own("odoo.modules.registry.Registry", Registry)
    require_signature(
        "Registry.new", Registry.new, "db_name", "update_module", "install_modules",
        "upgrade_modules", "reinit_modules", "new_db_demo", "models_to_check",
    )  # fmt: skip


def apply(make_shared: Callable[[str, Any], SharedOrmcache]) -> None:
    """Patch the methods.

    :param make_shared: the tiers for a database's name and its registry's caches
    """
    global _make_shared
    _make_shared = make_shared
    for name, patched in (
        ("get_sequences", _reading_rows(Registry.get_sequences)),
        ("check_signaling", _clearing_what_is_older(Registry.check_signaling)),
        ("reset_changes", _signalling_what_is_committed(Registry.reset_changes)),
    ):
        in_force.put(in_force.ORMCACHE, odoo_registry, f"Registry.{name}", patched)
    Registry.cursor = _attaching(Registry.cursor)
    Registry.new = classmethod(_opening(in_force.of_class(vars(Registry)["new"])))


def refuse(reason: str) -> None:
    """Share nothing any more in this process: what keeps it coherent is not in force.

    :param reason: is logged once
    """
    global _refused
    if not _refused:
        _logger.critical("%s", reason)
    _refused = True


def connection(registry: Any, cursor: Any) -> Connection | None:
    """The connection of a cursor whose values are shared; None where tier 1 is all there is, as
    without the addon: while modules are loaded or tests run.
    """
    if not may_share(registry, cursor):
        return None
    found = attach(shared_of(registry), registry, cursor)
    if found.shared.code is None:
        _open(found.shared, registry, cursor)
    return found


def may_share(registry: Any, cursor: Any) -> bool:
    """Whether lookups on a cursor go beyond tier 1."""
    return (
        type(cursor) is sql_db.Cursor
        and isinstance(registry, Registry)
        and registry.ready
        and not config["test_enable"]
        and not _refused
    )


def forget_hashes(registry: Any) -> None:
    """Fetch them from Redis again when they are looked into."""
    shared_of(registry).forget_hashes()


def shared_of(registry: Any) -> SharedOrmcache:
    """Both tiers of a registry, made if need be."""
    found: SharedOrmcache | None = vars(registry).get(_SHARED)
    if found is None:
        found = _make_shared(registry.db_name, registry._Registry__caches)
        setattr(registry, _SHARED, found)
    return found


def _open(shared: SharedOrmcache, registry: Any, cursor: Any) -> None:
    """Find out with which processes values are shared."""
    if shared.is_closed:
        return
    database = registry.db_name
    secret = generations.read_secret(cursor)
    if not secret:
        shared.is_closed = True
        _logger.warning("%s has no database.secret: its cache stays local", database)
        return
    remember = functools.partial(shared.remember, shared.vault(secret))
    code = Fingerprint(registry._init_modules, remember)
    cursor.execute("SELECT code FROM res_lang WHERE active")
    code.of_languages([language for (language,) in cursor.fetchall()])  # as they are now
    shared.code = code
    setattr(registry, _SERVER, generations.read_server(cursor))
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


def fingerprints() -> dict[str, Fingerprint]:
    """Of the code with which this process shares cached values, by database."""
    databases = Registry.registries.snapshot
    shared = {name: vars(registry).get(_SHARED) for name, registry in databases.items()}
    return {
        name: found.code
        for name, found in shared.items()
        if found and isinstance(found.code, Fingerprint)
    }


def servers() -> dict[str, str]:
    """The identity of the PostgreSQL server, by database."""
    found = {
        name: vars(registry).get(_SERVER) for name, registry in Registry.registries.snapshot.items()
    }
    return {name: server for name, server in found.items() if server}


# -- the patches -----------------------------------------------------------------------------------


def _attaching(original: Any) -> Any:
    @functools.wraps(original)
    def cursor(self: Any, /, readonly: bool = False) -> Any:
        made = original(self, readonly=readonly)
        if may_share(self, made):
            attach(shared_of(self), self, made)
        return made

    return cursor


def _reading_rows(original: Any) -> Any:
    @functools.wraps(original)
    def get_sequences(self: Any, cr: Any) -> tuple[int | None, dict[str, int | None]]:
        if type(cr) is not sql_db.Cursor or config["test_enable"]:
            found: tuple[int | None, dict[str, int | None]] = original(self, cr)
            return found
        shared = shared_of(self)
        seen = generations.read_generation(self, cr)
        transaction = attach(shared, self, cr).transaction
        transaction.checked(seen)
        if shared.local.state is None:  # the first time: tier 1 is empty
            transaction.learn(seen)
        if shared.local.is_past(seen):
            return self.registry_sequence, dict(self.cache_sequences)
        return seen.newest[REGISTRY], {key: seen.newest[key] for key in _CACHES_BY_KEY}

    return get_sequences


def _clearing_what_is_older(original: Any) -> Any:
    @functools.wraps(original)
    def check_signaling(self: Any, cr: Any = None) -> Any:
        if cr is None:
            with closing(self.cursor(readonly=True)) as cursor:
                return check_signaling(self, cursor)
        registry = original(self, cr)
        found = attached(cr)
        if found is None:  # a test's cursor
            return registry
        local = shared_of(registry).local
        if registry is not self:
            # Loading it took a while: it may have seen a later state of the tables than this one.
            seen = generations.read_generation(registry, cr)
            found = attach(shared_of(registry), registry, cr)
            found.transaction.checked(seen)
        else:
            seen = found.transaction.generation()
            state = local.state
            if not (state is None or local.is_past(seen) or seen.follows(state, REGISTRY)):
                self.registry_sequence = -1
                return check_signaling(self, cr)
        found.transaction.learn(seen, loaded=True)
        return registry

    return check_signaling


def _signalling_what_is_committed(original: Any) -> Any:
    @functools.wraps(original)
    def reset_changes(self: Any) -> None:
        invalidated = self.cache_invalidated
        if type(invalidated) is not Invalidated:
            original(self)
            return
        invalidated.is_forgotten = True
        try:
            original(self)
        finally:
            invalidated.is_forgotten = False
        if invalidated.committed:
            invalidated.signal(invalidated.committed)

    return reset_changes


def _opening(original: Any) -> Any:
    @functools.wraps(original)
    def new(cls: Any, db_name: str, **options: Any) -> Any:
        registry = original(cls, db_name, **options)
        if "base" in registry._init_modules and not config["test_enable"]:
            try:
                with registry.cursor() as cr:
                    _open(shared_of(registry), registry, cr)
            except psycopg2.Error as error:  # the next lookup tries again
                _logger.warning("%s: its cache is not shared yet: %s", db_name, error)
        return registry

    return new
