"""``odoo.tools.cache.ormcache.lookup``: a value that tier 1 has not is looked for in tier 2.

All decorated methods call it through their ``ormcache``, so one patch reaches them all. What it
does when tier 1 has the value is core's, to the letter.
"""

import time
from collections.abc import Callable
from typing import Any

from odoo.http import _request_stack
from odoo.tools import cache as odoo_cache
from odoo.tools.cache import _COUNTERS, _logger, ormcache

from ..ormcache import SharedOrmcache, tables
from ..ormcache.originals import EDITED, Digest, digest
from ..ormcache.policy import Method
from ..ormcache.shared import Place
from . import generations, in_force
from . import registry as registry_patch
from .cached_values import DOMAIN, PAGE, XMLID, depends_on_listed_tables, page_surroundings
from .shape import require_own, require_source


def check() -> None:
    """Refuse an Odoo whose lookup is another one."""
    require_own("odoo.tools.cache.ormcache", ormcache)
    require_source("ormcache.lookup", ormcache.lookup, "2b3d51fae67e")


def apply() -> None:
    """Patch the method."""
    in_force.put(in_force.ORMCACHE, odoo_cache, "ormcache.lookup", lookup)


MOST_OWN = 8192  # values that one transaction keeps for itself
_LOOKUPS = "_ormcache_lookups"  # where core keeps what a cursor looked up
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
    """``ormcache.lookup`` with two tiers."""
    model = args[0]
    d = model.pool._Registry__caches[self.cache_name]
    key = self.key(*args, **kwargs)
    counter = _COUNTERS[model.pool.db_name, self.method]

    tx_lookups = model.env.cr.cache.setdefault("_ormcache_lookups", set())
    # tx: is it the first call in the transation for that key
    tx_first_lookup = key not in tx_lookups
    if tx_first_lookup:
        counter.cache_name = self.cache_name
        tx_lookups.add(key)

    try:
        r = d[key]
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
    return _missed(self, d, key, counter, *args, **kwargs)


def _missed(cache: Any, lru: Any, key: Any, counter: Any, /, *args: Any, **kwargs: Any) -> Any:
    """The value from tier 2, or computed; tier 1 has it then, unless it is too old for that."""
    model = args[0]
    registry, cursor = model.pool, model.env.cr
    shared = registry_patch.usable(registry, cursor)
    if shared is None:
        value, _cost = _compute(cache, counter, *args, **kwargs)
        registry_patch.fills(registry, cursor)
        lru[key] = value
        registry_patch.filled(registry, cursor, cache.cache_name, key)
        return value

    method = shared.method(cache)
    transaction = registry_patch.transaction(registry, cursor)
    doubts = shared.doubts(transaction)
    place = None
    generation = shared.current_generation(
        transaction, registry, lambda: generations.read_generation(registry, cursor)
    )
    if generation is None:
        return _own(transaction, cache, key, counter, *args, **kwargs)
    given = kwargs.get(_GIVEN)
    if not (method.local or given is False or registry_patch.has_invalidated(registry)):
        surroundings = _surroundings(method, model, key)
        own_state: str | None = ""
        if table := _own_table(cache, model):
            own_state = generations.own_state(generation, cursor, cache.cache_name, table)
        if surroundings is not None and own_state is not None:
            surroundings += (own_state, _translations(shared, method, model, args, kwargs))
            place = shared.place(transaction, generation, cache, method, key, surroundings)

    found, original = None, EDITED
    if place is not None and given is None and (found := shared.load(place, model)):
        value, original = found[0], digest(found[0])
    else:
        value, original = _compute_and_share(shared, place, cache, counter, *args, **kwargs)
    if found is None:
        registry_patch.fills(registry, cursor)
    if not registry_patch.put(registry, cursor, lru, key, value):
        cursor.cache.pop("_compile_batch_", None)
        return value
    shared.originals.keep(lru, key, original)
    if found is None:
        registry_patch.filled(registry, cursor, cache.cache_name, key)
    # What another thread undid is cleared, before or now. And all of it: without one template, a
    # cursor that has compiled it would do so again, from what is left.
    if shared.doubts(transaction)[1] != doubts[1]:
        lru.clear()
    return value


