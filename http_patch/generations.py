"""The SQL that reads the signaling tables, and those that values come from.

The rules are in ``ormcache/pins.py``.
"""

import contextlib
import itertools
import logging
import threading
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from typing import Any, NamedTuple

import psycopg2
from odoo.orm.registry import _CACHES_BY_KEY
from odoo.tools import config

from ..ormcache import Generation, tables
from ..ormcache.generation import REGISTRY, query
from ..ormcache.pins import Found, Pin, Pins
from ..ormcache.shared import keys_of_containers

_logger = logging.getLogger(__name__)

KEYS = REGISTRY, *_CACHES_BY_KEY
KEYS_OF = keys_of_containers(_CACHES_BY_KEY)

PINS = "_redis_pins"  # an attribute of registries
_PARAMETERS = "ir_config_parameter"
SECRET = f"SELECT value FROM {_PARAMETERS} WHERE key = 'database.secret'"
_RULES = "ir_rule", "rule_group_rel", "ir_model"
_VERIFY_EVERY = 60.0  # seconds; in a process that serves nothing less often
_LOCK_TIMEOUT = 100  # milliseconds: an upgrade may hold a table's lock for minutes

_QUERY = query(KEYS)
_TABLES = (
    "SELECT relname FROM pg_class WHERE relname = ANY(%s) AND relkind IN ('r', 'p')"
    " AND relnamespace = current_schema()::regnamespace"
)
_MODES = "read", "write", "create", "unlink"
_RULES_QUERY = (
    f"SELECT m.model, r.domain_force, {', '.join(f'r.perm_{mode}' for mode in _MODES)},"
    " CASE WHEN NOT r.global THEN"
    " ARRAY(SELECT group_id FROM rule_group_rel WHERE rule_group_id = r.id) END"
    " FROM ir_rule r JOIN ir_model m ON m.id = r.model_id WHERE r.active"
)


class Rule(NamedTuple):
    """An active rule of ``ir.rule``.

    :param modes: what it restricts
    :param groups: whom, by ids; None: everybody
    """

    domain: str
    modes: frozenset[str]
    groups: frozenset[int] | None


Rules = Mapping[str, Sequence[Rule]]  # by model


def pins_of(registry: Any) -> Pins:
    """The pins of a registry's process."""
    found: Pins | None = vars(registry).get(PINS)
    if found is None:
        found = Pins(KEYS, KEYS_OF)
        setattr(registry, PINS, found)
    return found


def read_generation(registry: Any, cursor: Any) -> Generation:
    """The generation that the cursor's own snapshot sees, for the price of a query."""
    generation = pins_of(registry).seen_by(CursorSnapshot(registry.db_name, cursor))
    _verify_now_and_then(registry)
    return generation


def own_state(registry: Any, generation: Generation, cursor: Any, place: tuple[str, str]) -> Any:
    """``Pins.own_state`` of a container and a table."""
    return pins_of(registry).own_state(generation, CursorSnapshot(registry.db_name, cursor), *place)


def wrote_nothing(cursor: Any) -> bool:
    """Whether a transaction is proven to have written nothing, for the price of a query.

    One that failed, or whose connection is lost, proves nothing.
    """
    if cursor.readonly:
        return True
    try:
        with cursor._cnx.cursor() as own:  # the cursor's is gone when it is being closed
            own.execute("SELECT pg_current_xact_id_if_assigned() IS NULL")
            return bool(own.fetchone()[0])
    except psycopg2.Error:
        return False


def read_secret(own: Any) -> str:
    """The database's own secret, "" for none.

    :param own: whatever executes
    """
    own.execute(SECRET)
    return (own.fetchone() or ("",))[0] or ""


def read_server(cursor: Any) -> str:
    """The identity of the PostgreSQL server, which its replicas have too; "" where it does not say
    that."""
    try:
        with _aside(cursor) as own:
            own.execute("SELECT system_identifier::text FROM pg_control_system()")
            return str(own.fetchone()[0])
    except psycopg2.Error:
        return ""


