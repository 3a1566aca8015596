"""A cluster of workers in one process, and what each of their reads may answer.

Real are PostgreSQL and its snapshots, Redis, Odoo's cursors, ``Registry``'s methods and
``ormcache`` as the addon patches them. A worker is a registry of its own, with as much in it as
these methods need; its threads are simulated one after the other. The oracle knows every version of
every object, who committed it, and which commits a signal made known.
"""

import itertools
import threading
from contextlib import suppress
from types import SimpleNamespace

import psycopg2
from odoo import sql_db
from odoo.modules.registry import Registry
from odoo.orm.registry import _CACHES_BY_KEY, _REGISTRY_CACHES
from odoo.tools.cache import ormcache
from odoo.tools.lru import LRU
from psycopg2.errors import LockNotAvailable, SerializationFailure
from psycopg2.extensions import TRANSACTION_STATUS_IDLE

from odoo.addons.redis_session_ormcache.http_patch import generations
from odoo.addons.redis_session_ormcache.ormcache.shared import keys_of_containers
from odoo.addons.redis_session_ormcache.tests.support.steps import LateSignals

KEYS_OF = keys_of_containers(_CACHES_BY_KEY)
TABLES = [f"orm_signaling_{key}" for key in ("registry", *_CACHES_BY_KEY)]
# Objects, and the key that whoever changes them clears.
EDITED = -1  # a version that nobody wrote
KEY_OF = {"s1": "stable", "d1": "default", "d2": "default", "t1": "templates", "g1": "groups"}
# What each container's values come from.
SOURCES = {
    container: tuple(f"versioned WHERE name = '{name}'" for name in names)
    for container, names in {
        "stable": ("s1",),
        "default": ("s1", "d1", "d2"),
        "templates": ("t1", "g1"),
        "groups": ("g1",),
        "templates.cached_values": ("s1", "d1", "d2", "t1", "g1"),
    }.items()
}


class IncoherentError(AssertionError):
    """A read gave what it must not."""


# -- what is cached --------------------------------------------------------------------------------


class Environment(dict):
    """One without models."""

    def __init__(self, cr):
        super().__init__()
        self.cr, self.context = cr, {}
        self.transaction = SimpleNamespace(default_env=None)

    def __call__(self, cr):
        return Environment(cr)


class Cached:
    """A model's stand-in. Values are pairs of an object's name and its version.

    What a method reads, itself or by way of others, is of keys that clear its container: so must
    Odoo's methods be.
    """

    _name, _abstract = "cached", True

    def __init__(self, pool, cr):
        self.pool = pool
        self.env = Environment(cr)

    def with_env(self, env):
        return Cached(self.pool, env.cr)

    def look(self, name):
        self.env.cr.execute("SELECT version FROM versioned WHERE name = %s", [name])
        return (name, self.env.cr.fetchone()[0])

    @ormcache("name", cache="stable")
    def stable(self, name):
        return (self.look(name),)

    @ormcache("name")
    def default(self, name):
        return (self.look(name),)

    @ormcache("name", cache="templates")
    def templates(self, name):
        return (self.look(name),)

    @ormcache("name", cache="groups")
    def groups(self, name):
        return (self.look(name),)

    @ormcache("name")
    def _get_param(self, name):
        """Never shared, because of its name."""
        return (self.look(name),)

    @ormcache("name")
    def greeting(self, name):
        return self._get_param(name)

    @ormcache("name")
    def listed(self, name):
        """A list, which is edited by those who get it."""
        return [self.look(name)]

    @ormcache("name")
    def copied(self, name):
        return tuple(self.listed(name))

    @ormcache()
    def summary(self):
        return (*self.stable("s1"), *self.default("d1"), self.look("d2"))

    @ormcache(cache="templates.cached_values")
    def page(self):
        return (*self.summary(), *self.templates("g1"), *self.templates("t1"), *self.groups("g1"))


