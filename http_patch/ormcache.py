"""``odoo.tools.cache.ormcache.lookup``: a value that tier 1 has not is looked for in tier 2.

All decorated methods call it through their ``ormcache``, so one patch reaches them all. A
transaction's own values come first; where it has none, a hit in tier 1 is core's to the letter.
"""

import contextlib
import time
from collections.abc import Callable, Collection, Iterator
from typing import Any

import psycopg2
from odoo.http import _request_stack
from odoo.tools import cache as odoo_cache
from odoo.tools.cache import _COUNTERS, _logger, ormcache, ormcache_counter

from ..codec.value import Cost
from ..ormcache import Generation, SharedOrmcache, tables
from ..ormcache.layers import Computed
from ..ormcache.originals import digest
from ..ormcache.policy import Method
from . import generations, in_force, verification
from . import registry as registry_patch
from .cached_values import DOMAIN, PAGE, XMLID, depends_on_listed_tables, page_surroundings
from .cursor import LOOKUPS, attach
from .shape import require_own, require_source


def check() -> None:
    """Refuse an Odoo whose lookup is another one."""
    require_own("odoo.tools.cache.ormcache", ormcache)
    require_source("ormcache.lookup", ormcache.lookup, "2b3d51fae67e")


def apply() -> None:
    """Patch the method."""
    in_force.put(in_force.ORMCACHE, odoo_cache, "ormcache.lookup", lookup)
    in_force.put(in_force.ORMCACHE, odoo_cache, "ormcache.add_value", add_value)


# What the callers of ``IrUiView._get_cached_template_info`` hand in: the view; False if there is
# none, whose value lacks the error that another one for the same key has in the end.
_GIVEN = "_view"
_TABLES = "_redis_tables"  # an attribute of registries: tables by cached method
_computing: dict[Any, Callable[..., Any]] = {}  # per cached function, what is called instead


def compute_by(cache: Any, function: Callable[..., Any]) -> None:
    """Compute the values of a method in another way when tier 1 has not got them.

    :param cache: the method's ``ormcache``
    """
    _computing[cache.method] = function


def lookup(self: Any, *args: Any, **kwargs: Any) -> Any:
    """``ormcache.lookup`` with two tiers, and before them what the transaction has of its own."""
    model = args[0]
    d = model.pool._Registry__caches[self.cache_name]
    key = self.key(*args, **kwargs)
    counter = _COUNTERS[model.pool.db_name, self.method]

    try:
        tx_lookups = model.env.cr.cache[LOOKUPS]
        own = tx_lookups.transaction.view
    except (KeyError, AttributeError):
        tx_lookups = _begin(model.pool, model.env.cr)
        own = tx_lookups.transaction.view
    # tx: is it the first call in the transation for that key
    tx_first_lookup = key not in tx_lookups
    if tx_first_lookup:
        counter.cache_name = self.cache_name
        tx_lookups.add(key)

    try:
        if own is None or (key not in own and self.cache_name not in own.invalidated):
            r = d[key]
        else:
            r = own[key].value
        counter.hit += 1
        counter.tx_hit += tx_first_lookup
        return r
    except KeyError:
        counter.miss += 1
        counter.tx_miss += tx_first_lookup
    except TypeError:
        _logger.warning("cache lookup error on %r", key, exc_info=True)
        counter.err += 1
        counter.tx_err += tx_first_lookup
        return self.method(*args, **kwargs)
    connection = registry_patch.connection(model.pool, model.env.cr)
    call = _Call(self, key, connection, counter, args, kwargs)
    if connection is None:
        value, _cost = call.compute_only()
        d[key] = value
        return value
    return connection.shared.look_up(connection.transaction, call)


def add_value(self: Any, *args: Any, cache_value: Any = None, **kwargs: Any) -> None:
    """``ormcache.add_value``: a value that a transaction has is its own until the commit."""
    model = args[0]
    key = self.key(*args, **kwargs)
    connection = registry_patch.connection(model.pool, model.env.cr)
    if connection is None:
        model.pool._Registry__caches[self.cache_name][key] = cache_value
    else:
        connection.transaction.generation()
        computed = Computed(cache_value, digest(cache_value))
        connection.transaction.keep(self.cache_name, key, computed, 0.0)


