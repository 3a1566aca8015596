"""Which generation a cursor belongs to: what its snapshot sees of the signaling tables.

A process *pins* a generation when it first sees its rows, with the state that the tables of cached
values have at that moment (``ormcache/tables.py``). It goes by that state as long as the rows are
the same, because tier 1 may hold values as old. A new row, a fork, and now and then a look beside
the requests have it read the tables again.
"""

import contextlib
import itertools
import logging
import os
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import psycopg2
from odoo.orm.registry import _CACHES_BY_KEY
from odoo.tools import config

from ..ormcache import Generation, tables
from ..ormcache.generation import REGISTRY, is_earlier, query
from ..ormcache.shared import keys_of_containers

_logger = logging.getLogger(__name__)

KEYS = REGISTRY, *_CACHES_BY_KEY
KEYS_OF = keys_of_containers(_CACHES_BY_KEY)

_PINS = "_redis_pins"  # an attribute of registries
_PARAMETERS = "ir_config_parameter"
_VERIFY_EVERY = 60.0  # seconds; in a process that serves nothing less often
_LOCK_TIMEOUT = 100  # milliseconds: an upgrade may hold a table's lock for minutes

_QUERY = query(KEYS)
_TABLES = (
    "SELECT relname FROM pg_class WHERE relname = ANY(%s) AND relkind IN ('r', 'p')"
    " AND relnamespace = current_schema()::regnamespace"
)


def read_generation(registry: Any, cursor: Any) -> Generation:
    """What the cursor's own snapshot sees, for the price of a query.

    Tier 1 is not cleared for it, so it does not make other transactions outdated.
    """
    cursor.execute(_QUERY)
    row = cursor.fetchone()
    assert row is not None, "No result when reading signaling sequences"
    *arrays, origin, snapshot = row
    pins = pins_of(registry)
    pin = pins.get((origin, cursor.readonly))
    if pin and pin.holds_for(arrays, snapshot):
        _verify_now_and_then(registry, pin)
        return pin.generation
    generation = Generation.from_rows(
        KEYS, arrays, origin, snapshot, KEYS_OF, is_replica=cursor.readonly
    )
    if pin and generation.older_than(pin.generation.ids):
        return generation  # nothing is shared under it, so the state of the tables does not matter
    states, generation.secret = read_states(registry.db_name, cursor)
    if states is None:  # nothing is shared, and nothing cleared but what was signalled
        generation.states = pin.generation.states if pin else {}
        pins[origin, cursor.readonly] = Pin(arrays, generation)
        return generation
    generation.states = states
    for container, table in list(pin.generation.own_states) if pin else ():
        own_state(generation, cursor, container, table)
    return _pinned(pins, (origin, cursor.readonly), Pin(arrays, generation))


def pins_of(registry: Any) -> dict[tuple[str, bool], "Pin"]:
    """What a registry's process has pinned: by origin, and whether it is a replica's."""
    found: dict[tuple[str, bool], Pin] = vars(registry).setdefault(_PINS, {})
    return found


class Pin:
    """A generation that a process keeps to while the signaling tables have these rows.

    What tier 1 has may be as old as the snapshot that was the first to see them: the state of the
    tables is the one that this snapshot saw.

    :param arrays: the rows, as the database gave them
    :ivar process: which read the state; a forked one reads it again. 0: it is to be read again
    :ivar verified: when the state was last found unchanged, on the monotonic clock
    """

    def __init__(self, arrays: list[list[str]], generation: Generation) -> None:
        self.arrays = arrays
        self.generation = generation
        self.process = os.getpid()
        self.verified = time.monotonic()

    def holds_for(self, arrays: list[list[str]], snapshot: str) -> bool:
        """Whether the state is known to be right, or older, for who sees these rows."""
        return (
            self.arrays == arrays
            and self.process == os.getpid()
            and not is_earlier(snapshot, self.generation.snapshot)
        )


def read_again(registry: Any) -> None:
    """Have the next check read the tables again, and clear what is older."""
    for pin in list(pins_of(registry).values()):
        pin.process = 0


def _verify_now_and_then(registry: Any, pin: Pin) -> None:
    """Find out, beside the request, whether tables were changed and nobody signalled it."""
    if time.monotonic() - pin.verified < _VERIFY_EVERY:
        return
    pin.verified = time.monotonic()
    if not config["test_enable"]:
        with contextlib.suppress(RuntimeError):  # out of threads
            threading.Thread(
                target=_verify, args=(registry, pin), name="redis-tables", daemon=True
            ).start()