_SUMMARY = (("s1", "stable"), ("d1", "default"), ("d2", "default"))
# Per call: the objects in its value, each with the container by whose clearing it is renewed.
CALLS = {
    ("stable", "s1"): (("s1", "stable"),),
    ("default", "s1"): (("s1", "default"),),
    ("default", "d1"): (("d1", "default"),),
    ("default", "d2"): (("d2", "default"),),
    ("templates", "t1"): (("t1", "templates"),),
    ("templates", "g1"): (("g1", "templates"),),
    ("groups", "g1"): (("g1", "groups"),),
    ("_get_param", "d1"): (("d1", "default"),),
    ("greeting", "d1"): (("d1", "default"),),
    ("listed", "d1"): (("d1", "default"),),
    ("copied", "d1"): (("d1", "default"),),
    ("summary",): _SUMMARY,
    ("page",): (*_SUMMARY, ("g1", "templates"), ("t1", "templates"), ("g1", "groups")),
}
VALUES_OF = {
    (method, tuple(name for name, _container in parts)): parts
    for (method, *_arguments), parts in CALLS.items()
}
NESTED = "greeting", "copied", "summary", "page"  # methods that look others up

# -- the oracle ------------------------------------------------------------------------------------


class Promise:
    """What is signalled at one moment: per container and object, a version it is no older than.

    :param signalled: whose own signal was sent: that is what Odoo promises
    :param visible: committed before any signal for the container: what is computed by a snapshot
        that sees the signal, without the help of tier 1, is no older
    """

    def __init__(self, serial, signalled, visible):
        self.serial = serial
        self.signalled, self.visible = signalled, visible

    def newer(self, other):
        return self if other is None or self.serial > other.serial else other


class World:
    """What is true: versions grow in the order of commits, since a writer locks its object."""

    def __init__(self):
        self.numbers = itertools.count(1)
        self.committed = {}
        self.valid = set()
        self.promise = Promise(0, {}, {})

    def begin(self, committed, valid):
        """The database is as given."""
        self.committed, self.valid = dict(committed), set(valid)
        self._promise(dict(committed), KEYS_OF)

    def commit(self, versions):
        self.committed.update(versions)
        self.valid.update(versions.values())

    def signal(self, keys, versions):
        """Whoever sees it from now on, sees all that is committed now.

        :param versions: those that the signaller committed
        """
        everything = "registry" in keys
        self._promise(
            versions,
            [
                container
                for container, keys_of in KEYS_OF.items()
                if everything or not keys.isdisjoint(keys_of)
            ],
        )

    def _promise(self, versions, containers):
        before = self.promise
        self.promise = Promise(
            before.serial + 1,
            before.signalled | {(c, name): v for c in containers for name, v in versions.items()},
            before.visible
            | {(c, name): v for c in containers for name, v in self.committed.items()},
        )


# -- workers ---------------------------------------------------------------------------------------


class ThreadLocal:
    """``threading.local`` for simulated threads."""

    current = (0, 0)  # worker, thread

    def __init__(self):
        vars(self)["_values"] = {}

    def __getattr__(self, name):
        try:
            return self._values[ThreadLocal.current, name]
        except KeyError:
            raise AttributeError(name) from None

    def __setattr__(self, name, value):
        self._values[ThreadLocal.current, name] = value


class Open:
    """An open cursor, and what its user did.

    :param promise: of a snapshot that it takes from a replica which lags
    """

    def __init__(self, worker, thread, registry, cursor, promise=None):
        self.worker, self.thread = worker, thread
        self.registry, self.cursor = registry, cursor
        self.lag = promise
        self.snapshot = self.first_snapshot = None  # promises when they were taken
        self.floor = None  # the promise of its own check
        self.floor_of_worker = worker.floor
        self.base = dict(worker.base)
        self.began_trusted = worker.is_trusted
        self.committed = {}  # what its worker had committed when the snapshot was taken
        self.early = set()  # keys that were signalled before the commit
        self.own = {}  # versions it wrote
        self.earlier = set()  # and replaced, which it may see until it clears
        self.uncleared = set()  # keys it has to clear yet
        self.cleared = []  # the registries whose caches it cleared
        self.savepoints = []

    def about_to_run(self):
        """A query that comes now takes a snapshot, unless there is one."""
        if self.cursor.connection.get_transaction_status() == TRANSACTION_STATUS_IDLE:
            self.snapshot = self.worker.cluster.world.promise
            self.committed = dict(self.worker.committed)
        if self.lag:
            self.snapshot, self.lag = self.lag, None
            self.committed = {}
        if self.first_snapshot is None:
            self.first_snapshot = self.snapshot

    def went_on(self):
        """It was committed: what follows is another transaction."""
        self.own, self.earlier, self.early, self.cleared = {}, set(), set(), []
        self.floor = self.snapshot = self.first_snapshot = None
        self.floor_of_worker = self.worker.floor