class _NoTransaction:
    """Of a cursor that has nothing of its own."""

    view = None


class _Lookups(set[Any]):
    """Keys that a cursor looked up, as core keeps them."""

    __slots__ = ("transaction",)

    def __init__(self) -> None:
        super().__init__()
        self.transaction: Any = _NoTransaction


def _begin(registry: Any, cursor: Any) -> _Lookups:
    """For a cursor's first lookup."""
    lookups = cursor.cache[LOOKUPS] = _Lookups()
    if registry_patch.may_share(registry, cursor):
        found = attach(registry_patch.shared_of(registry), registry, cursor)
        lookups.transaction = found.transaction
    return lookups


class _Call:
    """A call of a cached method that tier 1 has no value for: ``ormcache.shared.Call``."""

    def __init__(
        self, cache: Any, key: Any, connection: Any, counter: Any, args: Any, kwargs: Any
    ) -> None:
        self.key, self.container, self.model = key, cache.cache_name, args[0]
        self._cache, self._connection, self._counter = cache, connection, counter
        self._args, self._kwargs = args, kwargs
        given = kwargs.get(_GIVEN)
        self.may_load, self.may_share = given is None, given is not False
        if connection is not None:
            self.method: Method = connection.shared.method(cache)

    def surroundings(self, generation: Generation) -> tuple[Any, ...] | None:
        found = _surroundings(self.method, self.model, self.key)
        if found is None:
            return None
        state: str | None = ""
        if table := _own_table(self._cache, self.model):
            state = generations.own_state(
                self.model.pool, generation, self.model.env.cr, (self.container, table)
            )
        if state is None:
            return None
        shared = self._connection.shared
        return (
            *found,
            state,
            _translations(shared, self.method, self.model, self._args, self._kwargs),
        )

    def compute(self) -> tuple[Any, Cost, Collection[Any] | None]:
        if self.container == "templates":
            # Compiling consumes a tree that the cursor keeps; core has it made again when the
            # cache was cleared, and another thread has not looked a template up since.
            clears = self._connection.shared.local.clears[self.container]
            if self._connection.clears not in (None, clears):
                self._connection.forget_batch()
            self._connection.clears = clears
        cursor = self.model.env.cr
        noted, queries = _Noted(cursor), cursor.sql_log_count
        with noted:
            value, seconds = self.compute_only()
        # Where queries are logged, the count begins anew at a commit.
        cost = Cost(seconds, max(cursor.sql_log_count - queries, 0))
        return value, cost, noted.keys if noted.complete else None

    def compute_only(self) -> tuple[Any, float]:
        """The value; seconds that it took."""
        start = time.monotonic()
        method = _computing.get(self._cache.method, self._cache.method)
        value = method(*self._args, **self._kwargs)
        cost = time.monotonic() - start
        self._counter.gen_time += cost
        return value, cost

    def is_of_known_tables(self, generation: Generation) -> bool:
        return self.method.name != DOMAIN or depends_on_listed_tables(
            generation.rules, *self._args, **self._kwargs
        )

    @contextlib.contextmanager
    def again(self, generation: Generation) -> Iterator["_Again | None"]:
        registry, env = self.model.pool, self.model.env
        with verification.transaction(registry, generation, self.container) as connection:
            if connection is None:
                yield None
                return
            _begin(registry, connection.cursor)
            own = env(cr=connection.cursor)
            default = env.transaction.default_env
            own.transaction.default_env = default(cr=connection.cursor) if default else own
            model = self.model.with_env(own)
            call = _Call(
                self._cache,
                self.key,
                connection,
                ormcache_counter(),
                (model, *self._args[1:]),
                self._kwargs,
            )
            yield _Again(call, connection.transaction)

    def unless_explained(self, generation: Generation, act: Callable[[], None]) -> None:
        verification.unless_explained(self.model.pool, generation, self.container, act)