def _own(transaction: Any, cache: Any, key: Any, counter: Any, /, *args: Any, **kwargs: Any) -> Any:
    """The value for a transaction that is older than what the process knows: for itself only.

    A transaction that has invalidated something computes each value anew.
    """
    registry, cursor = args[0].pool, args[0].env.cr
    own, place = transaction.own, (cache.cache_name, key)
    if registry_patch.has_invalidated(registry):
        own.clear()
    elif place in own:
        counter.miss -= 1
        counter.hit += 1
        return own[place]
    value, _cost = _compute(cache, counter, *args, **kwargs)
    # Compiling a template consumes its tree, which the cursor keeps: core compiles once.
    cursor.cache.pop("_compile_batch_", None)
    # The transaction may have ended meanwhile, or invalidated something.
    if transaction.own is own and not registry_patch.has_invalidated(registry):
        if len(own) >= MOST_OWN:
            own.clear()
        own[place] = value
    return value


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
        name = next(
            (
                getattr(base, "_name", None)
                for base in type(model).__mro__
                for method in list(vars(base).values())
                if getattr(method, "__cache__", None) is cache
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


def _compute(cache: Any, counter: Any, /, *args: Any, **kwargs: Any) -> tuple[Any, float]:
    start = time.monotonic()
    value = _computing.get(cache.method, cache.method)(*args, **kwargs)
    cost = time.monotonic() - start
    counter.gen_time += cost
    return value, cost


class _Lookups:
    """Stands for what core keeps of a cursor's lookups while a value is computed, and notes them.

    Not those of the values that are computed meanwhile, which have one of their own.

    :ivar keys: of what was looked up
    :ivar complete: whether that is all; after a rollback the cursor keeps nothing of before
    """

    def __init__(self, cursor: Any) -> None:
        self._cursor = cursor
        self._outer = cursor.cache.get(_LOOKUPS, set())
        is_nested = isinstance(self._outer, _Lookups)
        self._known: set[Any] = self._outer._known if is_nested else self._outer
        self.keys: set[Any] = set()
        self.complete = False

    def __enter__(self) -> "_Lookups":
        self._cursor.cache[_LOOKUPS] = self
        return self

    def __exit__(self, raised: object, *_rest: object) -> None:
        self.complete = self._cursor.cache.get(_LOOKUPS) is self
        if self.complete:
            self._cursor.cache[_LOOKUPS] = self._outer
        if raised and isinstance(self._outer, _Lookups):  # who looked that up may make do without
            self._outer.keys |= self.keys

    def __contains__(self, key: Any) -> bool:
        self.keys.add(key)
        return key in self._known

    def add(self, key: Any) -> None:
        """As of a set."""
        self._known.add(key)


def _compute_and_share(
    shared: SharedOrmcache, place: Place | None, cache: Any, counter: Any, /,
    *args: Any, **kwargs: Any,
) -> tuple[Any, Digest]:  # fmt: skip
    """The value, and what tells it from what its callers may make of it."""
    registry, cursor = args[0].pool, args[0].env.cr
    transaction, container = registry_patch.transaction(registry, cursor), cache.cache_name
    before = transaction.epoch, *shared.doubts(transaction)
    current = place is not None and registry_patch.is_tier_1_current(
        registry, place.generation, container
    )
    lookups = _Lookups(cursor)
    try:
        with lookups:
            value, cost = _compute(cache, counter, *args, **kwargs)
    except BaseException:
        if place is not None:
            shared.give_up(place)
        raise
    edited = not lookups.complete or shared.originals.any_edited(lookups.keys)
    original = EDITED if edited else digest(value)
    if place is None:
        return value, original
    registry_patch.transaction(registry, cursor)  # it may have ended one, and begun another
    if registry_patch.has_pending_changes(cursor):
        transaction.wrote = True
    unsettled = shared.doubts(transaction)[0]
    after = transaction.epoch, *shared.doubts(transaction)
    valid = current and before == after and not unsettled and not edited
    publish = valid and not (registry_patch.has_invalidated(registry) or shared.remote.is_away)
    if publish and place.method.name == DOMAIN:
        publish = depends_on_listed_tables(*args, **kwargs)
    shared.store(place, value, cost, publish=publish)
    return value, original
