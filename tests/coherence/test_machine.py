"""Whatever workers do and whatever befalls them, no read is older than promised, or uncommitted."""

import contextlib
import functools
import itertools
import logging
import os
from collections import Counter

import hypothesis
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test
from odoo.modules.registry import Registry
from odoo.orm.registry import _CACHES_BY_KEY
from odoo.tools import config
from odoo.tools.cache import ormcache

from odoo.addons.redis_session_ormcache.connection import RedisServer
from odoo.addons.redis_session_ormcache.http_patch import cursor, generations, verification
from odoo.addons.redis_session_ormcache.http_patch import ormcache as lookup_patch
from odoo.addons.redis_session_ormcache.http_patch import registry as registry_patch
from odoo.addons.redis_session_ormcache.ormcache import (
    Generation,
    Outbox,
    RemoteTier,
    Sampling,
    SharedOrmcache,
    outbox,
    pins,
    policy,
    shared,
    tables,
    transaction,
)
from odoo.addons.redis_session_ormcache.ormcache.layers import Layers
from odoo.addons.redis_session_ormcache.ormcache.local import LocalTier, Mark
from odoo.addons.redis_session_ormcache.ormcache.transaction import Transaction
from odoo.addons.redis_session_ormcache.tests.coherence.cluster import (
    CALLS,
    KEYS_OF,
    SOURCES,
    Cluster,
    IncoherentError,
)
from odoo.addons.redis_session_ormcache.tests.support.dose import dose
from odoo.addons.redis_session_ormcache.tests.support.steps import Steps
from stack.servers import Redis

STEPS = dose(6_000, 200_000)
STEPS_OF_ONE = 60
STEPS_TO_FIND = 10_000
WORKERS = 3
VERIFIED_ONE_IN = 3  # of the values of Redis
MAX_BYTES = 2**20
PHASES = [Phase.explicit, Phase.generate]


@pytest.fixture(scope="module")
def cluster_database(postgres):
    """A database with nothing in it."""
    name = f"coherence_{os.getpid()}"
    postgres.createdb(name)
    yield name
    postgres.dropdb(name)


@pytest.fixture(scope="module")
def cluster_redis(tmp_path_factory):
    """A Redis that may be emptied."""
    with Redis(tmp_path_factory.mktemp("redis")) as server:
        yield server


class Code:
    """All workers have the same files, and no translations."""

    content = places = b""
    modules, count = (), 0

    def __init__(self, _modules, _remember):
        pass

    def of_languages(self, _words):
        return b""

    def names_a_place(self, _data):
        return False

    def listing(self):
        return ""


@pytest.fixture
def make_cluster(monkeypatch, cluster_database, cluster_redis):
    """Make a cluster; the addon's patches are in force meanwhile."""
    import redis as driver

    servers = [RedisServer(cluster_redis.url, half="ormcache", timeout=5.0) for _ in range(WORKERS)]
    tiers = [RemoteTier(server, max_bytes=MAX_BYTES) for server in servers]
    for name in ("get_sequences", "check_signaling", "reset_changes", "cursor", "new"):
        monkeypatch.setattr(Registry, name, vars(Registry)[name])
    monkeypatch.setattr(ormcache, "lookup", ormcache.lookup)
    monkeypatch.setattr(ormcache, "add_value", ormcache.add_value)
    monkeypatch.setattr(registry_patch, "_make_shared", None, raising=False)
    monkeypatch.setattr(registry_patch, "Fingerprint", Code)
    Registry.new = classmethod(lambda _cls, _name, **_options: Cluster.now.reload())
    sampling = Sampling(VERIFIED_ONE_IN, ("/",))
    registry_patch.apply(
        lambda database, caches: SharedOrmcache(
            Cluster.now.acting.tier,
            AtOnce(Cluster.now.acting.tier),
            database,
            "c",
            {},
            caches,
            sampling,
        )
    )
    monkeypatch.setattr(verification, "unless_explained", require_explanation)
    lookup_patch.apply()
    monkeypatch.setitem(config.options.maps[0], "test_enable", False)
    # One thread plays all of them: nobody is to wait for another, and nothing is too cheap.
    monkeypatch.setattr(shared, "PATIENCE", 0.0)
    monkeypatch.setattr(shared, "MAX_PATIENCE", 0.0)
    monkeypatch.setattr(policy.Budget, "allows", lambda *_arguments: True)
    monkeypatch.setattr(tables, "SOURCES", SOURCES)
    monkeypatch.setattr(generations, "_VERIFY_EVERY", float("inf"))  # when the machine says so
    monkeypatch.setattr(transaction, "PROOF_AFTER", transaction.PROOF_AFTER)
    watch(monkeypatch)
    for name in ("odoo.registry", "odoo.addons.redis_session_ormcache"):
        monkeypatch.setattr(logging.getLogger(name), "disabled", True)
    figures = Counter()
    with driver.Redis.from_url(cluster_redis.url) as raw:
        make = functools.partial(Cluster, cluster_database, raw, tiers, figures)
        make.figures = figures
        yield make
    for server in servers:
        server.disconnect()


