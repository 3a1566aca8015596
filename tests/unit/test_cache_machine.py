"""In memory, in any order of events, no read is older than promised, or uncommitted."""

import atexit
import contextlib
import itertools
import os
from collections import Counter
from random import Random
from typing import NamedTuple

import hypothesis
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from odoo.addons.redis_session_ormcache.http_patch import cursor as cursor_patch
from odoo.addons.redis_session_ormcache.http_patch.cursor import Connection
from odoo.addons.redis_session_ormcache.ormcache import (
    Generation,
    SharedOrmcache,
    Transaction,
    outbox,
    pins,
    policy,
    shared,
    tables,
    transaction,
)
from odoo.addons.redis_session_ormcache.ormcache.generation import REGISTRY
from odoo.addons.redis_session_ormcache.ormcache.layers import Layers
from odoo.addons.redis_session_ormcache.ormcache.local import LocalTier
from odoo.addons.redis_session_ormcache.ormcache.pins import Found
from odoo.addons.redis_session_ormcache.tests.support import fake_processes as fake
from odoo.addons.redis_session_ormcache.tests.support.dose import dose
from odoo.addons.redis_session_ormcache.tests.support.fake_processes import (
    CACHES_BY_KEY,
    CALLS,
    Cluster,
    IncoherentError,
)
from odoo.addons.redis_session_ormcache.tests.support.steps import Steps

STEPS = dose(10_000, 300_000)
AT_ONCE, CHOICES = 8, 6  # steps, and how often so many in one example
STEPS_TO_FIND = 20_000
PROCESSES = 2

# What may happen, and how often.
ACTIONS = {
    "serve": 16,
    "read": 20,
    "begin": 8,
    "write": 9,
    "change": 8,
    "clear": 4,
    "commit": 8,
    "rollback": 5,
    "savepoint": 6,
    "attempt": 5,
    "signal": 5,
    "late_signal": 5,
    "check": 5,
    "evict": 3,
    "edit": 4,
    "redis": 4,
    "outbox": 3,
    "crash": 1,
    "unsignalled": 3,
    "replay": 4,
    "tidy": 1,
}
EVENTS = [name for name, often in ACTIONS.items() for _ in range(often)]
D1, D2, S1, T1 = (
    (fake.default, "d1"),
    (fake.default, "d2"),
    (fake.stable, "s1"),
    (fake.templates, "t1"),
)
SUMMARY, PAGE = (fake.summary,), (fake.page,)
# Calls that have to do with each other; a few only, so that they meet.
FAMILIES = [
    (D1,),
    (D1, D2, S1),
    ((fake._get_param, "d1"), (fake.greeting, "d1")),
    ((fake.listed, "d1"), (fake.copied, "d1"), (fake.quoted, "d1")),
    (D1, SUMMARY),
    ((fake.default, "s1"), S1, SUMMARY),
    ((fake.made, "d2"), D2, SUMMARY),
    (T1, SUMMARY, PAGE),
]
WAYS_TO_BEGIN = ("request", "request", "check", "rpc", "bare", "late", "readonly", "swapped")
CALLBACKS = {0: "fails", 10: "asks"}
HOW_TO_WRITE = ("statement", "statement", "later", "function")


class Step(NamedTuple):
    """One of a course of events: what happens, to whom and how, after how many pauses."""

    action: str
    number: int
    other: int
    flag: bool
    delay: int