class _Again:
    """``ormcache.shared.Again``."""

    def __init__(self, call: _Call, transaction: Any) -> None:
        self._call, self.transaction = call, transaction

    def compute(self) -> tuple[Any, Collection[Any] | None]:
        try:
            value, _cost, keys = self._call.compute()
        except psycopg2.Error:
            raise
        except Exception as error:
            return error, ()
        return value, keys


def _surroundings(method: Method, model: Any, key: Any) -> tuple[Any, ...] | None:
    """What values may depend on beyond their keys; None: on more than can be said.

    In core, what a cron job or a shell computes never reaches a visitor: it stays in its process.
    So it is with this as a part of the key. In detail it is for rules, which see the current
    website; templates, whose links are made for it; and what shows more in a debug session.
    """
    if method.name == XMLID and key[2].partition(".")[0] not in model.pool._init_modules:
        return None  # imports and exports come and go, so their table tells nothing of these
    request = _request_stack.top
    if request is None or not method.of_request:
        return (request is not None,)
    if method.name == PAGE:
        return page_surroundings(request, model)
    website = getattr(request, "website", None)
    return (
        True,
        bool(getattr(request, "is_frontend", None)),
        website.id if website else None,
        bool(getattr(getattr(request, "session", None), "debug", "")),
    )


def _own_table(cache: Any, model: Any) -> str:
    """The table of the model that defines a method, unless its state is in the generation.

    Of a method that a mixin defines, the table of the model; of one that all models have, none.
    """
    known = vars(model.pool).setdefault(_TABLES, {})
    found: str | None = known.get((cache, model._name))
    if found is None:
        attribute = cache.method.__name__
        name = next(
            (
                getattr(base, "_name", None)
                for base in type(model).__mro__
                if getattr(vars(base).get(attribute), "__cache__", None) is cache
            ),
            model._name,
        )
        definer = model.env.get(name)
        if definer is None or definer._abstract:
            definer = model
        found = "" if name == "base" or definer._abstract else definer._table
        if tables.covers(cache.cache_name, found):
            found = ""
        known[cache, model._name] = found
    return found


def _translations(
    shared: SharedOrmcache, method: Method, model: Any, args: Any, kwargs: Any
) -> bytes:
    """What the terms in the code are in the languages that a value may be computed in."""
    languages = [model.env.context.get("lang")]
    if method.language is not None:
        given = args[method.language : method.language + 1]
        languages.append(given[0] if given else kwargs.get("lang"))
    return shared.code.of_languages(languages) if shared.code else b""


class _Noted:
    """Stands for what core keeps of a cursor's lookups while a value is computed, and notes them.

    Not those of the values that are computed meanwhile, which have one of their own.

    :ivar keys: of what was looked up
    :ivar complete: whether that is all; after a rollback the cursor keeps nothing of before
    """

    def __init__(self, cursor: Any) -> None:
        self._cursor = cursor
        self._outer = cursor.cache[LOOKUPS]
        self._known: _Lookups = getattr(self._outer, "_known", self._outer)
        self.keys: set[Any] = set()
        self.complete = False

    def __enter__(self) -> "_Noted":
        self._cursor.cache[LOOKUPS] = self
        return self

    def __exit__(self, raised: object, *_rest: object) -> None:
        self.complete = self._cursor.cache.get(LOOKUPS) is self
        if self.complete:
            self._cursor.cache[LOOKUPS] = self._outer
        if raised and isinstance(self._outer, _Noted):  # who looked that up may make do without
            self._outer.keys |= self.keys

    @property
    def transaction(self) -> Any:
        return self._known.transaction

    @transaction.setter
    def transaction(self, transaction: Any) -> None:
        self._known.transaction = transaction

    def __contains__(self, key: Any) -> bool:
        self.keys.add(key)
        return key in self._known

    def add(self, key: Any) -> None:
        """As of a set."""
        self._known.add(key)