class Signal:
    """``signal_changes`` of one thread, stopped before its commit."""

    def __init__(self, cluster, worker, thread, registry, keys):
        self.cluster, self.worker, self.thread = cluster, worker, thread
        self.keys, self.meanwhile = keys, 0
        self.versions = dict(worker.unsignalled[thread])
        self._stopped, self._go, self._given_up = threading.Event(), threading.Event(), False

        def cursor(readonly=False):
            made = Registry.cursor(registry, readonly)
            commit = made.commit

            def stop_then_commit():
                self._stopped.set()
                self._go.wait()
                if self._given_up:
                    raise InterruptedError
                commit()

            made.commit = stop_then_commit
            return made

        def run():
            with suppress(InterruptedError):
                registry.signal_changes()

        registry.cursor = cursor
        self._runner = threading.Thread(target=run, daemon=True)
        self._runner.start()
        self._stopped.wait()
        del registry.cursor

    def finish(self):
        self.cluster.act(self.worker, self.thread)
        self._go.set()
        self._runner.join()
        self.cluster.world.signal(self.keys, self.versions)

    def give_up(self):
        self.cluster.act(self.worker, self.thread)
        self._given_up = True
        self._go.set()
        self._runner.join()


class Worker:
    """A process: a registry, and one thread or two.

    A worker with one thread has one cursor at a time.
    """

    def __init__(self, cluster, number, threads, tier):
        self.cluster, self.number, self.threads = cluster, number, threads
        self.tier = tier  # its own way to Redis
        self.transactions = []
        self.flagged = {thread: [] for thread in range(threads)}  # registries that it invalidated
        self.unsignalled = {thread: {} for thread in range(threads)}  # versions it committed
        self.signals = {}  # on their way, by thread
        self.restart()

    def restart(self):
        self.cluster.act(self)
        self.transactions.clear()
        for flagged in self.flagged.values():
            flagged.clear()
        for versions in self.unsignalled.values():
            versions.clear()
        self.signals.clear()
        self.committed = {}  # per container and object, the version that it committed itself
        self.floor = None  # the promise of its last check
        self.is_trusted = True  # whether its tier 1 is of this database
        # The versions that were committed when it started: what stock Odoo would compute anew.
        self.base = dict(self.cluster.world.committed)
        self.found_changed = {}  # the same, when it last looked for changes without a signal
        self.registry = self.cluster.make_registry()


