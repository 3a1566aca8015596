"""Odoo's processes in memory, as far as the shared cache notices, and what their reads may give.

Real are ``ormcache/``, all but the tier that talks to Redis, and how ``http_patch`` follows cursors
and reads generations. The database is that of ``fake_database.py``. What is core's is done again
here, as briefly as it can be: cursors, lookups, signals and their check.

Threads take turns. :meth:`Cluster.pause` is called where one may be interrupted: between a query
and what is made of it, while Redis is asked, while a value is computed, around a commit.
"""

import contextlib
import itertools
import threading
from types import SimpleNamespace

from odoo.sql_db import BaseCursor
from psycopg2 import OperationalError
from psycopg2.extensions import (
    TRANSACTION_STATUS_IDLE,
    TRANSACTION_STATUS_INERROR,
    TRANSACTION_STATUS_INTRANS,
)

from odoo.addons.redis_session_ormcache.codec.value import Cost, Vault, decode
from odoo.addons.redis_session_ormcache.http_patch import cursor as cursor_patch
from odoo.addons.redis_session_ormcache.http_patch import generations
from odoo.addons.redis_session_ormcache.http_patch.cursor import LOOKUPS, attach
from odoo.addons.redis_session_ormcache.ormcache import Outbox, Sampling, SharedOrmcache
from odoo.addons.redis_session_ormcache.ormcache.generation import REGISTRY
from odoo.addons.redis_session_ormcache.ormcache.layers import Computed
from odoo.addons.redis_session_ormcache.ormcache.originals import digest
from odoo.addons.redis_session_ormcache.ormcache.pins import Found
from odoo.addons.redis_session_ormcache.ormcache.policy import Method
from odoo.addons.redis_session_ormcache.ormcache.remote import Claim
from odoo.addons.redis_session_ormcache.ormcache.shared import keys_of_containers
from odoo.addons.redis_session_ormcache.tests.support.fake_database import (
    ConflictError,
    Database,
    Session,
)
from odoo.addons.redis_session_ormcache.tests.support.steps import LateSignals

CACHES_BY_KEY = {
    "stable": ("stable", "default", "pages"),
    "default": ("default", "pages"),
    "templates": ("templates", "pages"),
}
KEYS = (REGISTRY, *CACHES_BY_KEY)
KEYS_OF = keys_of_containers(CACHES_BY_KEY)
# Objects, and the key that whoever changes them clears.
KEY_OF = {"s1": "stable", "d1": "default", "d2": "default", "t1": "templates"}
SOURCES = {
    container: [name for name, key in KEY_OF.items() if key in keys]
    for container, keys in KEYS_OF.items()
}
EDITED = -1  # a version that nobody wrote
THREADS = 2  # of each process
PATIENCE = 0.002  # seconds that one waits for what another one computes
SECRET = "of the database"
DEAR = 0.100  # seconds that a value takes to compute, so that it is worth a proof; or it takes none


class CallbackError(Exception):
    """What is to follow a commit failed."""


class IncoherentError(AssertionError):
    """A read gave what it must not, or would."""


# -- cached methods --------------------------------------------------------------------------------
# Values are pairs of an object's name and its version.


def stable(cursor, name):
    return (cursor.look(name),)


def default(cursor, name):
    return (cursor.look(name),)


def templates(cursor, name):
    return (cursor.look(name),)


def made(cursor, name):
    """Changes what it tells of."""
    cursor.make(name)
    return (cursor.look(name),)


def _get_param(cursor, name):
    """Never shared, because of its name."""
    return (cursor.look(name),)


def greeting(cursor, name):
    return cursor.call(_get_param, name)


def listed(cursor, name):
    """A list, which is edited by those who get it."""
    return [cursor.look(name)]


def copied(cursor, name):
    return tuple(cursor.call(listed, name))


def quoted(cursor, name):
    return cursor.call(copied, name)


def summary(cursor):
    return (*cursor.call(stable, "s1"), *cursor.call(default, "d1"), cursor.look("d2"))


def page(cursor):
    return (*cursor.call(summary), *cursor.call(templates, "t1"))


CONTAINER_OF = {
    stable: "stable",
    **dict.fromkeys([default, made, _get_param, greeting], "default"),
    **dict.fromkeys([listed, copied, quoted, summary], "default"),
    templates: "templates",
    page: "pages",
}
POLICY_OF = {function: Method(function) for function in CONTAINER_OF}
_SUMMARY = (("s1", "stable"), ("d1", "default"), ("d2", "default"))
# Per call: the objects in its value, each with the container by whose clearing it is renewed. What
# a method reads, itself or by way of others, is of keys that clear its container.
CALLS = {
    (stable, "s1"): (("s1", "stable"),),
    (default, "s1"): (("s1", "default"),),
    (default, "d1"): (("d1", "default"),),
    (default, "d2"): (("d2", "default"),),
    (made, "d2"): (("d2", "default"),),
    (templates, "t1"): (("t1", "templates"),),
    (_get_param, "d1"): (("d1", "default"),),
    (greeting, "d1"): (("d1", "default"),),
    (listed, "d1"): (("d1", "default"),),
    (copied, "d1"): (("d1", "default"),),
    (quoted, "d1"): (("d1", "default"),),
    (summary,): _SUMMARY,
    (page,): (*_SUMMARY, ("t1", "templates")),
}