def require_explanation(registry, generation, container, _act):
    """No method here depends on more than its key: a change explains each difference."""
    if verification._is_unchanged(registry, generation, container):
        raise IncoherentError(f"a value of {container} in Redis is taken for wrong")


class AtOnce(Outbox):
    """Sends at once, as where no thread can be started."""

    def _has_thread(self):
        return False


def watch(monkeypatch):
    """Tell the cluster what is read, sealed and published."""
    name_of, load, seal = SharedOrmcache._key, SharedOrmcache._load, SharedOrmcache._entry
    read_generation, publish = generations.read_generation, RemoteTier.publish

    def watched_generation(registry, cr):
        generation = read_generation(registry, cr)
        Cluster.now.saw(generation, cr)
        return generation

    def watched_name(self, container, generation, vault):
        key = name_of(self, container, generation, vault)
        Cluster.now.hashes[key] = container, generation.token(container)
        return key

    def watched_load(self, transaction, slot, call):
        found = load(self, transaction, slot, call)
        if found:
            Cluster.now.found.append((call.method.name.rpartition(".")[2], found.value))
        return found

    def watched_seal(self, slot, method, value, cost):
        entry = seal(self, slot, method, value, cost)
        if entry:
            Cluster.now.offered(method, value, entry.sealed)
        return entry

    def watched_publish(self, key, values):
        for _field, sealed in values:
            Cluster.now.published(key, sealed)
        return publish(self, key, values)

    monkeypatch.setattr(generations, "read_generation", watched_generation)
    monkeypatch.setattr(SharedOrmcache, "_key", watched_name)
    monkeypatch.setattr(SharedOrmcache, "_load", watched_load)
    monkeypatch.setattr(SharedOrmcache, "_entry", watched_seal)
    monkeypatch.setattr(RemoteTier, "publish", watched_publish)


# -- the machine -----------------------------------------------------------------------------------

# What may happen, and how often.
ACTIONS = {
    "serve": 18,
    "read": 18,
    "begin": 8,
    "write": 8,
    "change": 10,
    "commit": 8,
    "rollback": 5,
    "savepoint": 4,
    "attempt": 6,
    "signal": 4,
    "late_signal": 4,
    "early_signal": 4,
    "lag": 3,
    "check": 5,
    "overtake": 6,
    "clear": 2,
    "evict": 3,
    "edit": 2,
    "redis": 6,
    "crash": 1,
    "unsignalled": 4,
    "dump": 2,
    "restore": 2,
    "replace": 1,
    "tidy": 1,
}
D1 = ("default", "d1")
NUMBERS = st.integers(0, 999)
# Calls that have to do with each other; a few only, so that they meet.
FAMILIES = [
    (D1,),
    (D1, ("default", "d2"), ("stable", "s1")),
    (("_get_param", "d1"), ("greeting", "d1")),
    (("listed", "d1"), ("copied", "d1")),
    (D1, ("summary",)),
    (("default", "s1"), ("stable", "s1"), ("summary",)),
    (("templates", "g1"), ("groups", "g1"), ("page",)),
    (("templates", "t1"), ("summary",), ("page",)),
]
WAYS_TO_BEGIN = ("request", "request", "check", "rpc", "bare", "replica")