class Play(Steps):
    """A course of events."""

    def __init__(self, figures, calls, has_replica):
        self.cluster = Cluster(figures, PROCESSES, has_replica=has_replica)
        self.calls = calls
        self.names = sorted({name for call in calls for name, _container in CALLS[call]})

    def step(self, action, number, other, flag, delay):
        """Something happens: now or, after so many pauses, in the middle of something else."""

        def run():
            if self.cluster.threads():
                getattr(self, action)(number, other, flag)

        if delay > 0:
            self.cluster.meanwhile.append((delay, run))
        else:
            run()
            self.cluster.audit()
        if self.cluster.failure:
            raise self.cluster.failure

    def some(self, number):
        """One of the open cursors, or a new one."""
        opened = self.cluster.open()
        return opened[number % len(opened)] if opened else self.begin(number, number, False)

    def look(self, cursor, number):
        call = self.calls[number % len(self.calls)]
        if number % 3 == 0:
            self.cluster.evict(cursor.registry, call)
        if number % 9 == 0:
            self.cluster.redis.lose_values()
        return self.cluster.read(cursor, call, add=call == D1 and number % 11 == 0)

    def begin(self, number, other, flag):
        threads = self.cluster.threads()
        how = WAYS_TO_BEGIN[other % len(WAYS_TO_BEGIN)]
        cost = fake.DEAR if flag else 0.0
        return self.cluster.begin(*threads[number % len(threads)], how, cost)

    def serve(self, number, other, flag):
        cursor = self.begin(number, other, flag)
        self.look(cursor, number // 8)
        self.look(cursor, other // 8)
        self.cluster.commit(cursor)
        self.cluster.finish(cursor)

    def read(self, number, other, flag):
        cursor = self.some(number)
        self.look(cursor, other)
        if flag:
            self.look(cursor, other // 8)

    def write(self, number, other, flag):
        how, cursor = HOW_TO_WRITE[other % len(HOW_TO_WRITE)], self.some(number)
        if self.cluster.write(cursor, self.name(other), how=how, clear=flag):
            self.look(cursor, number)

    def change(self, number, other, flag):
        cursor = self.begin(number, other, flag)
        if self.cluster.write(cursor, self.name(other // 8)):
            self.cluster.commit(cursor)
        self.cluster.finish(cursor)
        if flag:
            self.signal(number, other, False)

    def clear(self, number, other, _flag):
        keys = [*CACHES_BY_KEY, REGISTRY]
        self.cluster.clear(self.some(number), keys[other % len(keys)])

    def commit(self, number, other, flag):
        cursor = self.some(number)
        self.cluster.commit(cursor, callback=CALLBACKS.get(other % 20))
        if flag:
            self.cluster.finish(cursor)
        elif other % 2:
            self.look(cursor, other)

    def rollback(self, number, other, flag):
        cursor = self.some(number)
        self.cluster.rollback(cursor, reset=bool(other % 4), is_lost=other % 8 == 1)
        if flag:
            self.cluster.finish(cursor)

    def attempt(self, number, other, flag):
        """Something is changed and looked up, and rolled back."""
        cursor = self.some(number)
        self.cluster.savepoint(cursor)
        savepoints = list(cursor.savepoints)
        if other % 2:
            self.cluster.savepoint(cursor)
        if self.cluster.write(cursor, self.name(other), clear=flag):
            if other % 2:
                self.cluster.end_savepoint(cursor, rollback=False)
            self.look(cursor, number)
        if savepoints and cursor.savepoints == savepoints:
            self.cluster.end_savepoint(cursor, rollback=True)
            self.look(cursor, number)

    def signal(self, number, other, flag):
        if flagged := self.cluster.flagged():
            registry, thread = flagged[number % len(flagged)]
            halt = flag and len(self.cluster.signals()) < PROCESSES
            self.cluster.signal(registry, thread, halt=halt)

    def late_signal(self, number, other, flag):
        signals = self.cluster.signals()
        if signals and flag:
            self.cluster.finish_signal(signals[number % len(signals)])
        elif len(signals) < PROCESSES:
            cursor = self.begin(number, other, flag)
            if self.cluster.write(cursor, self.name(other // 8)):
                self.cluster.commit(cursor)
            registry, thread = cursor.registry, cursor.thread
            self.cluster.finish(cursor)
            self.cluster.signal(registry, thread, halt=True)

    def check(self, number, other, flag):
        if flag:
            threads = self.cluster.threads()
            process, thread = threads[number % len(threads)]
            self.cluster.check(
                process, thread, is_replica=self.cluster.has_replica and bool(other % 2)
            )
        else:
            cursor = self.some(number)
            if not cursor.account.own:
                self.cluster.check_on(cursor)

    def evict(self, number, other, flag):
        """Tier 1 is too small: for one value, or for all."""
        call = None if flag else self.calls[other % len(self.calls)]
        self.cluster.evict(self.cluster.processes[number % PROCESSES].registry, call)

    def edit(self, number, other, flag):
        """Somebody edits a value that he was given, and goes on."""
        cursor = self.some(number)
        value = self.cluster.read(cursor, (fake.listed, "d1"))
        if value is not None:
            value[:] = [(name, fake.EDITED) for name, _version in value]
            self.look(cursor, other)

    def redis(self, number, other, flag):
        redis = self.cluster.redis
        redis.takes_claims = bool(other % 3)
        fields = redis.fields()
        if number % 4 == 0:
            redis.lose_values()
        if number % 2 == 0:
            redis.claims.clear()
        if fields and number % 4:
            key, field = fields[number % len(fields)]
            if flag:
                source, place = fields[other % len(fields)]
                redis.hashes[key][field] = redis.hashes[source][place]
            else:
                del redis.hashes[key][field]

    def outbox(self, number, other, flag):
        outbox = self.cluster.processes[number % PROCESSES].outbox
        outbox.is_held = flag
        outbox.deliver()

    def crash(self, number, other, flag):
        self.cluster.crash(self.cluster.processes[number % PROCESSES])

    def unsignalled(self, number, other, flag):
        """Somebody changes a row in SQL; then a process starts, or looks for that."""
        if self.cluster.change_in_sql(self.name(other)):
            process = self.cluster.processes[number % PROCESSES]
            if flag:
                self.cluster.crash(process)
            else:
                self.cluster.verify(process)

    def replay(self, number, other, flag):
        """The replica follows."""
        database = self.cluster.database
        behind = database.now.number - database.replayed
        if behind:
            database.replayed += 1 + number % behind

    def tidy(self, number, other, flag):
        self.cluster.database.tidy()


def build(figures, failed):
    """The state machine.

    :param failed: where a course of events goes that breaks a promise
    """

    class Machine(RuleBasedStateMachine):
        @initialize(
            calls=st.sampled_from(FAMILIES),
            has_replica=st.booleans(),
            never=st.sets(st.sampled_from(list(ACTIONS)), max_size=len(ACTIONS) // 2),
        )
        def start(self, calls, has_replica, never):
            figures["examples"] += 1
            self.actions = [name for name in EVENTS if name not in never]
            self.beginning, self.steps = (calls, has_replica), []
            self.play = Play(figures, calls, has_replica)

        @rule(random=st.randoms(use_true_random=True))
        def go_on(self, random):
            """Some steps: one choice for all of them takes much less time."""
            for _number in range(AT_ONCE):
                figures["steps"] += 1
                action, flag = random.choice(self.actions), random.random() < 0.5
                delay = max(random.randrange(-12, 7), 0)
                step = Step(action, random.randrange(1000), random.randrange(1000), flag, delay)
                self.steps.append(step)
                try:
                    self.play.step(*step)
                except Exception:
                    failed.append((self.beginning, self.steps))
                    raise

    return Machine


def play(beginning, steps):
    """Play a course of events; the cluster, and what was raised."""
    played = Play(Counter(), *beginning)
    try:
        for step in steps:
            played.step(*step)
    except Exception as error:
        return played.cluster, error
    return played.cluster, None


def smallest(beginning, steps):
    """As few and as plain steps as end in the same way."""
    cause, before = type(play(beginning, steps)[1]), None
    while steps != before:
        before = steps
        for simpler in simplified(steps):
            if type(play(beginning, simpler)[1]) is cause:
                steps = simpler
                break
    return steps


def simplified(steps):
    """Ways to leave out some steps, or to make one plainer."""
    length = len(steps)
    while length := length // 2:
        for start in range(0, len(steps), length):
            yield steps[:start] + steps[start + length :]
    for number, step in enumerate(steps):
        for plainer in ({"delay": 0}, {"flag": False}, {"number": 0}, {"other": 0}):
            if (new := step._replace(**plainer)) != step:
                yield [*steps[:number], new, *steps[number + 1 :]]


def tell(beginning, steps):
    """Print a course of events."""
    print(beginning, *steps, sep="\n")
    for depth, who, what in play(beginning, steps)[0].story:
        print("    " * depth, who, *what)


def run(figures, failed, steps, number):
    """Run it for about so many steps, which a number decides on."""
    run_state_machine_as_test(
        hypothesis.seed(number)(build(figures, failed)),
        settings=settings(
            max_examples=steps // (AT_ONCE * CHOICES) + 1,
            stateful_step_count=CHOICES,
            deadline=None,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        ),
    )


@pytest.fixture(autouse=True)
def alone(monkeypatch):
    """One thread plays all of them: nobody waits for long, and nothing is too cheap to share."""
    fake.install(monkeypatch)
    clock = fake.Clock()
    monkeypatch.setattr(shared, "time", clock)
    monkeypatch.setattr(transaction, "time", clock)
    monkeypatch.setattr(shared, "MAX_PATIENCE", fake.PATIENCE)
    monkeypatch.setattr(policy.Budget, "allows", lambda *_arguments: True)
    monkeypatch.setattr(tables, "states_of", dict)  # the fake has a source for each container
    monkeypatch.setattr(os, "register_at_fork", lambda **_hooks: None)
    monkeypatch.setattr(atexit, "register", lambda *_arguments: None)


def test_no_read_is_wrong(seed):
    """In at least ``STEPS`` no read is older than promised, nor of what is not committed."""
    figures, failed = Counter(), []
    for number in itertools.count(seed):
        if figures["steps"] >= STEPS:
            break
        try:
            run(figures, failed, max(STEPS - figures["steps"], 1_000), number)
        except Exception:
            beginning, steps = failed[0]
            steps = smallest(beginning, steps)
            tell(beginning, steps)
            raise play(beginning, steps)[1] from None
    print(dict(figures))


# -- one after the other ---------------------------------------------------------------------------


def serve(cluster, process, *calls, how="request", thread=0):
    """A transaction that reads."""
    cursor = cluster.begin(process, thread, how)
    for call in calls:
        cluster.read(cursor, call)
    cluster.commit(cursor)
    cluster.finish(cursor)


def change(cluster, process, name, thread=0, signal=True):
    """A change that is signalled, or is yet to be."""
    cursor = cluster.begin(process, thread, "request")
    assert cluster.write(cursor, name)
    cluster.commit(cursor)
    cluster.finish(cursor)
    if signal:
        cluster.signal(process.registry, thread)


def a_cursor_that_goes_on(cluster):
    """After its commit it is given nothing older than what is signalled then."""
    one, two = cluster.processes
    serve(cluster, two, D1)
    cursor = cluster.begin(one, 0, "request")
    cluster.read(cursor, S1)
    change(cluster, two, "d1")
    cluster.commit(cursor)
    cluster.read(cursor, D1)


def a_request_that_is_overtaken(cluster):
    """What it is given of the state that it checked does not count as of a newer one."""
    one, two = cluster.processes
    serve(cluster, two, D1)
    cursor = cluster.begin(one, 0, "request")

    def overtake():
        change(cluster, two, "d1")
        cluster.check(one, 1)

    cluster.meanwhile.append((1, overtake))  # while it fetches from Redis
    cluster.read(cursor, D1)
    cluster.read(cursor, D2)
    cluster.commit(cursor)


def a_check_in_between(cluster):
    """What a cursor has computed before it checks does not count as of the state after it."""
    one, two = cluster.processes
    serve(cluster, one, (fake.listed, "d1"))
    cluster.redis.takes_claims = False
    cursor = cluster.begin(one, 0, "request", cost=0.0)
    cluster.read(cursor, (fake.copied, "d1"))
    change(cluster, two, "d1")
    cluster.check_on(cursor)
    cluster.commit(cursor)


def a_look_older_than_a_signal(cluster):
    """A snapshot between a commit and its signal does not see the signal, though it looks later."""
    one, two = cluster.processes
    serve(cluster, two, D1)
    change(cluster, one, "d1", signal=False)
    cursor = cluster.begin(one, 1, "late")
    cluster.signal(one.registry, 0)
    cluster.read(cursor, D1)


def a_commit_during_a_signal(cluster):
    """The signal does not tell of it, if it came after the signal's own commit."""
    one, two = cluster.processes
    change(cluster, one, "d1", signal=False)

    def commit():
        serve(cluster, two, D2)
        cluster.check(one, 1)
        change(cluster, one, "d2", thread=1, signal=False)

    cluster.meanwhile.append((2, commit))
    cluster.signal(one.registry, 0)
    serve(cluster, one, D2)


def a_reset_after_a_commit(cluster):
    """What was committed is signalled, and until then the process is ahead of the signals."""
    one, two = cluster.processes
    serve(cluster, two, D1)
    change(cluster, one, "d1", signal=False)
    cursor = cluster.begin(one, 0, "bare")
    cluster.meanwhile.append((2, lambda: serve(cluster, one, D1, thread=1)))
    cluster.rollback(cursor)
    serve(cluster, two, D1)


def a_change_in_sql_under_a_transaction(cluster):
    """An old snapshot does not pass for the state of the tables that was read since."""
    one, _two = cluster.processes
    cursor = cluster.begin(one, 1, "late")
    assert cluster.change_in_sql("d1")
    cluster.verify(one)
    cluster.check(one, 0)
    cluster.read(cursor, D1)
    cluster.commit(cursor)


def a_change_in_sql_that_is_found(cluster, names=("d1",)):
    """It is found, though a transaction that is older reads the tables first."""
    one, _two = cluster.processes
    serve(cluster, one, D1)
    for name in names:
        cursor = cluster.begin(one, 1, "late")
        assert cluster.change_in_sql(name)
    cluster.verify(one)
    cluster.read(cursor, D2)
    cluster.read(cursor, D1)
    serve(cluster, one)


def two_changes_in_sql_that_are_found(cluster):
    """They are, though a transaction that sees one of them reads the tables first."""
    a_change_in_sql_that_is_found(cluster, ("d2", "d1"))


def a_registry_that_is_older(cluster):
    """What is computed with its help does not count as of the state that a cursor has seen."""
    one, _two = cluster.processes
    cluster.clear(cluster.begin(one, 1, "bare"), REGISTRY)
    serve(cluster, one, S1)
    assert cluster.change_in_sql("s1")
    cluster.signal(one.registry, 1)
    cluster.redis.takes_claims = False
    cursor = cluster.begin(one, 0, "bare", cost=0.0)
    cluster.read(cursor, SUMMARY)
    cluster.check(one, 1)
    cluster.commit(cursor)


def an_edit(cluster):
    """What is computed from an edited value is not for others."""
    one, _two = cluster.processes
    cursor = cluster.begin(one, 0, "request")
    cluster.read(cursor, (fake.listed, "d1"))[:] = [("d1", fake.EDITED)]
    cluster.read(cursor, (fake.copied, "d1"))
    cluster.commit(cursor)


def a_swapped_value(cluster):
    """A value that somebody put in another one's place does not open there."""
    one, two = cluster.processes
    serve(cluster, one, D1, D2)
    [values] = (values for values in cluster.redis.hashes.values() if values)
    values.update(zip(values, reversed(values.values()), strict=True))
    serve(cluster, two, D1)


def a_change_that_is_pending(cluster, how="later"):
    """What is computed of it is not for others."""
    one, _two = cluster.processes
    cursor = cluster.begin(one, 0, "request")
    cluster.write(cursor, "d1", how=how, clear=False)
    cluster.read(cursor, D1)


def a_change_by_a_function(cluster):
    """The same, of a change that no statement tells of."""
    a_change_that_is_pending(cluster, "function")


def a_rollback(cluster):
    """What was computed of its changes is gone."""
    one, _two = cluster.processes
    cursor = cluster.begin(one, 0, "request")
    cluster.write(cursor, "d1", clear=False)
    cluster.read(cursor, D1)
    cluster.rollback(cursor)


def a_rollback_to_a_savepoint(cluster):
    """The same; what is known of the changes of another savepoint in it goes with it."""
    one, _two = cluster.processes
    cursor = cluster.begin(one, 0, "request")
    cluster.savepoint(cursor)
    cluster.savepoint(cursor)
    cluster.write(cursor, "d1", clear=False)
    cluster.end_savepoint(cursor, rollback=False)
    cluster.read(cursor, D1)
    cluster.end_savepoint(cursor, rollback=True)
    cluster.commit(cursor)


def a_commit_meanwhile(cluster):
    """Values that a transaction computed of the state before do not come back to tier 1."""
    one, _two = cluster.processes
    cluster.redis.takes_claims = False
    cursor = cluster.begin(one, 1, "request", cost=0.0)
    cluster.read(cursor, D1)
    change(cluster, one, "d1", signal=False)
    cluster.commit(cursor)


def an_early_signal(cluster):
    """After the commit there is another one."""
    one, _two = cluster.processes
    cursor = cluster.begin(one, 0, "request")
    cluster.write(cursor, "d1")
    cluster.signal(one.registry, 0)
    cluster.commit(cursor)


def a_change_in_sql_before_a_start(cluster):
    """A process that starts after it computes anew, whatever others have."""
    one, two = cluster.processes
    serve(cluster, one, D1)
    assert cluster.change_in_sql("d1")
    cluster.crash(two)
    serve(cluster, cluster.processes[1], D1)


def a_replica_that_lags(cluster):
    """Its answers leave alone the values that others of its process are given."""
    one, two = cluster.processes
    serve(cluster, one, how="readonly")
    change(cluster, two, "d1")
    serve(cluster, one, D1)
    serve(cluster, one, D1, D2, how="readonly")


def a_replica_with_a_late_signal(cluster):
    """It does not lag if it has one that tier 1 was not cleared for, though others are newer."""
    one, two = cluster.processes
    change(cluster, two, "d1", signal=False)
    cluster.signal(two.registry, 0, halt=True)
    change(cluster, two, "d2", thread=1)
    serve(cluster, one, D1)
    assert cluster.change_in_sql("d1")
    cluster.finish_signal(two.signals[0])
    cluster.database.replayed = cluster.database.now.number
    cluster.check(one, 0, is_replica=True)


def a_replica_after_a_commit(cluster):
    """The same, while the commit is not signalled."""
    one, _two = cluster.processes
    change(cluster, one, "d1", signal=False)
    serve(cluster, one, D1, how="readonly")


SCENARIOS = [
    a_rollback,
    a_rollback_to_a_savepoint,
    a_commit_meanwhile,
    an_early_signal,
    a_change_in_sql_before_a_start,
    a_replica_that_lags,
    a_replica_with_a_late_signal,
    a_replica_after_a_commit,
    a_cursor_that_goes_on,
    a_request_that_is_overtaken,
    a_check_in_between,
    a_look_older_than_a_signal,
    a_commit_during_a_signal,
    a_reset_after_a_commit,
    a_change_in_sql_under_a_transaction,
    a_change_in_sql_that_is_found,
    two_changes_in_sql_that_are_found,
    a_registry_that_is_older,
    an_edit,
    a_swapped_value,
    a_change_that_is_pending,
    a_change_by_a_function,
]


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.__name__)
def test_a_rare_case_is_right(scenario):
    """Sequences that chance seldom finds."""
    run_through(scenario)


def run_through(*scenarios):
    """Some scenarios, each of them in a cluster of its own."""
    for scenario in scenarios:
        cluster = Cluster(Counter(), PROCESSES, has_replica="replica" in scenario.__name__)
        scenario(cluster)
        cluster.audit()
        if cluster.failure:
            raise cluster.failure


# -- bugs on purpose -------------------------------------------------------------------------------


def wrapped(patch, cls, name, wrapper):
    """Put a method in the place of another one, which it is given."""
    original = getattr(cls, name)
    patch.setattr(
        cls, name, lambda self, *args, **options: wrapper(original, self, *args, **options)
    )


def without(patch, cls, name, part, stand_in):
    """Let a method find another one of its object replaced."""

    def wrapper(original, self, *args, **options):
        with pytest.MonkeyPatch.context() as inner:
            inner.setattr(cls, part, stand_in)
            return original(self, *args, **options)

    wrapped(patch, cls, name, wrapper)


def a_rollback_drops_nothing(patch):
    """What a savepoint has computed stays when it is rolled back."""
    patch.setattr(Layers, "roll_back", lambda *_args: (set(), []))


def a_rollback_counts_as_a_commit(patch):
    """What a transaction has computed is shared when it is rolled back."""
    patch.setattr(Transaction, "rolling_back", lambda self, **_options: self._hand_over())


def an_invalidation_is_ignored(patch):
    """A transaction that has invalidated something reads what others have."""
    patch.setattr(Layers, "invalidate", lambda *_args: None)


def a_release_forgets_changes(patch):
    """What is computed after a savepoint's release may be of its changes."""

    def release(original, self, name):
        had_changed = [layer.has_changed for layer in self._stack]
        original(self, name)
        for layer, has_changed in zip(self._stack, had_changed, strict=False):
            layer.has_changed = has_changed

    wrapped(patch, Layers, "release", release)


def any_layer_is_the_lowest(patch):
    """Values that a savepoint computes of its own changes belong to the transaction."""

    def put(original, self, *arguments):
        stack, self._stack = self._stack, self._stack[:1]
        original(self, *arguments)
        self._stack = stack

    wrapped(patch, Layers, "put", put)


def any_state_is_merged(patch):
    """What an old transaction has computed goes to tier 1."""
    without(patch, LocalTier, "merge", "agrees", lambda *_args: True)


def any_time_is_merged(patch):
    """What was computed before another transaction's commit goes to tier 1 after it."""

    def merge(original, self, values, generation, mark):
        return original(self, values, generation, mark._replace(commits=self._commits.copy()))

    wrapped(patch, LocalTier, "merge", merge)


def any_snapshot_is_current(patch):
    """A snapshot that was taken before a commit counts as one that sees it."""
    wrapped(patch, LocalTier, "mark", lambda mark, self, **_options: mark(self, is_current=True))


def a_replica_is_current(patch):
    """A replica that lags counts as one that sees the commits of its process."""
    patch.setattr(Connection, "is_current", Connection._is_idle)


def a_commit_is_not_noted(patch):
    """What was found before a commit of the process stays in tier 1."""
    patch.setattr(LocalTier, "committed", lambda *_args: 0)


def never_ahead(patch):
    """A process reads of others what it has changed, before it has signalled that."""
    patch.setattr(LocalTier, "is_ahead", lambda *_args: False)


def ahead_until_anybody_looks(patch):
    """A look at the signals that is older than a signal counts as one that sees it."""

    def learn(original, self, seen, mark=None, **options):
        return original(self, seen, mark and mark._replace(signals=self._signals), **options)

    wrapped(patch, LocalTier, "learn", learn)


def any_signal_tells_of_a_commit(patch):
    """A signal counts as one of commits that came after it."""

    def signalled(original, self, containers, _number):
        original(self, containers, self._number)

    wrapped(patch, LocalTier, "signalled", signalled)


def news_clear_nothing(patch):
    """What is older than a signal stays in tier 1."""
    without(patch, LocalTier, "_advance", "_clear", lambda *_args: None)


def a_replica_moves_back(patch):
    """What a replica says that lags is news."""
    patch.setattr(Generation, "precedes", lambda *_args: False)


def kept_after_a_commit(patch):
    """A cursor goes on with its generation after a commit."""
    wrapped(
        patch, Transaction, "_begin", lambda begin, self, **_: begin(self, keeps_generation=True)
    )


def read_again_in_between(patch):
    """A transaction that has values of its own becomes a newer one."""

    def generation(original, self):
        if self._generation and self._local.is_past(self._generation):
            self._generation = None
        return original(self)

    wrapped(patch, Transaction, "generation", generation)


def checked_in_between(patch):
    """So it does when its cursor checks the signals."""
    without(patch, Transaction, "checked", "_drop_values", lambda *_args: None)


def all_is_proven(patch):
    """Values are shared before the commit, whatever was written."""
    patch.setattr(Connection, "wrote_nothing", lambda _self: True)


def pending_changes_are_ignored(patch):
    """What is computed of changes that are not written yet counts as what is committed."""
    patch.setattr(cursor_patch, "has_pending_changes", lambda _cursor: False)


def statements_are_ignored(patch):
    """Nothing tells of what a transaction writes, nor of its savepoints."""
    patch.setattr(Connection, "ran", lambda self, _query: self._hear_of_end())


def published_at_once(patch):
    """Values are published when they are computed."""

    def keep(original, self, container, key, computed, cost):
        if computed.entry:
            self._outbox.publish([computed.entry])
        original(self, container, key, computed, cost)

    wrapped(patch, Transaction, "keep", keep)


def seen_at_once(patch):
    """The values of a transaction are in tier 1 at once, as in core."""

    def keep(original, self, container, key, computed, cost):
        self._local._caches[container][key] = computed.value
        original(self, container, key, computed, cost)

    wrapped(patch, Transaction, "keep", keep)


def signalled_once(patch):
    """A signal that came before its commit is not repeated."""
    patch.setattr(Transaction, "signalled", lambda *_args: None)


def edits_are_ignored(patch):
    """Values that their callers edited count as what they were."""
    patch.setattr(SharedOrmcache, "_any_edited", lambda *_args: False)


def unbound(patch):
    """What is sealed for one field opens in another."""
    for module in (outbox, shared):
        patch.setattr(module, "place", lambda *_arguments: b"")


def tables_are_ignored(patch):
    """Only signals tell one state of the database from another."""
    patch.setattr(fake.CursorSnapshot, "tables", lambda *_args: Found((), {}, fake.SECRET, {}))


def snapshots_are_ignored(patch):
    """An old snapshot goes by the state of the tables that a later one has read."""
    patch.setattr(pins, "is_earlier", lambda *_args: False)


def any_snapshot_reads_tables_again(patch):
    """A change that was found is forgotten when an older transaction reads the tables."""
    never = property(lambda _self: "0:0:", lambda _self, _snapshot: None)
    patch.setattr(pins.Pin, "earliest", never, raising=False)


def forgotten_is_signalled(patch):
    """What a thread forgets, because something failed, counts as signalled."""
    never = property(lambda _self: False, lambda _self, _is_forgotten: None)
    patch.setattr(cursor_patch.Invalidated, "is_forgotten", never, raising=False)


BUGS = [
    a_rollback_drops_nothing,
    a_rollback_counts_as_a_commit,
    an_invalidation_is_ignored,
    a_release_forgets_changes,
    any_layer_is_the_lowest,
    any_state_is_merged,
    any_time_is_merged,
    any_snapshot_is_current,
    a_replica_is_current,
    a_commit_is_not_noted,
    never_ahead,
    news_clear_nothing,
    a_replica_moves_back,
    pending_changes_are_ignored,
    statements_are_ignored,
    published_at_once,
    seen_at_once,
    signalled_once,
    tables_are_ignored,
]
RARE_BUGS = [
    unbound,
    forgotten_is_signalled,
    ahead_until_anybody_looks,
    any_signal_tells_of_a_commit,
    kept_after_a_commit,
    read_again_in_between,
    checked_in_between,
    all_is_proven,
    edits_are_ignored,
    snapshots_are_ignored,
    any_snapshot_reads_tables_again,
]


@pytest.mark.parametrize("plant", BUGS + RARE_BUGS, ids=lambda plant: plant.__name__)
def test_a_bug_is_found(monkeypatch, plant):
    """Each of the mistakes that the design avoids breaks a promise in a scenario."""
    plant(monkeypatch)
    with pytest.raises(IncoherentError):
        run_through(*SCENARIOS)


@pytest.mark.plant
def test_the_machine_finds_bugs(seed):
    """So do most of them by chance, before long."""
    for plant in Random(seed).sample(BUGS, dose(5, len(BUGS))):
        figures, failed = Counter(), []
        with pytest.MonkeyPatch.context() as patch:
            plant(patch)
            with contextlib.suppress(Exception):
                run(figures, failed, STEPS_TO_FIND, seed)
        assert failed, plant
        print(plant.__name__, figures["steps"])