def parts_of(container, value):
    """The objects in a value of a container, as in ``CALLS``; None: there is no such value."""
    names = [name for name, _version in value]
    for (function, *_arguments), parts in CALLS.items():
        if CONTAINER_OF[function] == container and names == [name for name, _c in parts]:
            return parts
    return None


class Call:
    """``ormcache.shared.Call``."""

    model = None
    may_load = may_share = True

    def __init__(self, cursor, function, key, arguments):
        self.cursor, self.key = cursor, key
        self.container, self.method = CONTAINER_OF[function], POLICY_OF[function]
        self._compute = function, arguments

    def surroundings(self, _generation):
        return ()

    def compute(self):
        cursor, (function, arguments) = self.cursor, self._compute
        outer, noted = cursor.cache[LOOKUPS].noted, set()
        cursor.cache[LOOKUPS].noted = noted
        try:
            cursor.cluster.pause()
            return function(cursor, *arguments), Cost(cursor.cost, 1), noted
        except Exception:  # who looked that up may make do without
            outer |= noted
            raise
        finally:
            cursor.cache[LOOKUPS].noted = outer

    def is_of_known_tables(self, _generation):
        return True


# -- Redis -----------------------------------------------------------------------------------------


class Clock:
    """Time passes only for those who wait."""

    now = 0.0

    def monotonic(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds


class Redis:
    """One for all processes: values, and who computes those that are not there.

    :ivar takes_claims: whether it is told who does
    """

    def __init__(self):
        self.hashes, self.claims, self.takes_claims = {}, {}, True

    def lose_values(self):
        for values in self.hashes.values():
            values.clear()

    def fields(self):
        return [(key, field) for key, values in self.hashes.items() for field in values]


class Remote:
    """A process's way there: the interface of ``RemoteTier``."""

    is_away = False
    round_trip = 0.0001

    def __init__(self, cluster):
        self._cluster, self._redis = cluster, cluster.redis

    def fetch(self, keys):
        found = [dict(self._redis.hashes.get(key, {})) for key in keys]
        self._cluster.pause()
        return found

    def ask(self, key, field, *, claim, lease):
        answer = self._redis.hashes.get(key, {}).get(field)
        if answer is None and claim and self._redis.takes_claims:
            is_claimed = (key, field) in self._redis.claims
            answer = Claim.THEIRS if is_claimed else Claim.OURS
            self._redis.claims.setdefault((key, field), self)
        self._cluster.pause()
        return answer

    def publish(self, key, values):
        for field, sealed in values:
            self._redis.hashes.setdefault(key, {})[field] = sealed
            self._redis.claims.pop((key, field), None)
        return [1] * len(values)

    def release(self, key, fields):
        for field in fields:
            if self._redis.claims.get((key, field)) is self:
                del self._redis.claims[key, field]

    def retire(self, key):
        """It goes a minute later: hashes are lost now and then anyway."""


class HeldOutbox(Outbox):
    """Sends at once, or when it is told to.

    :ivar is_held: which of them
    """

    def __init__(self, cluster, remote):
        super().__init__(remote)
        self._cluster, self.is_held = cluster, False

    def publish(self, entries):
        for entry in entries:
            self._cluster.check_published(entry)
        super().publish(entries)

    def _has_thread(self):
        return self.is_held

    def deliver(self):
        """Send what is waiting."""
        self._queue.put(None)
        self._run()


class Shared(SharedOrmcache):
    """Tells what it takes from Redis."""

    def _load(self, transaction, slot, call):
        found = super()._load(transaction, slot, call)
        if found is not None:
            call.cursor.cluster.check_found(call, found.value)
        return found


class Code:
    """All processes have the same files, and no translations."""

    content = places = b""

    def of_languages(self, _words):
        return b""

    def names_a_place(self, _data):
        return False


# -- processes -------------------------------------------------------------------------------------


class Process:
    """A process.

    :ivar registry: the one in use; open cursors may have one from before
    :ivar signals: on their way, by thread
    """

    def __init__(self, cluster, number):
        self.cluster, self.number = cluster, number
        self.remote = Remote(cluster)
        self.outbox = HeldOutbox(cluster, self.remote)
        self.cursors, self.signals = [], {}
        self.registry = Registry(self)

    def __repr__(self):
        return f"process {self.number}"

    def registries(self):
        return list(dict.fromkeys([self.registry, *(each.registry for each in self.cursors)]))


class Registry:
    """``odoo.modules.registry.Registry``.

    :ivar checked: what it has seen signalled
    :ivar own: what its process has committed, by container and object
    :ivar base: when it was loaded, or had last looked for unsignalled changes
    :ivar found_changed: when it did so, if it has not checked since
    """

    db_name = "db"

    def __init__(self, process):
        self.process, self.cluster = process, process.cluster
        self.caches = {container: {} for container in KEYS_OF}
        never = Sampling(0, ())
        self.shared = Shared(process.remote, process.outbox, "db", "c", {}, self.caches, never)
        self.shared.code = Code()
        self.cache_sequences = {}
        self._flags = [SimpleNamespace(registry=False, cache=set()) for _each in range(THREADS)]
        self.checked, self.own, self.base = None, {}, self.cluster.database.now
        self.found_changed = None
        with self.cursor() as cursor:
            self.registry_sequence = self._get_sequences(cursor).newest[REGISTRY]

    def cursor(self, readonly=False, cost=DEAR):
        made = Cursor(self, self.cluster.thread, readonly, cost)
        attach(self.shared, self, made)
        return made

    # -- what a thread has invalidated

    @property
    def _invalidation_flags(self):
        return self._flags[self.cluster.thread]

    @property
    def cache_invalidated(self):
        return self._invalidation_flags.cache

    @property
    def registry_invalidated(self):
        return self._invalidation_flags.registry

    @registry_invalidated.setter
    def registry_invalidated(self, value):
        self._invalidation_flags.registry = value

    def to_signal(self, thread):
        """The tables in which ``signal_changes`` of a thread inserts a row."""
        flags = self._flags[thread]
        return {REGISTRY} if flags.registry else set(flags.cache)

    def clear_cache(self, key):
        self._clear_caches([key])
        self.cache_invalidated.add(key)

    def _clear_caches(self, keys):
        for key in keys:
            for container in CACHES_BY_KEY[key]:
                self.caches[container].clear()

    def reset_changes(self):
        """With the signal of what was committed before: see ``http_patch.registry``."""
        invalidated = self.cache_invalidated
        invalidated.is_forgotten = True
        self.registry_invalidated = False
        if invalidated:
            self._clear_caches(invalidated)
            invalidated.clear()
        invalidated.is_forgotten = False
        if invalidated.committed:
            invalidated.signal(invalidated.committed)

    def signal_changes(self):
        Signal(self, self.cluster.thread).finish()

    # -- what others have signalled: as in http_patch.registry; what core clears besides is left out

    def _get_sequences(self, cursor):
        seen = generations.read_generation(self, cursor)
        transaction = attach(self.shared, self, cursor).transaction
        transaction.checked(seen)
        if self.shared.local.state is None:
            transaction.learn(seen)
        return seen

    def check_signaling(self, cursor):
        local = self.shared.local
        seen = self._get_sequences(cursor)
        self.cluster.pause()
        if not local.is_past(seen) and seen.newest[REGISTRY] != self.registry_sequence:
            self.cluster.figures["reloads"] += 1
            registry = Registry(self.process)
            registry.registry_sequence = seen.newest[REGISTRY]
            seen = generations.read_generation(registry, cursor)
            transaction = attach(registry.shared, registry, cursor).transaction
            transaction.checked(seen)
            transaction.learn(seen, loaded=True)
            return registry
        transaction = cursor_patch.attached(cursor).transaction
        seen = transaction.generation()
        state = local.state
        if not (state is None or local.is_past(seen) or seen.follows(state, REGISTRY)):
            self.registry_sequence = -1
            return self.check_signaling(cursor)
        transaction.learn(seen, loaded=True)
        return self


class Signal:
    """``signal_changes`` of a thread, stopped before its commit.

    :ivar meanwhile: how many others were committed since
    """

    def __init__(self, registry, thread):
        self.registry, self.thread, self.meanwhile = registry, thread, 0
        self.keys = registry.to_signal(thread)
        self._session = Session(registry.cluster.database)
        for key in sorted(self.keys):
            self._session.signal(key)

    def finish(self):
        registry = self.registry
        registry.cluster.pause()
        self._session.commit()
        registry.cluster.passed()
        registry.cluster.pause()
        registry.registry_sequence += REGISTRY in self.keys
        registry.registry_invalidated = False
        registry.cache_invalidated.clear()

    def give_up(self):
        self._session.rollback()

    def __repr__(self):
        return f"{self.registry.process} thread {self.thread}: a signal"


# -- cursors ---------------------------------------------------------------------------------------


class Wire:
    """A cursor's connection to the database, as ``http_patch`` uses it.

    :ivar is_lost: whether it broke
    """

    def __init__(self, cursor):
        self._cursor = cursor
        self.is_lost = False

    def get_transaction_status(self):
        session = self._cursor.session
        if session.has_failed:
            return TRANSACTION_STATUS_INERROR
        return TRANSACTION_STATUS_INTRANS if session.is_open else TRANSACTION_STATUS_IDLE

    @contextlib.contextmanager
    def cursor(self):
        yield self

    def execute(self, _query):
        if self.is_lost or self._cursor.session.has_failed:
            raise OperationalError
        self._cursor.session.query()
        self._cursor.cluster.pause()

    def fetchone(self):
        """Of ``SELECT pg_current_xact_id_if_assigned() IS NULL``."""
        return (self._cursor.session.xid is None,)


class CursorSnapshot:
    """What a cursor reads: ``ormcache.pins.Snapshot``."""

    def __init__(self, _database, cursor):
        self._cursor, self.is_replica = cursor, cursor.readonly

    def signals(self):
        self._cursor.execute("SELECT signals")
        return self._cursor.fetchone()

    def tables(self, _known):
        self._cursor.cluster.pause()
        return Found((), self._cursor.session.states(), SECRET, {})


class Orm:
    """A cursor's ORM.

    :ivar pending: versions that are not written to the database yet
    """

    tocompute = {}

    def __init__(self, cursor):
        self._cursor, self.pending = cursor, {}
        self.field_dirty = {"version": self.pending}

    def flush(self):
        while self.pending:
            name = next(iter(self.pending))
            self._cursor.execute("UPDATE objects", (name, self.pending[name]))
            del self.pending[name]

    def clear(self):
        self.pending.clear()


class Lookups:
    """What core keeps of a cursor's lookups.

    :ivar noted: what was looked up for the value that is being computed
    """

    def __init__(self, transaction):
        self.transaction, self.noted = transaction, set()


class Cursor(BaseCursor):
    """``odoo.sql_db.Cursor``.

    :param registry: of its environment
    :param cost: seconds that a value takes to compute
    :ivar account: what the transaction did, and what it may read
    :ivar savepoints: that are open
    """

    def __init__(self, registry, thread, readonly, cost):
        super().__init__()
        self.registry, self.thread, self.readonly, self.cost = registry, thread, readonly, cost
        self.cluster = registry.cluster
        self.session = Session(self.cluster.database, is_replica=readonly)
        self._cnx, self._obj, self.transaction = Wire(self), object(), Orm(self)
        self.account, self.savepoints = Account(registry, self), []
        self.number = next(self.cluster.cursor_numbers)

    def __repr__(self):
        place = f"{self.registry.process} thread {self.thread}"
        return f"{place} cursor {self.number}{' on the replica' * self.readonly}"

    def execute(self, query, params=()):
        if query == "SELECT signals":
            self._answer = self.session.signals()
        elif query == "SELECT version":
            self._answer = self.session.read(*params)
        elif query in ("UPDATE objects", "SELECT update"):
            self.session.write(*params)
        else:
            kind, name = query.split('"')[:2]
            by_kind = {"SAVEPOINT": "savepoint", "RELEASE": "release", "ROLLBACK": "roll_back_to"}
            getattr(self.session, by_kind[kind.split()[0]])(name)
        cursor_patch._ran(self, query, params, 0.0, 0.0)

    def fetchone(self):
        self.cluster.pause()
        return self._answer

    def call(self, function, *arguments):
        """Call a cached method: ``ormcache.lookup``."""
        key, registry = ("cached", function, *arguments), self.registry
        container = CONTAINER_OF[function]
        if LOOKUPS not in self.cache:
            self.cache[LOOKUPS] = Lookups(attach(registry.shared, registry, self).transaction)
        lookups, cache = self.cache[LOOKUPS], registry.caches[container]
        lookups.noted.add(key)
        own = lookups.transaction.view
        try:
            if own is None or (key not in own and container not in own.invalidated):
                return cache[key]
            return own[key].value
        except KeyError:
            pass
        transaction = attach(registry.shared, registry, self).transaction
        return registry.shared.look_up(transaction, Call(self, function, key, arguments))

    def add(self, function, name):
        """Have the value of a cached method that was computed elsewhere: ``ormcache.add_value``."""
        value = function(self, name)
        transaction = attach(self.registry.shared, self.registry, self).transaction
        transaction.generation()
        key = ("cached", function, name)
        transaction.keep(CONTAINER_OF[function], key, Computed(value, digest(value)), 0.0)
        return value

    def look(self, name):
        """An object and its version, as the ORM sees it."""
        if name in self.transaction.pending:
            return name, self.transaction.pending[name]
        self.execute("SELECT version", (name,))
        return name, self.fetchone()

    def make(self, name):
        """Change an object while a value is computed, if nobody else does."""
        if not self.readonly and not self.cluster.database.is_locked(name, self.session):
            self.write(name)

    def write(self, name, how="statement"):
        """Give an object a new version.

        :param how: "later" it is flushed; a "function" of the database does it, unknown to anybody
        """
        self.session.read(name)
        version = next(self.cluster.database.versions)
        self.account.wrote(name, version)
        if how == "function":
            self.flush()
            self.execute("SELECT update", (name, version))
        else:
            self.transaction.pending[name] = version
        if how == "statement":
            self.flush()

    def begin_savepoint(self):
        self.savepoints.append((self.savepoint(), self.account.state()))

    def end_savepoint(self, *, rollback):
        savepoint, state = self.savepoints.pop()
        try:
            savepoint.close(rollback=rollback)
        except ConflictError:
            rollback = True
            raise
        finally:
            if rollback:
                self.account.restore(state)

    def commit(self):
        self.flush()
        account, was_open = self.account, self.session.is_open
        self.cluster.pause()
        self.session.commit()
        self.clear()
        self.prerollback.clear()
        self.postrollback.clear()
        self.cluster.pause()
        self._begin(None if was_open else account.check)
        self.postcommit.run()
        account.committed()
        self.account.take_over()

    def fails(self):
        raise CallbackError

    def asks(self):
        self.look("d1")

    def rollback(self):
        account, was_open = self.account, self.session.is_open
        self.clear()
        self.postcommit.clear()
        self.prerollback.run()
        self.session.rollback()
        self.cluster.pause()
        self.postrollback.run()
        self._begin(account.check if account.is_own_check or not was_open else None)

    def _begin(self, check):
        self.account, self.savepoints = Account(self.registry, self, check), []

    def close(self):
        self.cache.clear()
        del self._obj
        self.rollback()


# -- the oracle ------------------------------------------------------------------------------------


class Account:
    """What a transaction did, and what its reads may give.

    :param cursor: None: it is yet to begin
    :param check: what was signalled when its cursor last checked, unless it had a transaction since
    :ivar begun: what was signalled when it began
    :ivar is_own_check: whether this transaction did
    :ivar floor: what its registry had seen signalled when it began
    :ivar own: versions it wrote
    :ivar earlier: and replaced, which it may see until it clears
    :ivar uncleared: keys it has to clear yet
    """

    def __init__(self, registry, cursor=None, check=None):
        self._cluster, self._cursor = registry.cluster, cursor
        database = registry.cluster.database
        is_replica = cursor is not None and cursor.readonly
        self.begun = database.moments[database.replayed - 1] if is_replica else database.now
        self.check, self.is_own_check = check, False
        self.own, self.earlier, self.uncleared = {}, set(), set()
        self._registry = registry
        self.floor, self._commits, self._base = registry.checked, registry.own, registry.base

    def take_over(self):
        """The commit before it is known to the process."""
        self._commits = self._registry.own

    def checked(self, registry):
        """Its cursor has checked the signals, and goes on with this registry.

        Its snapshot may be older than what others have seen.
        """
        moment = self._cursor.session.moment
        self.check, self.is_own_check = moment, True
        self.floor = moment.newer(self.floor)
        if registry is not self._registry:
            self._registry, self._commits, self._base = registry, {}, moment.older(registry.base)
        registry.checked = moment.newer(registry.checked)
        if registry.found_changed and moment.number >= registry.found_changed.number:
            registry.base, registry.found_changed = registry.found_changed, None

    def wrote(self, name, version):
        if name in self.own:
            self.earlier.add(self.own[name])
        self.own[name] = version
        self.uncleared.add(KEY_OF[name])

    def state(self):
        return dict(self.own), set(self.earlier), set(self.uncleared)

    def restore(self, state):
        self.own, self.earlier, self.uncleared = state

    def committed(self):
        """What it cleared is known to its process, and is signalled or going to be."""
        to_signal = self._registry.to_signal(self._cursor.thread)
        signalled = self._cluster.database.now.signalled
        known = {}
        for name, version in self.own.items():
            key = KEY_OF[name]
            if key in self.uncleared:
                continue
            for container in CACHES_BY_KEY[key]:
                known[container, name] = version
                if not to_signal & {key, REGISTRY} and signalled[container, name] < version:
                    raise self._cluster.broken(f"nobody will signal {name} {version}")
        self._registry.own = {**self._registry.own, **known}

    def check_read(self, parts, value):
        """Hold what it was given against what it may be given."""
        floor, is_replica = self.floor, self._cursor is not None and self._cursor.readonly
        if is_replica and floor:
            floor = self._cursor.session.moment and floor.older(self._cursor.session.moment)
        for (name, container), (_name, version) in zip(parts, value, strict=True):
            if version == EDITED:  # as in core: what was edited in a process stays in it
                continue
            if name in self.own and KEY_OF[name] not in self.uncleared:
                if version != self.own[name]:
                    raise self._cluster.broken(f"{name} is {version}, written was {self.own[name]}")
                continue
            if version == self.own.get(name) or version in self.earlier:
                continue
            self._cluster.check_part("it", name, container, version, floor)
            if is_replica:
                continue
            if version < (own := self._commits.get((container, name), 0)):
                raise self._cluster.broken(f"{name} is {version}, its process committed {own}")
            if version < (base := self._base.committed[name]) and not self._cluster.has_replica:
                raise self._cluster.broken(f"{name} is {version}, its process began with {base}")


class Cluster(LateSignals):
    """A database, Redis, and processes; what can happen to them.

    :param figures: counts what happened
    :param has_replica: whether the database has one
    :ivar meanwhile: what happens at a pause to come: after how many of them, and what
    :ivar busy: threads that are in the middle of something, by process and number
    :ivar thread: the one that is at work
    :ivar story: what happened
    :ivar failure: the first promise that was broken
    """

    def __init__(self, figures, processes, *, has_replica):
        self.figures, self.has_replica = figures, has_replica
        self.database = Database(KEYS, KEYS_OF, list(KEY_OF), SOURCES)
        self.redis = Redis()
        self.meanwhile, self.busy, self.thread = [], set(), 0
        self._depth = 0
        self.story, self.failure = [], None
        self._promises = {}  # by hash in Redis
        self._vault = Vault(SECRET)
        self.cursor_numbers = itertools.count(1)
        self.processes = [Process(self, number) for number in range(processes)]

    def pause(self):
        """Something else may happen here."""
        if not self.meanwhile or self._depth == 2:
            return
        pauses, step = self.meanwhile.pop(0)
        if pauses > 1:
            self.meanwhile.insert(0, (pauses - 1, step))
            return
        self.figures["meanwhile"] += 1
        self._depth += 1
        try:
            step()
        finally:
            self._depth -= 1

    @contextlib.contextmanager
    def acting(self, process, thread):
        """A thread is at work; whoever interrupts it is another one."""
        before, place = self.thread, (process, thread)
        is_first = place not in self.busy
        self.busy.add(place)
        self.thread = thread
        try:
            yield
        finally:
            self.thread = before
            if is_first:
                self.busy.discard(place)

    @contextlib.contextmanager
    def using(self, cursor):
        """A thread uses a cursor; what fails is rolled back."""
        with self.acting(cursor.registry.process, cursor.thread):
            try:
                yield
            except CallbackError:
                self.tell(cursor, "fails after its commit")
            except ConflictError:
                self.tell(cursor, "fails")
                self.figures["conflicts"] += 1
                if cursor.savepoints:
                    cursor.end_savepoint(rollback=True)
                else:
                    cursor.rollback()
                    self.reset(cursor)

    def threads(self):
        """Those that have time."""
        return [
            (process, thread)
            for process in self.processes
            for thread in range(THREADS)
            if thread not in process.signals and (process, thread) not in self.busy
        ]

    def open(self):
        """Their open cursors."""
        free = self.threads()
        return [
            cursor
            for process in self.processes
            for cursor in process.cursors
            if (process, cursor.thread) in free
        ]

    def tell(self, who, *what):
        self.story.append((self._depth, who, what))

    def broken(self, text):
        """What is raised where a promise is broken, and told if somebody catches that."""
        self.failure = self.failure or IncoherentError(text)
        return self.failure

    # -- transactions

    def begin(self, process, thread, how, cost=DEAR):
        """A new cursor, and what is done first with it.

        :param how: "request" checks, and rolls back; "check" does not roll back; "rpc" checks on
            another cursor, before; "bare" does not check, nor does "late", which takes its
            snapshot; "readonly" and "swapped" check on the replica: one goes on there, the other
            one on the primary
        """
        mine = [cursor for cursor in process.cursors if cursor.thread == thread]
        if len(mine) > 1:
            self.commit(mine[0])
            self.finish(mine[0])
        is_replica = self.has_replica and how in ("readonly", "swapped")
        if how == "rpc":
            self.check(process, thread, is_replica=self.has_replica)
        cursor = self._opened(process, thread, is_replica, cost)
        if how == "late":
            cursor.session.query()
        elif how not in ("rpc", "bare"):
            self.check_on(cursor)
        if is_replica and how == "swapped":
            self.finish(cursor)
            cursor = self._opened(process, thread, False, cost)
        elif how in ("request", "swapped"):
            self.rollback(cursor, reset=False)
        return cursor

    def _opened(self, process, thread, is_replica, cost):
        with self.acting(process, thread):
            cursor = process.registry.cursor(is_replica, cost)
        process.cursors.append(cursor)
        self.tell(cursor, "is opened")
        return cursor

    def check_on(self, cursor):
        """``check_signaling``."""
        process = cursor.registry.process
        with self.using(cursor):
            cursor.registry = process.registry = process.registry.check_signaling(cursor)
            cursor.account.checked(cursor.registry)
            self.tell(cursor, "has checked", cursor.account.check.number)

    def check(self, process, thread, *, is_replica=False):
        """The same, on a cursor of its own."""
        cursor = self._opened(process, thread, is_replica, DEAR)
        self.check_on(cursor)
        self.finish(cursor)

    def read(self, cursor, call, *, add=False):
        """Look something up, and hold it against what is true.

        :param add: whether it is computed without a lookup, and added
        """
        account = cursor.account
        with self.using(cursor):
            self.tell(cursor, "adds" if add else "looks up", call[0].__name__, *call[1:])
            value = (cursor.add if add else cursor.call)(*call)
            self.tell(cursor, "has got", tuple(value))
            self.figures["reads"] += 1
            if [name for name, _version in value] != [name for name, _c in CALLS[call]]:
                raise self.broken(f"{value} for {call}")
            if cursor.account is account:
                account.check_read(CALLS[call], value)
            return value

    def write(self, cursor, name, *, how="statement", clear=True):
        """Give an object a new version; whether that worked."""
        if cursor.readonly or self.database.is_locked(name, cursor.session):
            return False
        with self.using(cursor):
            if cursor.savepoints and how == "function":
                how = "statement"  # as long as nobody knows, it is not known whose change it is
            self.tell(cursor, "writes", name, how)
            cursor.write(name, how)
            if clear:
                self.clear(cursor, KEY_OF[name])
            return True
        return False

    def clear(self, cursor, key):
        """``clear_cache``, or a change of the registry."""
        with self.using(cursor):
            self.tell(cursor, "clears", key)
            keys = CACHES_BY_KEY if key == REGISTRY else [key]
            for each in keys:
                cursor.registry.clear_cache(each)
            if key == REGISTRY:
                cursor.registry.registry_invalidated = True
            cursor.account.uncleared.difference_update(keys)

    def savepoint(self, cursor):
        with self.using(cursor):
            self.tell(cursor, "sets a savepoint")
            cursor.begin_savepoint()

    def end_savepoint(self, cursor, *, rollback):
        with self.using(cursor):
            self.tell(cursor, "rolls back to" if rollback else "releases", "its savepoint")
            cursor.end_savepoint(rollback=rollback)

    def commit(self, cursor, *, callback=None):
        """Commit, after what it has to clear; the signal is another step.

        :param callback: what another one does after the commit: it "fails", or "asks" the database
        """
        with self.using(cursor):
            while cursor.savepoints:
                cursor.end_savepoint(rollback=False)
            for key in sorted(cursor.account.uncleared):
                self.clear(cursor, key)
            self.tell(cursor, "commits", cursor.account.own, callback or "")
            if callback:
                cursor.postcommit.add(getattr(cursor, callback))
            cursor.commit()

    def rollback(self, cursor, *, reset=True, is_lost=False):
        with self.using(cursor):
            self.tell(cursor, "loses the database" if is_lost else "rolls back")
            cursor._cnx.is_lost = is_lost
            cursor.rollback()
            cursor._cnx.is_lost = False
            if reset:
                self.reset(cursor)

    def reset(self, cursor):
        """``reset_changes``."""
        self.tell(cursor, "resets")
        cursor.registry.reset_changes()

    def finish(self, cursor):
        """Close it; what is not committed is lost."""
        with self.using(cursor):
            if cursor.account.own:
                self.rollback(cursor)
            self.tell(cursor, "is closed")
            cursor.close()
            cursor.registry.process.cursors.remove(cursor)

    # -- signals

    def flagged(self):
        """Threads that have something to signal, with their registries."""
        return [
            (registry, thread)
            for process, thread in self.threads()
            for registry in process.registries()
            if registry.to_signal(thread)
        ]

    def signal(self, registry, thread, *, halt=False):
        """``signal_changes``; or all of it but the commit."""
        signal = registry.process.signals[thread] = Signal(registry, thread)
        self.tell(signal, "begins", signal.keys)
        if not halt:
            self.finish_signal(signal)

    def finish_signal(self, signal):
        process = signal.registry.process
        with self.acting(process, signal.thread):
            self.tell(signal, "ends")
            signal.finish()
            del process.signals[signal.thread]
        self.figures["signals"] += 1

    def signals(self):
        """Those that are on their way."""
        return [
            signal
            for process in self.processes
            for thread, signal in process.signals.items()
            if (process, thread) not in self.busy
        ]

    # -- trouble

    def crash(self, process):
        """The process is killed, unless it is at work, and another one takes its place."""
        if any(process is other for other, _thread in self.busy):
            return
        self.tell(process, "crashes")
        for signal in process.signals.values():
            signal.give_up()
        for cursor in process.cursors:
            cursor.session.rollback()
        process.signals.clear()
        process.cursors.clear()
        with contextlib.ExitStack() as stack:
            for thread in range(THREADS):
                stack.enter_context(self.acting(process, thread))
            self.processes[process.number] = Process(self, process.number)

    def evict(self, registry, call=None):
        """Tier 1 is too small: for one value, or for all."""
        for cache in registry.caches.values():
            for key in list(cache):
                if not call or key[1:] == call:
                    del cache[key]

    def change_in_sql(self, name):
        """Give an object a new version, and tell nobody; whether that worked."""
        session = Session(self.database)
        if self.database.is_locked(name, session):
            return False
        version = next(self.database.versions)
        self.tell("SQL", "writes", name, version)
        session.write(name, version)
        session.commit()
        return True

    def verify(self, process):
        """The process looks for changes without a signal; its next check clears what is older."""
        moment = self.database.now
        registry, pins = process.registry, generations.pins_of(process.registry)
        for pin in pins.all():
            generations.verify(registry, pin)
        if any(pin.process == 0 for pin in pins.all()):
            self.tell(process, "finds changes")
            registry.found_changed = moment

    # -- what is seen

    def saw(self, registry, generation, moment):
        """A snapshot has a generation: what is shared under it is no older than promised then."""
        for container in KEYS_OF:
            key = registry.shared._key(container, generation, self._vault)
            self._promises[key] = moment.newer(self._promises.get(key))

    def check_part(self, what, name, container, version, promise):
        """Hold an object's version in a value against what is committed, and what is promised."""
        if version not in self.database.valid:
            raise self.broken(f"{what} has {name} {version}, which is not committed")
        promised = promise.signalled[container, name] if promise else 0
        if version < promised:
            raise self.broken(f"{what} has {name} {version}, promised is {promised}")

    def check_published(self, entry):
        """From now on others may be given the value."""
        value, container = decode(entry.data), entry.key.split(":")[3]
        parts = parts_of(container, value)
        if not parts:
            raise self.broken(f"{value} is no value of {container}")
        for (name, container), (_name, version) in zip(parts, value, strict=True):
            self.check_part("Redis", name, container, version, self._promises[entry.key])
        self.figures["published"] += 1

    def check_found(self, call, value):
        """A transaction was given the value of another."""
        cursor, parts = call.cursor, CALLS[call.key[1:]]
        self.tell(cursor, "has found", tuple(value))
        promise = cursor.account.check or cursor.session.moment or cursor.account.begun
        if [name for name, _version in value] != [name for name, _container in parts]:
            raise self.broken(f"Redis gave {value} for {call.key}")
        for (name, container), (_name, version) in zip(parts, value, strict=True):
            self.check_part("Redis", name, container, version, promise)
        self.figures["found"] += 1

    def audit(self):
        """Whoever begins now may be given what tier 1 has."""
        for process in self.processes:
            for registry in process.registries():
                account = Account(registry)
                for cache in registry.caches.values():
                    for key, value in cache.items():
                        account.check_read(CALLS[key[1:]], value)


def install(monkeypatch):
    """Let ``http_patch`` work with all this."""
    read_generation = generations.read_generation

    def watched_generation(registry, cursor):
        generation = read_generation(registry, cursor)
        if generation.secret:
            registry.cluster.saw(registry, generation, cursor.session.moment)
        return generation

    monkeypatch.setattr(cursor_patch, "_CACHES_BY_KEY", CACHES_BY_KEY)
    monkeypatch.setattr(cursor_patch, "sql_db", SimpleNamespace(Cursor=Cursor))
    monkeypatch.setattr(generations, "KEYS", KEYS)
    monkeypatch.setattr(generations, "KEYS_OF", KEYS_OF)
    monkeypatch.setattr(generations, "_VERIFY_EVERY", float("inf"))
    monkeypatch.setattr(generations, "CursorSnapshot", CursorSnapshot)
    monkeypatch.setattr(generations, "read_generation", watched_generation)
    monkeypatch.setattr(threading.current_thread(), "query_hooks", [], raising=False)