def build(make_cluster):
    """The state machine."""

    class Machine(Steps, RuleBasedStateMachine):
        @initialize(
            early=st.booleans(),
            calls=st.sampled_from(FAMILIES),
        )
        def start(self, early, calls):
            self.cluster = make_cluster()
            self.cluster.figures["examples"] += 1
            self.calls = calls
            self.names = sorted({name for call in calls for name, _container in CALLS[call]})
            # Publish as soon as it may be, or at the commit.
            transaction.PROOF_AFTER = 0.0 if early else 1000.0

        def teardown(self):
            if hasattr(self, "cluster"):
                self.cluster.close()

        @rule(
            action=st.sampled_from([name for name, often in ACTIONS.items() for _ in range(often)]),
            number=NUMBERS,
            other=NUMBERS,
            flag=st.booleans(),
        )
        def step(self, action, number, other, flag):
            self.cluster.figures["steps"] += 1
            getattr(self, action)(number, other, flag)

        def some(self, number):
            """One of the open transactions, or a new one."""
            opened = [
                each for each in self.cluster.open() if each.thread not in each.worker.signals
            ]
            return opened[number % len(opened)] if opened else self.begin(number, number, False)

        def look(self, opened, number, evict=False):
            call = self.calls[number % len(self.calls)]
            if evict:
                self.cluster.evict(opened.registry, call)
            self.cluster.read(opened, call)

        def begin(self, number, other, _flag):
            threads = [
                (worker, thread)
                for worker in self.cluster.workers
                for thread in range(worker.threads)
                if thread not in worker.signals
            ]
            how = WAYS_TO_BEGIN[other % len(WAYS_TO_BEGIN)]
            return self.cluster.begin(*threads[number % len(threads)], how)

        def serve(self, number, other, evict):
            opened = self.begin(number, other, evict)
            self.look(opened, number // 8, evict)
            self.look(opened, other // 8, evict)
            self.cluster.commit(opened)
            self.cluster.finish(opened)

        def read(self, number, other, evict):
            opened = self.some(number)
            self.look(opened, other, evict)
            self.look(opened, other // 8, evict)

        def write(self, number, other, clear):
            self.cluster.write(self.some(number), self.name(other), clear=clear)

        def change(self, number, other, signal):
            opened = self.begin(number, 0, signal)
            if self.cluster.write(opened, self.name(other), clear=True):
                self.cluster.commit(opened)
            self.cluster.finish(opened)
            if signal:
                self.cluster.signal(opened.worker, opened.thread)

        def clear(self, number, other, _flag):
            keys = [*_CACHES_BY_KEY, "registry"]
            self.cluster.clear(self.some(number), keys[other % len(keys)])

        def commit(self, number, other, finish):
            opened = self.some(number)
            self.cluster.commit(opened)
            if finish:
                self.cluster.finish(opened)
            if other % 2:
                self.cluster.signal(opened.worker, opened.thread)

        def rollback(self, number, other, finish):
            opened = self.some(number)
            self.cluster.rollback(opened, reset=bool(other % 4))
            if finish:
                self.cluster.finish(opened)

        def attempt(self, number, other, clear):
            opened = self.some(number)
            self.cluster.savepoint(opened)
            if self.cluster.write(opened, self.name(other), clear=clear):
                self.look(opened, number, evict=True)
                self.cluster.end_savepoint(opened, rollback=True)

        def signal(self, number, _other, halt):
            waiting = [
                (worker, thread)
                for worker in self.cluster.workers
                for thread, flagged in worker.flagged.items()
                if flagged and thread not in worker.signals
            ]
            if waiting:
                halt = halt and len(self.cluster.signals()) < WORKERS
                self.cluster.signal(*waiting[number % len(waiting)], halt=halt)

        def late_signal(self, number, other, flag):
            signals = self.cluster.signals()
            if signals and flag:
                self.cluster.finish_signal(signals[number % len(signals)])
            elif len(signals) < WORKERS:
                opened = self.begin(number, 0, flag)
                if self.cluster.write(opened, self.name(other), clear=True):
                    self.cluster.commit(opened)
                self.cluster.finish(opened)
                self.cluster.signal(opened.worker, opened.thread, halt=True)

        def early_signal(self, number, other, commit):
            opened = self.begin(number, 0, commit)
            if self.cluster.write(opened, self.name(other), clear=True):
                self.look(opened, number // 8)
                self.cluster.signal_early(opened)
                if commit:
                    self.serve(number // 8, other, False)
                    if not opened.cursor.closed:
                        self.cluster.commit(opened)

        def lag(self, _number, _other, catch_up):
            if catch_up:
                self.cluster.catch_up()
            else:
                self.cluster.lag()

        def check(self, number, other, alone):
            opened = self.some(number)
            if alone:
                self.cluster.check(opened.worker, opened.thread)
                self.look(opened, other)
            elif not opened.worker.flagged[opened.thread]:
                self.cluster.recheck(opened)

        def overtake(self, number, other, alone):
            """A cursor or, where the cursor does not check, tier 1 is behind what is signalled."""
            opened = self.some(number)
            worker, thread = opened.worker, opened.thread
            self.change(1 - worker.number % 2, other, True)
            if opened.cursor.closed or not alone:
                opened = self.cluster.begin(worker, thread, "bare")
            else:
                self.cluster.check(worker, thread)
            self.look(opened, other, evict=True)

        def evict(self, number, _other, _flag):
            self.cluster.evict(self.cluster.workers[number % WORKERS].registry)

        def edit(self, number, _other, _flag):
            self.cluster.edit(self.cluster.workers[number % WORKERS].registry)

        def redis(self, number, other, flag):
            match number % 8:
                case 0:
                    self.cluster.lose_everything()
                case 1:
                    self.cluster.lose_hash(other)
                case 2 | 3:
                    self.cluster.lose_field(other)
                case _:
                    self.cluster.swap(number, other)

        def crash(self, number, _other, _flag):
            self.cluster.crash(self.cluster.workers[number % WORKERS])

        def unsignalled(self, number, other, restart):
            """Somebody changes a row in SQL; then a process starts, or looks for that."""
            if self.cluster.change_in_sql(self.name(other)):
                worker = self.cluster.workers[number % WORKERS]
                if restart:
                    self.cluster.crash(worker)
                elif not worker.signals:
                    self.cluster.verify(worker)

        def dump(self, _number, _other, _flag):
            self.cluster.save()

        def restore(self, _number, _other, restart):
            self.cluster.restore(restart=restart)

        def replace(self, _number, _other, restart):
            self.cluster.replace(restart=restart)

        def tidy(self, _number, _other, _flag):
            self.cluster.tidy()

    return Machine


def run(make_cluster, steps, number):
    """Run it for about so many steps, which a number decides on."""
    run_state_machine_as_test(
        hypothesis.seed(number)(build(make_cluster)),
        settings=settings(
            max_examples=steps // STEPS_OF_ONE + 1,
            stateful_step_count=STEPS_OF_ONE,
            deadline=None,
            database=None,
            phases=PHASES,
            suppress_health_check=list(HealthCheck),
            print_blob=True,
        ),
    )


def test_no_read_is_wrong(make_cluster, seed):
    """In at least ``STEPS`` no read is older than promised, nor of what is not committed."""
    figures = make_cluster.figures
    for number in itertools.count(seed):
        if figures["steps"] >= STEPS:
            break
        run(make_cluster, max(STEPS - figures["steps"], 1_000), number)
    print(dict(figures))


# -- one after the other ---------------------------------------------------------------------------

SUMMARY = ("summary",)


def serve(cluster, worker, *calls, how="request", thread=0):
    """A transaction that reads."""
    opened = cluster.begin(worker, thread, how)
    for call in calls:
        cluster.read(opened, call)
    cluster.commit(opened)
    cluster.finish(opened)


def commit_change(cluster, worker, name, thread=0):
    """A change that is committed, and not signalled yet; its cursor."""
    opened = cluster.begin(worker, thread, "request")
    assert cluster.write(opened, name, clear=True)
    cluster.commit(opened)
    return opened


def change(cluster, worker, name, thread=0):
    """A change that is signalled."""
    cluster.finish(commit_change(cluster, worker, name, thread))
    cluster.signal(worker, thread)


def a_cursor_without_a_check(cluster):
    """What it computes with the help of tier 1 is no newer than that."""
    one, two, _threads = cluster.workers
    serve(cluster, one, D1)
    change(cluster, two, "d1")
    serve(cluster, one, SUMMARY, how="bare")
    serve(cluster, two, SUMMARY)


def an_old_snapshot(cluster, flagged=False):
    """It leaves tier 1 alone after another cursor's check."""
    one, two, _threads = cluster.workers
    opened = cluster.begin(one, 0, "check")
    change(cluster, two, "d1")
    cluster.check(one, 0)
    if flagged:
        cluster.clear(opened, "default")
    cluster.read(opened, D1 if flagged else ("_get_param", "d1"))
    cluster.commit(opened)
    cluster.finish(opened)
    cluster.signal(one, 0)
    serve(cluster, one, SUMMARY if flagged else ("greeting", "d1"))
    cluster.evict(two.registry)
    serve(cluster, two, SUMMARY if flagged else ("greeting", "d1"))


def an_old_snapshot_that_invalidates(cluster):
    """So it does when it has invalidated something itself."""
    an_old_snapshot(cluster, flagged=True)


def a_rollback(cluster, clear=False, whole=True):
    """What came of it is gone from tier 1 too."""
    one, two, _threads = cluster.workers
    opened = cluster.begin(one, 0, "request")
    if not whole:
        cluster.savepoint(opened)
    cluster.write(opened, "d1", clear=clear)
    cluster.read(opened, D1)
    if whole:
        cluster.rollback(opened, reset=True)
    else:
        cluster.end_savepoint(opened, rollback=True)
    cluster.commit(opened)
    cluster.finish(opened)
    cluster.signal(one, 0)
    serve(cluster, one, SUMMARY)
    serve(cluster, two, SUMMARY)


def a_rollback_of_an_invalidation(cluster):
    """The same, where a cache was cleared."""
    a_rollback(cluster, clear=True)


def a_savepoint(cluster):
    """The same, to a savepoint."""
    a_rollback(cluster, whole=False)


def a_savepoint_with_an_invalidation(cluster):
    """The same, to a savepoint after which a cache was cleared."""
    a_rollback(cluster, clear=True, whole=False)


def another_thread(cluster):
    """What it has not committed is in tier 1, and nothing is computed from it for others."""
    _one, two, threads = cluster.workers
    opened = cluster.begin(threads, 0, "request")
    cluster.write(opened, "d1", clear=True)
    cluster.read(opened, D1)
    serve(cluster, threads, SUMMARY, thread=1)
    cluster.rollback(opened, reset=True)
    serve(cluster, two, SUMMARY)


def a_reload(cluster):
    """What was invalidated is asked of the registry in use."""
    one, two, _threads = cluster.workers
    opened = cluster.begin(two, 0, "request")
    cluster.clear(opened, "registry")
    cluster.commit(opened)
    cluster.finish(opened)
    cluster.signal(two, 0)
    opened = cluster.begin(one, 0, "check")
    cluster.write(opened, "d1", clear=False)
    cluster.read(opened, D1)
    cluster.write(opened, "d1", clear=True)
    cluster.commit(opened)
    serve(cluster, two, D1)


def an_old_transaction(cluster):
    """What it computes after somebody's signal belongs to the state before."""
    one, two, _threads = cluster.workers
    opened = cluster.begin(one, 0, "request")
    cluster.read(opened, ("stable", "s1"))
    change(cluster, two, "d1")
    cluster.read(opened, D1)
    cluster.commit(opened)
    cluster.finish(opened)
    cluster.evict(two.registry)
    serve(cluster, two, D1)


def a_local_method(cluster):
    """What is never shared is in tier 1 too, and others are computed from it."""
    one, two, _threads = cluster.workers
    opened = cluster.begin(one, 0, "bare")
    opened.about_to_run()
    opened.cursor.execute("SELECT 1")  # takes the snapshot
    change(cluster, two, "d1")
    cluster.check(one, 0)
    cluster.read(opened, ("_get_param", "d1"))
    cluster.commit(opened)
    cluster.finish(opened)
    serve(cluster, one, ("greeting", "d1"))
    serve(cluster, two, ("greeting", "d1"))


def another_thread_before_it_clears(cluster):
    """The same, where it has changed something and not cleared the cache yet."""
    _one, two, threads = cluster.workers
    opened = cluster.begin(threads, 0, "request")
    cluster.write(opened, "d1", clear=False)
    cluster.read(opened, D1)
    serve(cluster, threads, SUMMARY, thread=1)
    cluster.rollback(opened, reset=True)
    serve(cluster, two, SUMMARY)


def a_thread_that_computed_from_another(cluster):
    """What it computed goes with what it was computed from."""
    _one, two, threads = cluster.workers
    opened = cluster.begin(threads, 0, "request")
    cluster.write(opened, "d1", clear=False)
    cluster.read(opened, D1)
    serve(cluster, threads, SUMMARY, thread=1)
    cluster.rollback(opened, reset=True)
    serve(cluster, threads, ("page",), thread=1)
    serve(cluster, two, ("page",))


def another_cursor_of_a_thread(cluster):
    """It sees the state before, and fills tier 1 while the change is not signalled."""
    _one, two, threads = cluster.workers
    opened = cluster.begin(threads, 0, "request")
    cluster.write(opened, "s1", clear=True)
    serve(cluster, threads, SUMMARY, how="bare")
    cluster.commit(opened)
    cluster.finish(opened)
    cluster.signal(threads, 0)
    serve(cluster, threads, ("page",), how="rpc")
    serve(cluster, two, ("page",))


def another_cursor_that_fails(cluster):
    """With it, the thread forgets that the first has changed what it computed."""
    _one, two, threads = cluster.workers
    opened = cluster.begin(threads, 0, "request")
    cluster.write(opened, "d1", clear=False)
    cluster.read(opened, D1)
    cluster.write(opened, "d1", clear=True)
    other = cluster.begin(threads, 0, "bare")
    cluster.rollback(other, reset=True)
    cluster.finish(other)
    cluster.commit(opened)
    cluster.finish(opened)
    serve(cluster, two, D1)


def an_edit(cluster):
    """What is computed from an edited value is not for others, nor is what comes of that."""
    one, two, _threads = cluster.workers
    serve(cluster, one, ("listed", "d1"))
    cluster.edit(one.registry)
    serve(cluster, one, ("copied", "d1"))
    serve(cluster, two, ("copied", "d1"))


def a_restore(cluster):
    """A database that is set back, and gets to the same ids again, is noticed."""
    one, two, _threads = cluster.workers
    cluster.save()
    change(cluster, two, "d1")
    serve(cluster, one, D1)
    cluster.restore(restart=False)
    change(cluster, two, "d1")
    serve(cluster, one, D1)
    serve(cluster, one, SUMMARY)


def a_swapped_value(cluster):
    """A value that somebody put in another one's place does not open there."""
    one, two, _threads = cluster.workers
    calls = D1, ("default", "d2")
    serve(cluster, one, *calls)
    for number in range(len(cluster.fields())):
        cluster.swap(number, number + 1)
        serve(cluster, two, *calls)
        cluster.crash(two)


def a_change_in_sql(cluster, how="restart"):
    """A process that starts after it, or looks for it, computes anew, whatever others have."""
    one, two, _threads = cluster.workers
    serve(cluster, one, D1, SUMMARY)
    serve(cluster, two, D1)
    assert cluster.change_in_sql("d1")
    serve(cluster, one, D1, ("page",))
    if how == "restart":
        cluster.crash(two)
    elif how == "verify":
        cluster.verify(two)
    else:
        change(cluster, two, "t1")
        one.base["d1"] = two.base["d1"] = cluster.world.committed["d1"]
        serve(cluster, one, D1, ("page",))
    serve(cluster, two, D1, SUMMARY, ("page",))


def a_change_in_sql_that_is_looked_for(cluster):
    """The same, where a process that goes on looks whether there was one."""
    a_change_in_sql(cluster, "verify")


def a_change_in_sql_before_a_signal(cluster):
    """The same, where something else was signalled: nothing new is computed from what is old."""
    a_change_in_sql(cluster, "signal")


def a_change_in_sql_after_a_replica(cluster):
    """Values that were computed on the replica go, whatever else was signalled meanwhile."""
    _one, two, threads = cluster.workers
    serve(cluster, threads)
    change(cluster, two, "s1")
    serve(cluster, threads, ("stable", "s1"), how="replica")
    assert cluster.change_in_sql("s1")
    change(cluster, two, "d1")
    cluster.verify(threads)
    serve(cluster, threads, ("stable", "s1"), how="bare")


def a_change_in_sql_under_a_transaction(cluster):
    """What an old snapshot sees does not pass for the state that the process has read since."""
    one, two, threads = cluster.workers
    change(cluster, two, "t1")
    opened = cluster.begin(threads, 0, "bare")
    opened.about_to_run()
    opened.cursor.execute("SELECT 1")  # takes the snapshot
    assert cluster.change_in_sql("d1")
    cluster.check(threads, 1)
    cluster.read(opened, D1)
    cluster.commit(opened)
    cluster.finish(opened)
    serve(cluster, threads, SUMMARY, thread=1)
    cluster.crash(one)
    serve(cluster, one, D1, SUMMARY)


def a_commit_meanwhile(cluster):
    """Values that a transaction computed of the state before do not come back to tier 1."""
    _one, _two, threads = cluster.workers
    other = cluster.begin(threads, 1, "request")
    cluster.write(other, "t1", clear=True)
    cluster.read(other, D1)
    opened = commit_change(cluster, threads, "d1")
    cluster.commit(other)
    cluster.read(opened, D1)


def a_commit_before_its_signal(cluster):
    """The process that has committed it sees it, whatever Redis has."""
    _one, two, threads = cluster.workers
    serve(cluster, two, D1)
    opened = commit_change(cluster, threads, "d1")
    serve(cluster, threads, D1, SUMMARY, thread=1)
    cluster.read(opened, D1)


def a_cursor_that_goes_on(cluster):
    """After its commit it is given nothing older than what is signalled then."""
    one, two, threads = cluster.workers
    serve(cluster, two, D1)
    opened = cluster.begin(one, 0, "request")
    cluster.read(opened, ("stable", "s1"))
    cluster.commit(opened)
    change(cluster, threads, "d1")
    cluster.read(opened, D1)


def a_commit_of_nothing(cluster):
    """It ends what the check before it saw, though nothing was executed in between."""
    one, two, threads = cluster.workers
    serve(cluster, two, D1)
    opened = cluster.begin(one, 0, "request")
    cluster.commit(opened)
    change(cluster, threads, "d1")
    cluster.read(opened, D1)


def a_replica_that_lags(cluster):
    """Its answers leave alone the values that others of its process are given."""
    _one, two, threads = cluster.workers
    serve(cluster, threads, how="replica")
    cluster.lag()
    change(cluster, two, "d1")
    opened = cluster.begin(threads, 0, "check")
    other = cluster.begin(threads, 1, "replica")
    cluster.read(other, D1)
    cluster.read(opened, D1)
    cluster.read(opened, SUMMARY)
    cluster.commit(opened)
    serve(cluster, two, SUMMARY)


def a_cursor_of_nobodys(cluster):
    """One that was not made by a registry, and has written before its first lookup."""
    one, two, _threads = cluster.workers
    opened = cluster.begin(one, 0, "direct")
    cluster.write(opened, "d1", clear=False)
    cluster.read(opened, D1)
    serve(cluster, two, D1)
    cluster.rollback(opened, reset=True)
    serve(cluster, two, D1)


def a_registry_in_place_of_another(cluster, to_savepoint=False):
    """A cursor that goes on with it sees what it wrote; what it undoes is nowhere."""
    one, two, threads = cluster.workers
    opened = cluster.begin(threads, 0, "bare")
    if to_savepoint:
        cluster.savepoint(opened)
    cluster.write(opened, "d1", clear=not to_savepoint)
    if to_savepoint:
        cluster.read(opened, D1)
    other = cluster.begin(one, 0, "request")
    cluster.clear(other, "registry")
    cluster.commit(other)
    cluster.finish(other)
    cluster.signal(one, 0)
    serve(cluster, two, D1)
    cluster.check(threads, 1)
    serve(cluster, threads, ("default", "d2"), thread=1)  # fetches the hash
    opened.registry = threads.registry
    cluster.read(opened, ("stable", "s1") if to_savepoint else D1)
    if to_savepoint:
        cluster.end_savepoint(opened, rollback=True)
        cluster.read(opened, D1)
    cluster.commit(opened)
    cluster.finish(opened)
    serve(cluster, threads, D1, SUMMARY, thread=1)
    cluster.signal(threads, 0)
    serve(cluster, two, D1, SUMMARY)


def a_savepoint_and_another_registry(cluster):
    """The same, when it goes back to a savepoint that the other one knows."""
    a_registry_in_place_of_another(cluster, to_savepoint=True)


def a_failure_after_a_commit(cluster):
    """A committed change is signalled, though Odoo forgets to."""
    one, two, _threads = cluster.workers
    serve(cluster, two, D1)
    opened = commit_change(cluster, one, "d1")
    cluster.write(opened, "d2", clear=True)
    cluster.rollback(opened, reset=True)
    serve(cluster, two, D1)
    cluster.read(opened, D1)


def an_early_signal(cluster):
    """After the commit it is made known again, also to those who have looked in between."""
    one, two, _threads = cluster.workers
    opened = cluster.begin(one, 0, "request")
    cluster.write(opened, "d1", clear=True)
    cluster.signal_early(opened)
    serve(cluster, two, D1, SUMMARY)
    cluster.commit(opened)
    cluster.finish(opened)
    serve(cluster, two, D1, SUMMARY)


SCENARIOS = [
    a_commit_meanwhile,
    a_commit_before_its_signal,
    a_cursor_that_goes_on,
    a_commit_of_nothing,
    a_replica_that_lags,
    a_cursor_of_nobodys,
    a_registry_in_place_of_another,
    a_savepoint_and_another_registry,
    a_failure_after_a_commit,
    an_early_signal,
    a_swapped_value,
    a_change_in_sql,
    a_change_in_sql_that_is_looked_for,
    a_change_in_sql_before_a_signal,
    a_change_in_sql_under_a_transaction,
    a_change_in_sql_after_a_replica,
    an_old_transaction,
    a_restore,
    a_cursor_without_a_check,
    an_old_snapshot,
    an_old_snapshot_that_invalidates,
    a_rollback,
    a_rollback_of_an_invalidation,
    a_savepoint,
    a_savepoint_with_an_invalidation,
    another_thread,
    another_thread_before_it_clears,
    a_thread_that_computed_from_another,
    a_local_method,
    a_reload,
    another_cursor_of_a_thread,
    another_cursor_that_fails,
    an_edit,
]


def play(make_cluster, scenario):
    """One scenario, in which all is published as soon as it may be."""
    transaction.PROOF_AFTER = 0.0
    cluster = make_cluster()
    try:
        scenario(cluster)
    finally:
        cluster.close()


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.__name__)
def test_a_rare_case_is_right(make_cluster, scenario):
    """Sequences that chance seldom finds."""
    play(make_cluster, scenario)


# -- bugs on purpose -------------------------------------------------------------------------------


def generation_at_publication(patch):
    """The generation is read when a value is sealed."""
    seal = SharedOrmcache._entry

    def late(self, slot, method, value, cost):
        registry, container = Cluster.now.reading.registry, slot.hash.key.split(":")[3]
        with registry.cursor() as cr:
            newer = generations.read_generation(registry, cr)
        hash_ = shared.Hash(self._key(container, newer, slot.vault), {}, 0.0)
        return seal(self, slot._replace(hash=hash_), method, value, cost)

    patch.setattr(SharedOrmcache, "_entry", late)


def no_proof(patch):
    """Values are published before the commit, whatever was written before the first lookup."""
    patch.setattr(generations, "wrote_nothing", lambda _cursor: True)


def statements_ignored(patch):
    """Nothing tells of what a transaction writes, nor of its savepoints."""
    patch.setattr(cursor.Connection, "ran", lambda self, _query: self._hear_of_end())


def published_on_rollback(patch):
    """A rollback is taken for a commit."""

    def rolled_back(self):
        self._layers.flatten()
        self._hand_over()
        self._begin(keeps_generation=False)

    patch.setattr(Transaction, "rolling_back", lambda *_args, **_options: None)
    patch.setattr(Transaction, "rolled_back", rolled_back)


def guessed_sequences(patch):
    """``cache_sequences``, a guess after ``signal_changes``, stands for the generation."""

    def guess(self):
        registry = self._connection.registry
        keys = ["registry", *_CACHES_BY_KEY]
        ids = [registry.registry_sequence, *(registry.cache_sequences[key] for key in keys[1:])]
        rows = [[f"({number},)"] for number in ids]
        found = Generation.from_rows(keys, rows, "", "1:1:", KEYS_OF)
        found.secret = generations.pins_of(registry).all()[0].generation.secret
        return found

    patch.setattr(Transaction, "generation", guess)
    patch.setattr(LocalTier, "agrees", lambda *_args: True)


def ids_only(patch):
    """A generation is numbers, which repeat after a restore."""

    def token(self, container):
        return repr([self.ids[key] for key in ("registry", *KEYS_OF[container])]).encode()

    patch.setattr(Generation, "token", token)


def kept_after_a_commit(patch):
    """A cursor goes on with its generation after a commit."""
    begin = Transaction._begin

    def begin_with_it(self, **_options):
        begin(self, keeps_generation=True)

    patch.setattr(Transaction, "_begin", begin_with_it)


def flags_ignored(patch):
    """Whoever invalidated something goes on sharing."""
    patch.setattr(Transaction, "invalidate", lambda *_args: None)


def savepoints_ignored(patch):
    """A rollback to a savepoint drops nothing."""
    patch.setattr(Layers, "roll_back", lambda *_args: (set(), []))


def below_the_savepoint(patch):
    """Values that a savepoint computes of its own changes belong to the transaction."""
    put = Layers.put

    def put_below(self, *arguments):
        stack, self._stack = self._stack, self._stack[:1]
        put(self, *arguments)
        self._stack = stack

    patch.setattr(Layers, "put", put_below)


def unbound(patch):
    """What is sealed for one field opens in another."""
    patch.setattr(shared.Slot, "bound", b"")
    patch.setattr(outbox, "place", lambda *_arguments: b"")


def any_state(patch):
    """What an old snapshot sees, or one newer than tier 1, belongs in tier 1."""
    patch.setattr(LocalTier, "agrees", lambda *_args: True)


def old_fills(patch):
    """What a transaction that is not in step computed goes to tier 1 when it ends."""
    agrees, merge = LocalTier.agrees, LocalTier.merge

    def merge_any(self, *arguments):
        patch.setattr(LocalTier, "agrees", lambda *_args: True)
        try:
            return merge(self, *arguments)
        finally:
            patch.setattr(LocalTier, "agrees", agrees)

    patch.setattr(LocalTier, "merge", merge_any)


def seen_at_once(patch):
    """The values of a transaction are in tier 1 at once, as in core."""
    keep = Transaction.keep

    def keep_and_show(self, container, key, computed, cost):
        self._local._caches[container][key] = computed.value
        keep(self, container, key, computed, cost)

    patch.setattr(Transaction, "keep", keep_and_show)


def never_ahead(patch):
    """A process shares what it has changed, before it has signalled that."""
    patch.setattr(LocalTier, "is_ahead", lambda *_args: False)


def late_merges(patch):
    """What was computed before another transaction's commit goes to tier 1 after it."""
    patch.setattr(LocalTier, "mark", lambda self, **_options: Mark(self._commits, self._signals))


def signalled_once(patch):
    """A signal that came before its commit is not repeated."""
    patch.setattr(Transaction, "signalled", lambda *_args: None)


def forgotten_commits(patch):
    """A failure has a thread forget to signal what it committed before, as in core."""
    patch.setattr(cursor.Invalidated, "note_commit", lambda *_arguments: None)


def replicas_lead(patch):
    """A replica that lags moves tier 1 back."""
    patch.setattr(Generation, "_lags", lambda *_args: False)


def core_decides_what_to_clear(patch):
    """``check_signaling`` compares newest ids only, and not with those of its own process."""
    patch.setattr(Generation, "follows", lambda *_args: True)
    patch.setattr(LocalTier, "_clear", lambda *_args: None)


def tables_ignored(patch):
    """Only signals tell one state of the database from another."""
    patch.setattr(tables, "states_of", lambda *_args: {})


def snapshots_ignored(patch):
    """An old snapshot goes by the state of the tables that a later one has read."""
    patch.setattr(pins, "is_earlier", lambda *_args: False)


def changes_kept(patch):
    """What was computed before a change that nobody signalled stays in tier 1."""
    learn = LocalTier.learn

    def learn_ids(self, seen, mark=None, **options):
        if self._state is not None and self._state.ids == seen.ids:
            self._state = seen
            return False
        return learn(self, seen, mark, **options)

    patch.setattr(LocalTier, "learn", learn_ids)


def edits_ignored(patch):
    """Values that their callers edited count as what they were."""
    patch.setattr(SharedOrmcache, "_any_edited", lambda *_args: False)


def forgotten_by_another_registry(patch):
    """A registry that takes another one's place knows nothing of its transactions."""
    patch.setattr(Transaction, "take_over", lambda *_args: None)


def differences_unexplained(patch):
    """A change that is committed and not signalled yet passes for a wrong value in Redis."""
    patch.setattr(verification, "_is_unchanged", lambda *_args: True)


BUGS = [
    tables_ignored,
    snapshots_ignored,
    changes_kept,
    generation_at_publication,
    no_proof,
    statements_ignored,
    published_on_rollback,
    guessed_sequences,
    ids_only,
    kept_after_a_commit,
    flags_ignored,
    savepoints_ignored,
    below_the_savepoint,
    unbound,
    any_state,
    old_fills,
    seen_at_once,
    never_ahead,
    late_merges,
    signalled_once,
    forgotten_commits,
    replicas_lead,
    core_decides_what_to_clear,
    edits_ignored,
    forgotten_by_another_registry,
    differences_unexplained,
]


@pytest.mark.plant
@pytest.mark.parametrize("plant", BUGS, ids=lambda plant: plant.__name__)
def test_a_bug_is_found(make_cluster, monkeypatch, seed, plant):
    """Each of the mistakes that the design avoids breaks C1 or C2, in a scenario or by chance."""
    plant(monkeypatch)
    found = []
    monkeypatch.setattr(IncoherentError, "__init__", lambda self, text: found.append(text))
    for scenario in SCENARIOS:
        with contextlib.suppress(Exception):
            play(make_cluster, scenario)
    if not found:
        with contextlib.suppress(Exception):  # when run again, it may fail in another way
            run(make_cluster, STEPS_TO_FIND, seed)
    assert found
    print(found[0], dict(make_cluster.figures))