def _verify_now_and_then(registry: Any) -> None:
    """Find out, beside the request, whether tables were changed and nobody signalled it."""
    for pin in () if config["test_enable"] else pins_of(registry).due(_VERIFY_EVERY):
        with contextlib.suppress(RuntimeError):  # out of threads
            threading.Thread(
                target=verify, args=(registry, pin), name="redis-tables", daemon=True
            ).start()


def verify(registry: Any, pin: Pin) -> None:
    """Find out whether tables were changed since a generation was pinned."""
    try:
        with closing(registry.cursor(readonly=pin.generation.is_replica)) as cursor:
            snapshot = CursorSnapshot(registry.db_name, cursor)
            changed = pins_of(registry).find_changes(pin, snapshot)
    except Exception as error:  # the database is away, or gone
        _logger.debug("%s: its tables are not verified: %s", registry.db_name, error)
        return
    if changed:
        _logger.info(
            "Caches of %s go: tables were changed without a signal: %s",
            registry.db_name,
            ", ".join(sorted(changed)),
        )


class CursorSnapshot:
    """The snapshot of a cursor: ``ormcache.pins.Snapshot``.

    :param database: its name, for the log
    """

    def __init__(self, database: str, cursor: Any) -> None:
        self._database, self._cursor = database, cursor
        self.is_replica: bool = cursor.readonly

    def signals(self) -> tuple[list[list[str]], str, str]:
        self._cursor.execute(_QUERY)
        row = self._cursor.fetchone()
        assert row is not None, "No result when reading signaling sequences"
        *rows, origin, snapshot = row
        return rows, origin, snapshot

    def tables(self, known: Found | None) -> Found | None:
        if config["test_enable"]:
            return Found((), {}, "", {})
        try:
            with _aside(self._cursor) as own:
                there = known.tables if known else _existing(own)
                wanted = [
                    source
                    for source in tables.every()
                    if tables.table_of(source) in there and not (known and source in tables.MODULES)
                ]
                secret = f"({SECRET})" if _PARAMETERS in there else "NULL"
                own.execute(f"SELECT {', '.join([secret, *map(tables.state, wanted)])}")
                [secret, *found] = own.fetchone() or ("",)
                states = {
                    **(known.states if known else {}),
                    **dict(zip(wanted, found, strict=True)),
                }
                if known and all(states.get(each) == known.states.get(each) for each in _RULES):
                    rules = known.rules
                else:
                    rules = read_rules(own) if all(each in there for each in _RULES) else {}
                return Found(there, states, secret or "", rules)
        except psycopg2.Error as error:
            _logger.warning(
                "%s: nothing is shared until its tables can be read: %s", self._database, error
            )
            return None

    def table(self, name: str) -> str | None:
        """None as well for a view, and for a table that is too big to be read each time."""
        try:
            with _aside(self._cursor) as own:
                own.execute(
                    "SELECT relkind = 'r' AND pg_relation_size(oid) <= %s FROM pg_class"
                    " WHERE relname = %s AND relnamespace = current_schema()::regnamespace",
                    [tables.MOST_BYTES, name],
                )
                [can_be_told] = own.fetchone() or (None,)
                if can_be_told is None:
                    return ""
                if not can_be_told:
                    return None
                own.execute(f"SELECT {tables.state(name)}")
                [state] = own.fetchone() or (None,)
                return state
        except psycopg2.Error:
            return None

    def wrote_nothing(self) -> bool:
        return wrote_nothing(self._cursor)


def _existing(own: Any) -> set[str]:
    """Which tables there are, of those whose state or content is read."""
    own.execute(_TABLES, [[_PARAMETERS, *_RULES, *map(tables.table_of, tables.every())]])
    return {name for (name,) in own.fetchall()}


def read_rules(own: Any) -> Rules:
    """The active rules, which ``IrRule._get_rules`` gives of one model for one user.

    :param own: a cursor
    """
    own.execute(_RULES_QUERY)
    rules: defaultdict[str, list[Rule]] = defaultdict(list)
    for model, domain, *restricted, groups in own.fetchall():
        modes = frozenset(itertools.compress(_MODES, restricted))
        of = None if groups is None else frozenset(groups)
        rules[model].append(Rule(domain or "", modes, of))
    return dict(rules)


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