class Cluster(LateSignals):
    """All workers, their database and their Redis, and what can happen to them."""

    now = None  # the one whose worker acts

    def __init__(self, database, raw, tiers, figures, threads=(1, 1, 2)):
        Cluster.now = self
        self.database, self.raw, self.figures = database, raw, figures
        self.world = World()
        self.reading = None  # the transaction that looks something up
        self.found = []  # what load() gave it meanwhile
        self.seen = {}  # promises, by container and token
        self.hashes = {}  # container and token, by key in Redis
        self.offers = {}  # method and value, by what is sealed
        self.saved = None
        self.replicas = sql_db.ConnectionPool(readonly=True)
        self.lagging = None  # a replica's snapshot: the promise when it was taken, and its name
        _name, self._connection = sql_db.connection_info_for(database)
        self.admin = psycopg2.connect(**self._connection, options="-c lock_timeout=30s")
        self.admin.autocommit = True
        self.acting = None
        self.workers = []
        self.raw.flushall()
        self.make_anew()
        for number, (count, tier) in enumerate(zip(threads, tiers, strict=True)):
            self.workers.append(Worker(self, number, count, tier))

    def close(self):
        try:
            self.disconnect()
        finally:  # an error on the way must leave no lock to the next cluster
            self.catch_up()
            self.replicas.close_all()
            for worker in self.workers:
                self._abandon(worker)
            self.admin.close()

    def act(self, worker, thread=0):
        """What follows is done by this thread."""
        self.acting = worker
        ThreadLocal.current = worker.number, thread

    def make_registry(self):
        """As light as it can be; with ``Registry``'s own methods."""
        registry = object.__new__(Registry)
        registry.db_name = self.database
        registry._db, registry._db_readonly = sql_db.db_connect(self.database), None
        registry._Registry__caches = {name: LRU(size) for name, size in _REGISTRY_CACHES.items()}
        registry._invalidation_flags = ThreadLocal()
        registry.registry_sequence, registry.cache_sequences = -1, {}
        registry._init_modules, registry.models = set(), {}
        registry._setup_models__ = lambda _cr: None
        registry.ready = registry.loaded = True
        registry.setup_signaling()
        return registry

    def reload(self):
        """``Registry.new``."""
        self.figures["reloads"] += 1
        self.acting.registry = self.make_registry()
        return self.acting.registry

    # -- what is published

    def saw(self, generation, cursor):
        """A snapshot read a generation: nothing of that may be older than what it was promised."""
        promise = self.world.promise
        for opened in self.open():
            if opened.cursor is cursor:
                promise = opened.snapshot
        for container in KEYS_OF:
            place = container, generation.token(container)
            self.seen[place] = promise.newer(self.seen.get(place))

    def offered(self, method, value, sealed):
        """A value may be published."""
        name = method.name.rpartition(".")[2]
        self.offers[sealed] = name, tuple(value)  # as it is now: it may be edited before it is sent

    def published(self, key, sealed):
        """Who looks there may be given the value from now on."""
        name, value = self.offers[sealed]
        promise = self.seen.get(self.hashes[key])
        parts = VALUES_OF.get((name, tuple(name_ for name_, _version in value)))
        if parts is None:
            raise IncoherentError(f"{name} is published with another one's parts: {value}")
        self._require_shared(promise, name, parts, value)

    # -- transactions

    def open(self):
        return [opened for worker in self.workers for opened in worker.transactions]

    def begin(self, worker, thread, how):
        """Begin to serve something; what the thread did before is done first.

        :param how: "request" checks, and rolls back; "check" does not roll back; "rpc" checks on
            another cursor, before; "bare" does not check; "direct" neither, and no registry made
            it; "replica" checks on a replica, which lags if there is a snapshot of some time ago
        """
        mine = [opened for opened in worker.transactions if opened.thread == thread]
        if len(mine) > (worker.threads > 1):
            self.commit(mine[0])
            self.finish(mine[0])
        self.signal(worker, thread)
        self.act(worker, thread)
        if how == "rpc":
            self.check(worker, thread)
        if how == "replica":
            opened = self._on_replica(worker, thread)
        else:
            make = worker.registry._db.cursor if how == "direct" else worker.registry.cursor
            opened = Open(worker, thread, worker.registry, make())
        worker.transactions.append(opened)
        if how == "rpc":
            opened.floor = self.world.promise
        elif how not in ("bare", "direct"):
            self.recheck(opened)
        if how == "request":
            opened.cursor.rollback()
        return opened

    def _on_replica(self, worker, thread):
        """A read-only cursor."""
        cursor = sql_db.Connection(self.replicas, self.database, self._connection).cursor()
        if not self.lagging:
            return Open(worker, thread, worker.registry, cursor)
        promise, snapshot = self.lagging
        self.figures["lagging"] += 1
        cursor._obj.execute("SET TRANSACTION SNAPSHOT %s", [snapshot])
        opened = Open(worker, thread, worker.registry, cursor, promise)
        # As in stock Odoo, processes may go on with what it says, until the change is signalled.
        for each in (*self.workers, opened, *self.open()):
            each.base = {}
        return opened

    def lag(self):
        """The replica stops to follow."""
        self.catch_up()
        self.replica = psycopg2.connect(**self._connection)
        self.replica.set_session(isolation_level="REPEATABLE READ", readonly=True)
        with self.replica.cursor() as cr:
            cr.execute("SELECT pg_export_snapshot()")
            self.lagging = self.world.promise, cr.fetchone()[0]

    def catch_up(self):
        """It is as its primary again."""
        if self.lagging:
            self.replica.close()
            self.lagging = None

    def check(self, worker, thread):
        """``check_signaling`` on a cursor of its own."""
        self.act(worker, thread)
        worker.registry = worker.registry.check_signaling()
        worker.base |= worker.found_changed
        worker.floor, worker.is_trusted = self.world.promise, True

    def recheck(self, opened):
        """``check_signaling`` on a cursor, whose snapshot may be older."""
        self._act_for(opened)
        worker = opened.worker
        opened.registry = worker.registry = worker.registry.check_signaling(opened.cursor)
        opened.floor = opened.snapshot.newer(opened.floor)
        worker.floor = opened.floor.newer(worker.floor)
        if not opened.cursor.readonly:  # a replica may say what its former primary said
            worker.is_trusted = True

    def read(self, opened, call):
        """Look something up, and hold it against what is true."""
        self._act_for(opened)
        method, *arguments = call
        worker = opened.worker
        self.reading = opened
        self.found.clear()
        value = getattr(Cached(opened.registry, opened.cursor), method)(*arguments)
        self.figures["reads"] += 1
        for name, found in self.found:
            self.figures["found"] += 1
            parts = VALUES_OF.get((name, tuple(name_ for name_, _version in found)))
            if parts is None:
                raise IncoherentError(f"Redis gave {found} for {name}")
            self._require_shared(opened.floor or opened.first_snapshot, name, parts, found)
            self._require_no_older_than_start(opened, found)
        if tuple(name for name, _version in value) != tuple(name for name, _c in CALLS[call]):
            raise IncoherentError(f"{value} for {call}")
        # After a reload, a transaction that began before still has the tier 1 of that time.
        trusted = opened.began_trusted or opened.registry is worker.registry
        if worker.is_trusted and trusted:
            self._require_no_older_than_start(opened, value)
            for (name, container), (_name, version) in zip(CALLS[call], value, strict=True):
                if version != EDITED:  # as in core: what was edited in a process stays in it
                    self._require_exact(opened, container, name, version)

    def _require_shared(self, promise, method, parts, value):
        """Hold a value in Redis against a promise."""
        promised = {}
        if promise:
            promised = promise.signalled if method in NESTED else promise.visible
        for (_name, container), (name, version) in zip(parts, value, strict=True):
            if version not in self.world.valid:
                raise IncoherentError(f"C2: Redis has {name} {version}, which is not committed")
            if version < promised.get((container, name), 0):
                raise IncoherentError(
                    f"C1: Redis has {name} {version}, promised is {promised[container, name]}"
                )

    @staticmethod
    def _require_no_older_than_start(opened, value):
        """A process that starts is given what stock Odoo would compute then, or newer."""
        for name, version in value:
            mine = name in opened.own or version in opened.earlier or version == EDITED
            if version < opened.base.get(name, 0) and not mine:
                raise IncoherentError(
                    f"C11: {name} is {version}, at the start it was {opened.base[name]}"
                )

    def _require_exact(self, opened, container, name, version):
        if name in opened.own and KEY_OF[name] not in opened.uncleared:
            if version != opened.own[name]:
                raise IncoherentError(f"{name} is {version}, written was {opened.own[name]}")
            return
        mine = version in opened.earlier or version == opened.own.get(name)
        if not mine and version not in self.world.valid:
            raise IncoherentError(f"C2: {name} is {version}, which is not committed")
        floor = opened.floor or opened.floor_of_worker
        if floor and version < (promised := floor.signalled[container, name]):
            raise IncoherentError(f"C1: {name} is {version}, promised is {promised}")
        if version < (committed := opened.committed.get((container, name), 0)):
            raise IncoherentError(f"{name} is {version}, this process has committed {committed}")

    def write(self, opened, name, *, clear):
        """Give an object a new version; whether that worked."""
        if opened.cursor.readonly:
            return False
        self._act_for(opened)
        version = next(self.world.numbers)
        try:
            for query in (
                "SELECT 1 FROM versioned WHERE name = %s FOR UPDATE NOWAIT",
                f"UPDATE versioned SET version = {version} WHERE name = %s",
            ):
                opened.cursor.execute(query, [name], log_exceptions=False)
        except (LockNotAvailable, SerializationFailure):
            self.figures["retries"] += 1
            if opened.savepoints:
                self.end_savepoint(opened, rollback=True)
            else:
                self.rollback(opened, reset=True)
            return False
        opened.earlier.add(opened.own.get(name))
        opened.own[name] = version
        opened.uncleared.add(KEY_OF[name])
        if clear:
            self.clear(opened, KEY_OF[name])
        return True

    def clear(self, opened, key):
        """``clear_cache``; of everything and with the registry, if the key is "registry"."""
        self._act_for(opened, queries=False)
        if key == "registry":
            opened.registry.clear_all_caches()
            opened.registry.registry_invalidated = True
            opened.uncleared.clear()
        else:
            opened.registry.clear_cache(key)
            opened.uncleared.discard(key)
        opened.cleared.append(opened.registry)
        flagged = opened.worker.flagged[opened.thread]
        if not any(registry is opened.registry for registry in flagged):
            flagged.append(opened.registry)

    def savepoint(self, opened):
        self._act_for(opened)
        state = dict(opened.own), set(opened.earlier), set(opened.uncleared)
        opened.savepoints.append((opened.cursor.savepoint(), state))

    def end_savepoint(self, opened, *, rollback):
        self._act_for(opened)
        savepoint, state = opened.savepoints.pop()
        savepoint.close(rollback=rollback)
        if rollback:
            opened.own, opened.earlier, opened.uncleared = state

    def commit(self, opened):
        """Commit, after what it has to clear; the signal is another step."""
        while opened.savepoints:
            self.end_savepoint(opened, rollback=False)
        for key in sorted(opened.uncleared):
            self.clear(opened, key)
        self._act_for(opened, queries=False)
        self.world.commit(opened.own)
        worker = opened.worker
        worker.unsignalled[opened.thread].update(
            (name, version)
            for name, version in opened.own.items()
            if KEY_OF[name] not in opened.early
        )
        opened.cursor.commit()
        if opened.early:  # the addon signals these again
            self.world.signal(opened.early, opened.own)
            self.passed()
        # As in stock Odoo, a registry that took another one's place learns it by the signal.
        if all(registry is worker.registry for registry in opened.cleared):
            for name, version in opened.own.items():
                for container in _CACHES_BY_KEY[KEY_OF[name]]:
                    worker.committed[container, name] = version
        opened.went_on()

    def rollback(self, opened, *, reset):
        self._act_for(opened, queries=False)
        opened.cursor.rollback()
        opened.own, opened.uncleared, opened.savepoints = {}, set(), []
        opened.earlier, opened.early, opened.cleared = set(), set(), []
        if reset:
            for registry in opened.worker.flagged[opened.thread]:
                registry.reset_changes()
            opened.worker.flagged[opened.thread].clear()
            if versions := opened.worker.unsignalled[opened.thread]:
                self.world.signal({KEY_OF[name] for name in versions}, versions)
                self.passed()
                versions.clear()

    def finish(self, opened):
        """Close the cursor; what is not committed is lost."""
        if opened.own or opened.uncleared or opened.savepoints:
            self.rollback(opened, reset=True)
        self._act_for(opened, queries=False)
        opened.cursor.close()
        opened.worker.transactions.remove(opened)

    def _act_for(self, opened, *, queries=True):
        self.act(opened.worker, opened.thread)
        if queries:
            opened.about_to_run()

    # -- signals

    def signal(self, worker, thread, *, halt=False):
        """``signal_changes``, unless something is not committed; or all of it but the commit."""
        flagged = worker.flagged[thread]
        mine = [opened for opened in worker.transactions if opened.thread == thread]
        if not flagged or any(opened.own or opened.uncleared for opened in mine):
            return
        self.act(worker, thread)
        *others, last = flagged
        flagged.clear()
        for registry in others if halt else [*others, last]:
            if keys := keys_to_signal(registry):
                registry.signal_changes()
                self.world.signal(keys, worker.unsignalled[thread])
                self.passed()
        if halt and (keys := keys_to_signal(last)):
            self.figures["late"] += 1
            worker.signals[thread] = Signal(self, worker, thread, last, keys)
        worker.unsignalled[thread].clear()

    def signal_early(self, opened):
        """``signal_changes`` before the commit, as some do; the commit makes it known again."""
        self._act_for(opened, queries=False)
        for registry in opened.worker.flagged[opened.thread]:
            if keys := keys_to_signal(registry):
                registry.signal_changes()
                self.figures["early"] += 1
                self.world.signal(keys, {})
                opened.early |= keys
                self.passed()
        opened.worker.flagged[opened.thread].clear()

    def signals(self):
        return [signal for worker in self.workers for signal in worker.signals.values()]

    def finish_signal(self, signal):
        del signal.worker.signals[signal.thread]
        signal.finish()
        self.passed()

    def tidy(self):
        """What the autovacuum does, but with rows of any age."""
        self._run(
            *(
                f"DELETE FROM {table} WHERE id < (SELECT max(id) - 9 FROM {table})"
                for table in TABLES
            )
        )

    # -- trouble

    def crash(self, worker):
        """The process is killed, and another one takes its place."""
        self.figures["crashes"] += 1
        self._abandon(worker)
        worker.restart()

    @staticmethod
    def _abandon(worker):
        """Close its cursors as the end of a process does: nothing follows a rollback."""
        for signal in list(worker.signals.values()):
            signal.give_up()
        for opened in worker.transactions:
            for hooks in ("postcommit", "prerollback", "postrollback"):
                getattr(opened.cursor, hooks).clear()
            opened.cursor.close()

    def change_in_sql(self, name):
        """Give an object a new version, and tell nobody; whether that worked."""
        version = next(self.world.numbers)
        with self.admin.cursor() as cr:
            cr.execute("SELECT 1 FROM versioned WHERE name = %s FOR UPDATE SKIP LOCKED", [name])
            if not cr.fetchone():
                return False
            cr.execute("UPDATE versioned SET version = %s WHERE name = %s", [version, name])
        self.figures["in SQL"] += 1
        self.world.commit({name: version})
        return True

    def verify(self, worker):
        """The process looks for changes without a signal; its next check clears what is older."""
        self.act(worker)
        for pin in generations.pins_of(worker.registry).all():
            generations.verify(worker.registry, pin)
        # As in stock Odoo, it may go on with what an older transaction on a replica computed.
        if not any(opened.cursor.readonly for opened in worker.transactions):
            worker.found_changed = dict(self.world.committed)
        self.check(worker, 0)

    def evict(self, registry, call=None):
        """Tier 1 is too small: for one value, or for all."""
        for cache in registry._Registry__caches.values():
            for key in list(cache):
                if not call or (key[1].__name__, *key[2:]) == call:
                    cache.pop(key)

    def edit(self, registry):
        """Somebody edits the values that tier 1 gave out."""
        for cache in registry._Registry__caches.values():
            for value in cache.snapshot.values():
                if type(value) is list:
                    value[:] = [(name, EDITED) for name, _version in value]

    def disconnect(self):
        """The database ends all connections."""
        self.catch_up()
        for signal in self.signals():
            del signal.worker.signals[signal.thread]
            signal.give_up()
        for opened in self.open():
            self.rollback(opened, reset=True)
            self.finish(opened)

    def save(self):
        """Dump the database."""
        dump = {}
        with self.admin.cursor() as cr:
            for table in TABLES:
                cr.execute(f"SELECT id, date FROM {table} ORDER BY id")
                dump[table] = cr.fetchall()
        self.saved = dump, self.secret, dict(self.world.committed), set(self.world.valid)

    def restore(self, *, restart):
        """Make the database what it was, with the same identifiers and dates.

        :param restart: whether the workers notice
        """
        if self.saved:
            self.disconnect()
            self.figures["restores"] += 1
            rows, self.secret, committed, valid = self.saved
            self._fill(rows, committed)
            self.world.begin(committed, valid)
            self._replaced(restart)

    def replace(self, *, restart):
        """Make another database of the same name."""
        self.disconnect()
        self.make_anew()
        self._replaced(restart)

    def make_anew(self):
        numbers = self.world.numbers
        versions = {name: next(numbers) for name in KEY_OF}
        self.secret = f"secret {next(numbers)}"
        date = f"2026-01-01 00:00:00.{next(numbers):06}"
        self._fill({table: [(1, date)] for table in TABLES}, versions)
        self.world.begin(versions, versions.values())

    def _replaced(self, restart):
        for worker in self.workers:
            worker.floor, worker.is_trusted = None, False
            worker.committed = {}
            worker.base, worker.found_changed = {}, {}
            for opened in worker.transactions:
                opened.base = {}
            for versions in worker.unsignalled.values():
                versions.clear()
            if restart:
                worker.restart()

    def _fill(self, rows, versions):
        queries = []
        for table, tuples in rows.items():
            queries += [
                f"DROP TABLE IF EXISTS {table}",
                f"CREATE TABLE {table} (id SERIAL PRIMARY KEY, date TIMESTAMP DEFAULT now())",
                f"INSERT INTO {table} VALUES "
                + ", ".join(f"({id_}, '{date}')" for id_, date in tuples),
                f"SELECT setval('{table}_id_seq', {max(id_ for id_, _date in tuples)})",
            ]
        self._run(
            *queries,
            "DROP TABLE IF EXISTS versioned, ir_config_parameter",
            "CREATE TABLE versioned (name text PRIMARY KEY, version int)",
            "CREATE TABLE ir_config_parameter (key text PRIMARY KEY, value text)",
            "CREATE TABLE IF NOT EXISTS res_lang (code text, active bool)",
            f"INSERT INTO ir_config_parameter VALUES ('database.secret', '{self.secret}')",
            "INSERT INTO versioned VALUES " + ", ".join(map(str, versions.items())),
        )

    def _run(self, *queries):
        with self.admin.cursor() as cr:
            cr.execute(";".join(queries))

    # -- Redis

    def fields(self):
        """Hashes and fields that hold a value."""
        return [
            (key, field)
            for key in sorted(self.raw.keys("*"), key=lambda key: key.split(b":")[3])
            for field in sorted(self.raw.hkeys(key))
            if not field.startswith(b"#")
        ]

    def lose_everything(self):
        self.raw.flushall()

    def lose_hash(self, number):
        if keys := self.raw.keys("*"):
            self.raw.delete(keys[number % len(keys)])

    def lose_field(self, number):
        if fields := self.fields():
            self.raw.hdel(*fields[number % len(fields)])

    def swap(self, number, other):
        """Put one field's bytes in another one's place."""
        if fields := self.fields():
            source, target = fields[number % len(fields)], fields[other % len(fields)]
            self.raw.hset(*target, self.raw.hget(*source))


def keys_to_signal(registry):
    """What ``signal_changes`` will insert rows for."""
    return {"registry"} if registry.registry_invalidated else set(registry.cache_invalidated)