def _verify(registry: Any, pin: Pin) -> None:
    generation = pin.generation
    try:
        with closing(registry.cursor(readonly=generation.is_replica)) as cursor:
            cursor.execute(_QUERY)
            *arrays, _origin, _snapshot = cursor.fetchone() or ("", "")
            if arrays != pin.arrays:  # the next request will see it
                return
            states, _secret = read_states(registry.db_name, cursor)
            with _aside(cursor) as aside:
                own = [
                    container
                    for (container, table), state in list(generation.own_states.items())
                    if state is not None and _read_own(aside, table) not in (state, None)
                ]
    except Exception as error:  # the database is away, or gone
        _logger.debug("%s: its tables are not verified: %s", registry.db_name, error)
        return
    if states is None:
        return
    changed = {name for name, state in states.items() if state != generation.states.get(name)}
    if generation.secret is None:  # they could not be read when it was pinned
        pin.process = 0
    elif changed := changed.union(own):
        _logger.info(
            "Caches of %s go: tables were changed without a signal: %s",
            registry.db_name,
            ", ".join(sorted(changed)),
        )
        pin.process = 0


_pinning = threading.Lock()


def _pinned(pins: dict[tuple[str, bool], Pin], place: tuple[str, bool], new: Pin) -> Generation:
    """The generation to go by: a new one, or the one that is pinned."""
    generation = new.generation
    with _pinning:
        pin = pins.get(place)
        if pin is None or pin.arrays != new.arrays:
            if pin is None or not generation.older_than(pin.generation.ids):
                pins[place] = new
            return generation
        known = pin.generation
        is_unchanged = all(known.sees_tables_of(generation, container) for container in KEYS_OF)
        if is_unchanged and known.secret == generation.secret:
            if pin.process != new.process:
                pins[place] = Pin(pin.arrays, known)
            return known
        if is_earlier(generation.snapshot, known.snapshot):
            generation.is_past = True
            return generation
        if pin.process == new.process:  # another thread was the first
            return known
        known.is_past = not is_unchanged
        pins[place] = new
        return generation


def read_states(database: str, cursor: Any) -> tuple[dict[str, str] | None, str | None]:
    """What the cursor sees of the tables that values come from.

    :return: per container, their state; and ``database.secret``, "" if there is none. Twice None
        where they cannot be read, as while a table is being altered
    """
    if config["test_enable"]:
        return {}, None
    try:
        with _aside(cursor) as own:
            names = set(map(tables.table_of, itertools.chain(*tables.SOURCES.values())))
            own.execute(_TABLES, [[*names, _PARAMETERS]])
            there = {name for (name,) in own.fetchall()}
            sources = tables.existing(tables.SOURCES, there)
            wanted = list(dict.fromkeys(itertools.chain(*sources.values())))
            own.execute(tables.query(wanted))
            states = tables.states_of(sources, dict(zip(wanted, own.fetchone() or (), strict=True)))
            secret = ""
            if _PARAMETERS in there:
                own.execute(f"SELECT value FROM {_PARAMETERS} WHERE key = 'database.secret'")
                secret = (own.fetchone() or ("",))[0] or ""
            return states, secret
    except psycopg2.Error as error:
        _logger.warning("%s: nothing is shared until its tables can be read: %s", database, error)
        return None, None


def own_state(generation: Generation, cursor: Any, container: str, table: str) -> str | None:
    """The state of a model's table, as when a method of it was first missed in a generation.

    :return: "" where there is no such table; None where its state cannot be told: it is a view, is
        too big to be read each time, cannot be read now, or this transaction has written something
    """
    place = container, table
    if place not in generation.own_states:
        try:
            with _aside(cursor) as own:
                own.execute("SELECT pg_current_xact_id_if_assigned() IS NULL")
                [has_written_nothing] = own.fetchone() or (False,)
                if not has_written_nothing:
                    return None  # it may see what is never committed; another transaction will tell
                state = _read_own(own, table)
        except psycopg2.Error:
            return None
        generation.own_states.setdefault(place, state)
    return generation.own_states[place]


def _read_own(own: Any, table: str) -> str | None:
    """The state of a table, as :func:`own_state`; by a cursor of :func:`_aside`."""
    own.execute(
        "SELECT relkind = 'r' AND pg_relation_size(oid) <= %s FROM pg_class"
        " WHERE relname = %s AND relnamespace = current_schema()::regnamespace",
        [tables.MOST_BYTES, table],
    )
    [can_be_told] = own.fetchone() or (None,)
    if can_be_told is None:
        return ""
    if not can_be_told:
        return None
    own.execute(tables.query([table]))
    [state] = own.fetchone() or (None,)
    return state


@contextlib.contextmanager
def _aside(cursor: Any) -> Iterator[Any]:
    """A cursor to read with, that leaves the transaction as it was, also when that fails.

    It does not count as Odoo's, nor waits for a lock.
    """
    with cursor._cnx.cursor() as own:
        own.execute(f"SAVEPOINT redis_states; SET LOCAL lock_timeout = '{_LOCK_TIMEOUT}ms'")
        try:
            yield own
        finally:
            own.execute("ROLLBACK TO redis_states; RELEASE redis_states")
