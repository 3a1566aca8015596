"""What is particular to a topology: who is asked, for how long, and what follows a change."""

import itertools
import os
import re
import socket
import ssl
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest

from odoo.addons.redis_session_ormcache import url as urls
from odoo.addons.redis_session_ormcache.connection import DEADLINE, LATE, RedisServer, Script
from odoo.addons.redis_session_ormcache.connection.client import (
    DRIVER_ERRORS,
    MAX_CALLS,
    MAX_CONNECTIONS,
    WATCH_INTERVAL,
    begin,
    make_client,
)
from odoo.addons.redis_session_ormcache.exceptions import (
    ConfigurationError,
    RedisRefusedError,
    RedisUnavailableError,
)
from odoo.addons.redis_session_ormcache.ormcache import RemoteTier
from odoo.addons.redis_session_ormcache.tests.support.topologies import (
    PASSWORD,
    TOPOLOGIES,
    USER,
    access_rule,
)
from stack.servers import (
    Certificates,
    Cluster,
    OldRedis,
    Proxy,
    Redis,
    Sentinels,
    TLSRedis,
    add_user,
    as_user,
    until,
)

WRITE_IN_TIME = f"""
local now = redis.call('TIME')
if now[1] * 1000 + now[2] / 1000 > tonumber(ARGV[2]) then
    return redis.error_reply('{LATE}')
end
redis.call('HSET', KEYS[1], 'field', ARGV[1])
return 'written'
"""
SENTINEL_PASSWORD = "0th3r-s3cret"
MARGIN = 0.4  # seconds, for a slow machine
WORDS = sorted(set(re.findall(r"[+~]\S+", access_rule())) - {"+select"})  # for a /1 in the URL


@pytest.fixture
def make_server():
    """Build a RedisServer, as sessions have it."""
    made = []

    def make(url, timeout=1.0, **options):
        made.append(RedisServer(url, half="sessions", timeout=timeout, **options))
        return made[-1]

    yield make
    for server in made:
        server.disconnect()


def unavailable(server, *command):
    """How many seconds it took to find that it is; an assertion that it is."""
    began = time.monotonic()
    with pytest.raises(RedisUnavailableError):
        server.execute(*command)
    return time.monotonic() - began


@pytest.mark.parametrize("name", TOPOLOGIES)
def test_each_topology_answers(topologies, make_server, name):
    """Single commands, scripts and many at once, for a user who may do just that."""
    server = make_server(topologies(name).url)
    keys = [f"odoo:{name}:{number}" for number in range(50)]
    for key in keys:
        assert server.execute("HSET", key, "field", key) == 1
    assert server.execute("HGETALL", keys[0]) == [b"field", keys[0].encode()]
    assert server.execute_many([("EXISTS", key) for key in keys]) == [1] * 50
    assert server.execute_many([("UNLINK", key) for key in keys]) == [1] * 50
    assert server.execute("HGETALL", keys[0]) == []


@pytest.mark.parametrize("lacking", WORDS)
def test_each_word_of_the_documented_access_is_needed(redis, make_server, make_store, lacking):
    """What a user may not is found by what is done once at start."""
    add_user(redis, USER, PASSWORD, re.sub(rf"{re.escape(lacking)}(?= |$)", "", access_rule()))
    url = as_user(redis.url, USER, PASSWORD)
    store, server = make_store(SimpleNamespace(url=url)), make_server(url)
    remote = RemoteTier(server, max_bytes=9)

    def use():
        store.check()
        remote.check("odoo:ormcache:check")

    with pytest.raises(ConfigurationError, match="expected a user with the rule"):
        server.try_out(use)


@pytest.mark.parametrize("name", TOPOLOGIES)
def test_what_is_done_once_at_start_leaves_nothing(topologies, make_server, make_store, name):
    """Neither a session nor, after a second, a cached value."""
    url = topologies(name).url
    store, server = make_store(topologies(name)), make_server(url)
    store.check()
    RemoteTier(server, max_bytes=2**20).check("odoo:ormcache:check")
    assert 0 < server.execute("TTL", "odoo:ormcache:check") <= 1


def test_connections_have_a_name(own_redis, make_server):
    """Who looks at CLIENT LIST sees the addon, the half, the machine and the process."""
    server = make_server(own_redis.url)
    server.execute("EXISTS", "key")
    name = f"name=redis_session_ormcache:sessions:{socket.gethostname()}:{os.getpid()} "
    assert own_redis.cli("CLIENT", "LIST").count(name) == 1


def test_a_call_ends_though_each_of_its_steps_would_not(own_redis, make_server):
    """A server that answers each step of a new connection at the last moment takes one timeout."""
    own_redis.cli("CONFIG", "SET", "requirepass", "x")
    own_redis.password = "x"
    with Proxy(own_redis.port) as proxy:
        proxy.delay = 0.7
        url = proxy.url.replace("//", "//:x@")
        assert unavailable(make_server(url), "EXISTS", "key") < 1.0 + MARGIN


def test_an_answer_in_drops_ends_with_the_call(own_redis, make_server):
    """Though each of them comes in time."""
    own_redis.cli("HSET", "key", "field", "x" * 100_000)
    with Proxy(own_redis.port) as proxy:
        proxy.rate = 10_000
        assert unavailable(make_server(proxy.url), "HGET", "key", "field") < 1.0 + MARGIN


def test_the_calls_of_a_request_have_one_budget(own_redis, make_server):
    """What one leaves, the next may take; and a server that is slow is not taken for silent."""
    request = SimpleNamespace()
    with Proxy(own_redis.port) as proxy:
        server = make_server(proxy.url, request=lambda: request)
        server.execute("EXISTS", "key")
        proxy.delay = 0.45
        began = time.monotonic()
        for _ in range(2):
            server.execute("EXISTS", "key")
        for _ in range(3):
            unavailable(server, "EXISTS", "key")
        assert time.monotonic() - began < 1.0 + MARGIN
        assert not server._silent
        request = SimpleNamespace()
        server.execute("EXISTS", "key")


def test_work_is_not_waiting(own_redis, make_server):
    """A request may make any number of calls that are answered soon; a silent server costs it one
    timeout all the same."""
    request = SimpleNamespace()
    with Proxy(own_redis.port) as proxy:
        server = make_server(proxy.url, request=lambda: request)
        proxy.delay = 0.005
        began = time.monotonic()
        for _ in range(300):
            server.execute("EXISTS", "key")
        assert time.monotonic() - began > 1.0  # which is the timeout
        proxy.mode = "hole"
        began = time.monotonic()
        for _ in range(3):
            unavailable(server, "EXISTS", "key")
        assert 0.8 < time.monotonic() - began < 1.0 + MARGIN


@pytest.mark.parametrize("kind", ["single", "cluster"])
def test_what_was_given_up_among_many_is_not_done_later(kind, request, make_server):
    """Each of many scripts has the deadline of the call, by the clock of the server it goes to."""
    redis = request.getfixturevalue("own_redis" if kind == "single" else "patient_cluster")
    nodes = [redis] if kind == "single" else redis.nodes
    server = make_server(redis.url)
    keys = [f"late:{kind}:{number}" for number in range(20)]

    def write(value):
        return [("EVAL", WRITE_IN_TIME, 1, key, value, DEADLINE) for key in keys]

    assert server.execute_many(write("in time")) == [b"written"] * len(keys)
    for node in nodes:
        node.pause()
    with pytest.raises(RedisUnavailableError):
        server.execute_many(write("late"))
    for node in nodes:
        node.resume()
    for node in nodes:
        node.cli("PING")  # what waited before was read before
    until(lambda: not server._silent, "an answer")
    found = server.execute_many([("HGET", key, "field") for key in keys])
    assert found == [b"in time"] * len(keys)
    server.execute_many([("UNLINK", key) for key in keys])


def test_nothing_is_left_of_a_silence_that_nobody_could_watch(own_redis, make_server, monkeypatch):
    """A process that may have no more threads asks itself, and finds that it is over."""

    def no_thread(_self):
        raise RuntimeError("can't start new thread")

    server = make_server(own_redis.url)
    own_redis.kill()
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", no_thread)
        unavailable(server, "EXISTS", "key")
    own_redis.start()
    assert server.execute("EXISTS", "key") == 0


def test_no_thread_is_left_for_a_fork(own_redis, make_server):
    """Who disconnects while Redis is silent has no thread that may hold a lock."""
    server = make_server(own_redis.url)
    server.execute("EXISTS", "key")
    own_redis.pause()
    unavailable(server, "EXISTS", "key")
    assert "redis-probe" in [thread.name for thread in threading.enumerate()]
    server.disconnect()
    assert "redis-probe" not in [thread.name for thread in threading.enumerate()]
    own_redis.resume()


def test_only_one_thread_waits_for_a_silent_server(own_redis, make_server):
    """All others fail at once, until it answers; and then none does."""
    server = make_server(own_redis.url)
    server.execute("EXISTS", "key")
    own_redis.pause()
    assert unavailable(server, "EXISTS", "key") > 0.9
    waits = [unavailable(server, "EXISTS", "key") for _ in range(200)]
    time.sleep(1.2)
    waits += [unavailable(server, "EXISTS", "key") for _ in range(200)]
    assert max(waits) < 0.2
    assert [thread.name for thread in threading.enumerate()].count("redis-probe") == 1
    own_redis.resume()
    until(lambda: not server._silent, "an answer", 5)
    assert server.execute("EXISTS", "key") == 0
    until(lambda: "redis-probe" not in [t.name for t in threading.enumerate()], "the end", 5)


def test_a_restart_is_no_outage(own_redis, make_server):
    """What takes less than a moment is tried again within the call."""
    server = make_server(own_redis.url)
    server.execute("EXISTS", "key")
    own_redis.kill()
    own_redis.start()
    assert server.execute("EXISTS", "key") == 0
    assert not server._silent


@pytest.mark.parametrize("kind", [Redis, OldRedis])
def test_another_primary_behind_the_same_name_is_found(tmp_path, redis, make_server, kind):
    """A connection to a server that became a replica is not kept: its name may lead elsewhere."""
    change = Script("change", "return redis.call('HSET', KEYS[1], 'f', 'v')")
    with kind(tmp_path) as former, Proxy(former.port) as proxy:
        server = make_server(proxy.url)
        for key, do in (
            ("k1", lambda: server.execute("HSET", "k1", "f", "v")),
            ("k2", lambda: server.evaluate(change, "k2")),
        ):
            proxy.target = former.port
            server.disconnect()
            former.cli("REPLICAOF", "NO", "ONE")
            assert do() == 1
            former.cli("REPLICAOF", "127.0.0.1", "1")
            with pytest.raises(RedisRefusedError):
                do()
            proxy.target = redis.port
            do()
            assert redis.cli("HGET", key, "f") == "v"
            redis.cli("UNLINK", key)


# -- a call's time ---------------------------------------------------------------------------------


def test_who_has_no_request_waits_for_a_turn(own_redis, make_server):
    """As many websockets at once do; a request waits for its turn in its time only."""
    at_hand = threading.local()
    with Proxy(own_redis.port) as proxy, ThreadPoolExecutor(5 * MAX_CALLS) as pool:
        server = make_server(proxy.url, request=lambda: getattr(at_hand, "request", None))
        server.execute("EXISTS", "key")
        proxy.delay = 0.4
        began = time.monotonic()
        asked = [pool.submit(server.execute, "EXISTS", "key") for _ in range(5 * MAX_CALLS)]
        until(server._turns.empty, "that all turns are taken")
        at_hand.request = SimpleNamespace()
        assert unavailable(server, "EXISTS", "key") < 1.0 + MARGIN
        assert {one.result() for one in asked} == {0}
        assert time.monotonic() - began > 1.0 + MARGIN
        assert not server._silent


def test_an_answer_that_was_there_in_time_is_read(own_redis):
    """Though its reader was kept from it, by the interpreter's lock or an event loop."""
    client = make_client(urls.parse(own_redis.url), half="sessions", timeout=1.0)
    begin(5)
    connection = client._pool.get_connection()
    begin(0.1)
    connection.send_command("EXISTS", "key")
    time.sleep(0.2)
    assert connection.read_response() == 0
    client._pool.release(connection)
    client.disconnect()


def test_idle_connections_are_left_with_one_that_leads_nowhere(own_redis, make_server):
    """Each of them would cost a request its time."""
    server = make_server(own_redis.url, timeout=0.5)
    with ThreadPoolExecutor(4) as pool:
        own_redis.pause()  # so that none is done before the last has begun
        asked = [pool.submit(server.execute, "EXISTS", "key") for _ in range(4)]
        time.sleep(0.1)
        own_redis.resume()
        assert [one.result() for one in asked] == [0] * 4
    connections = server._client._pool._connections
    before = {one._sock for one in connections}
    assert len(before) == 4
    own_redis.pause()
    unavailable(server, "EXISTS", "key")
    own_redis.resume()
    until(lambda: not server._silent, "an answer")
    assert not before & {one._sock for one in connections}


# -- Sentinel --------------------------------------------------------------------------------------


def test_sentinels_that_hang_leave_time_for_the_next(tmp_path, make_server):
    """Two of three do not answer: the third is asked within the same call, and first from then."""
    with Sentinels(tmp_path, replicas=0) as sentinels:
        server = make_server(sentinels.url, timeout=2.0)
        for sentinel in sentinels.sentinels[:2]:
            sentinel.pause()
        began = time.monotonic()
        assert server.execute("EXISTS", "key") == 0
        assert time.monotonic() - began < 2.0
        server.disconnect()
        began = time.monotonic()
        assert server.execute("EXISTS", "key") == 0
        assert time.monotonic() - began < MARGIN
        for sentinel in sentinels.sentinels[:2]:
            sentinel.resume()


def test_tls_files_are_read_when_they_change(tmp_path, make_server, monkeypatch):
    """Once for all connections: to read them takes longer than all else; and again when renewed."""
    certificates = Certificates(tmp_path / "certificates")
    read = []
    create = ssl.create_default_context
    monkeypatch.setattr(ssl, "create_default_context", lambda *a, **o: read.append(1) or create())
    with TLSRedis(tmp_path / "redis", certificates) as redis, ThreadPoolExecutor(20) as pool:
        server = make_server(redis.url)
        server.execute("EXISTS", "key")
        assert list(pool.map(lambda _n: server.execute("EXISTS", "key"), range(200))) == 200 * [0]
        assert len(server._client._pool._connections) > 1
        assert len(read) == 1
        server.disconnect()
        server.execute("EXISTS", "key")
        assert len(read) == 1
        os.utime(certificates.options()["ssl_certfile"], (1, 1))
        server.disconnect()
        server.execute("EXISTS", "key")
        assert len(read) == 2


@pytest.fixture(scope="module")
def sentinels(tmp_path_factory):
    """A primary with two replicas; which of them it is, tests change."""
    folder = tmp_path_factory.mktemp("sentinels")
    with Sentinels(folder, sentinel_password=SENTINEL_PASSWORD) as running:
        yield running


def test_a_primary_that_steps_down_is_left_soon(sentinels, make_server):
    """A failover that was asked for is followed though both say they are primaries, without an
    error, and what is saved from then on is kept."""
    sentinels.await_replicas()
    server = make_server(sentinels.url, timeout=2.0)
    primary = sentinels.primary
    sentinels.sentinels[0].cli("SENTINEL", "FAILOVER", "main")
    began, fields = time.monotonic(), {}
    while time.monotonic() < began + 5:
        field = f"{len(fields)}"
        server.execute("HSET", "saved", field, "v")
        fields[field] = time.monotonic() - began
        time.sleep(0.001)
    assert sentinels.switched(primary)
    kept = set(sentinels.primary.cli("HKEYS", "saved").split())
    late = [seconds for field, seconds in fields.items() if field not in kept]
    assert max(late, default=0) < 3  # ten more before a sentinel tells the former one


def test_a_primary_that_was_given_up_is_not_believed(sentinels, make_server):
    """Not even by a process that noticed nothing: what it knew is past, and it does not know."""
    sentinels.await_replicas()
    server = make_server(sentinels.url, timeout=2.0)
    assert server.execute("HSET", "believed", "f", "old") == 1
    former = sentinels.primary
    former.pause()
    new = sentinels.await_switch(former)
    time.sleep(3 * WATCH_INTERVAL)
    new.cli("HSET", "believed", "f", "new")
    former.resume()
    assert former.cli("HGET", "believed", "f") == "old"  # it takes itself for the primary
    assert server.execute("HGET", "believed", "f") == b"new"


def test_connections_that_fail_are_forgotten(sentinels):
    """Whatever is tried while there is no primary, no more is kept than a pool may hold."""
    client = make_client(urls.parse(sentinels.url), half="sessions", timeout=1.0)
    for server in sentinels.servers:
        server.kill()
    for one in sentinels.sentinels:
        until(lambda one=one: "s_down" in one.cli("SENTINEL", "MASTER", "main"), "silence")
    for _ in range(2 * MAX_CONNECTIONS):
        begin(0.2)
        with pytest.raises(DRIVER_ERRORS) as raised:
            client.ask("EXISTS", "key")
        assert SENTINEL_PASSWORD not in str(raised.value)
    assert len(client._pool._connections) <= MAX_CONNECTIONS
    client.disconnect()
    assert "redis-primary" not in [thread.name for thread in threading.enumerate()]


# -- Cluster ---------------------------------------------------------------------------------------


def one_key_of_each(cluster, prefix):
    """A key for each primary's port."""
    keys, numbers = {}, itertools.count()
    while len(keys) < 3:
        key = f"{prefix}{next(numbers)}"
        keys.setdefault(cluster.primary_of(cluster.slot(key)).port, key)
    return keys


@pytest.fixture(scope="module")
def patient_cluster(tmp_path_factory):
    """Where no replica takes over for a node that is lost."""
    with Cluster(tmp_path_factory.mktemp("cluster"), node_timeout=60_000) as running:
        yield running


@pytest.mark.parametrize(("lose", "find"), [(Redis.pause, Redis.resume), (Redis.kill, Redis.start)])
def test_a_lost_node_of_a_cluster_is_not_the_others(patient_cluster, make_server, lose, find):
    """Its keys are unavailable, at once after the first call; the others' are served."""
    cluster = patient_cluster
    server = make_server(cluster.url)
    keys = one_key_of_each(cluster, lose.__name__)
    for key in keys.values():
        assert server.execute("HSET", key, "f", "v") == 1
    lost = cluster.nodes[0]
    lose(lost)
    assert unavailable(server, "HGET", keys[lost.port], "f") < 1.0 + MARGIN
    for _ in range(20):
        assert unavailable(server, "HGET", keys[lost.port], "f") < 0.1
        for port, key in keys.items():
            if port != lost.port:
                assert server.execute("HGET", key, "f") == b"v"
    with pytest.raises(RedisUnavailableError):
        server.execute_many([("EXISTS", key) for key in keys.values()])
    assert list(server._silent._threads) == [f"127.0.0.1:{lost.port}"]
    told = make_server(cluster.url, timeout=2.0).check(durable=True)
    assert ["no persistence" in line for line in told] == [True, False]
    assert "is not to be had" in told[1]
    with pytest.raises(ConfigurationError, match="refuses the user or password"):
        make_server(as_user(cluster.url, USER, PASSWORD)).check(durable=True)
    find(lost)
    until(lambda: not server._silent, "an answer")
    assert server.execute("EXISTS", keys[lost.port]) == (lose is Redis.pause)
    cluster.await_replicas()


def test_the_nodes_of_the_url_may_be_gone(patient_cluster, make_server):
    """When no node answered for a moment, those that were known are asked again."""
    cluster = patient_cluster
    named, *others = cluster.nodes
    server = make_server(f"redis+cluster://127.0.0.1:{named.port}")
    keys = one_key_of_each(cluster, "known")
    for key in keys.values():
        server.execute("HSET", key, "f", "v")
    named.kill()
    for node in others:
        node.pause()
    key = next(key for port, key in keys.items() if port != named.port)
    unavailable(server, "HGET", key, "f")
    for node in others:
        node.resume()
    until(lambda: not server._silent, "an answer")
    assert server.execute("HGET", key, "f") == b"v"
    named.start()
    cluster.await_replicas()


def test_a_key_may_move_to_a_node_without_slots(patient_cluster, make_server):
    """So it is when a Cluster grows: that node is asked, though the map does not have it."""
    cluster = patient_cluster
    server = make_server(cluster.url)
    key, *others = one_key_of_each(cluster, "moving").values()
    for name in (key, *others):
        server.execute("HSET", name, "f", "v")
    new, slot = cluster.add_node(), cluster.slot(key)
    source = cluster.begin_migration(slot, new)
    assert cluster.migrate_keys(slot, source, new) == 1
    for _ in range(3):
        for name in (key, *others):
            assert server.execute("HGET", name, "f") == b"v"
    cluster.end_migration(slot, new)
    assert server.execute("HGET", key, "f") == b"v"


def test_a_cluster_that_is_down_keeps_nobody_waiting(tmp_path, make_server):
    """By default the loss of a few slots is that of all; that is silence, not a refusal."""
    with Cluster(tmp_path, config={"cluster-require-full-coverage": "yes"}) as cluster:
        server = make_server(cluster.url)
        keys = one_key_of_each(cluster, "k")
        lost, replica = cluster.nodes[0], cluster.nodes[3]
        key = next(key for port, key in keys.items() if port != lost.port)
        server.execute("HSET", key, "f", "v")
        for node in (replica, lost):
            node.kill()
        until(lambda: "state:fail" in cluster.nodes[1].cli("CLUSTER", "INFO"), "its failure")
        assert unavailable(server, "HGET", key, "f") < 1.0 + MARGIN
        for _ in range(20):
            assert unavailable(server, "HGET", key, "f") < 0.1
        lost.start()
        until(lambda: not server._silent, "an answer")
        assert server.execute("HGET", key, "f") == b"v"


def test_slots_that_had_no_owner_are_found(patient_cluster, make_server):
    """The map is asked for again, until they have one."""
    cluster = patient_cluster
    server = make_server(cluster.url)
    owner = cluster.nodes[0]
    key = one_key_of_each(cluster, "orphan")[owner.port]
    slot = str(cluster.slot(key))
    for node in cluster.nodes:
        node.cli("CLUSTER", "DELSLOTS", slot)
    try:
        unavailable(server, "HSET", key, "f", "v")
        assert unavailable(server, "HSET", key, "f", "v") < 0.1
    finally:
        owner.cli("CLUSTER", "ADDSLOTS", slot)
    until(lambda: not server._silent, "an answer")
    assert server.execute("HSET", key, "f", "v") == 1


def test_who_has_little_time_costs_the_others_nothing(patient_cluster, make_server):
    """The nodes may be well: neither the map nor a connection is given up for him."""
    cluster = patient_cluster
    request = SimpleNamespace()
    server = make_server(cluster.url, request=lambda: request)
    server.execute("EXISTS", "key")
    made = server._client._made
    for node in cluster.nodes:
        node.pause()
    vars(request)[server._waited] = 0.95
    unavailable(server, "EXISTS", "key")
    for node in cluster.nodes:
        node.resume()
    assert server._client._made is made
    assert not server._silent
    request = SimpleNamespace()
    assert server.execute("EXISTS", "key") == 0


@pytest.mark.parametrize("moved", [False, True])
def test_a_node_that_sends_elsewhere_is_not_silent(patient_cluster, make_server, moved):
    """It is well, though the one it names for a key, which moves or has moved, does not answer."""
    cluster = patient_cluster
    server = make_server(cluster.url)
    source, target = cluster.nodes[:2]
    key = one_key_of_each(cluster, f"sent-{moved}-")[source.port]
    other = one_key_of_each(cluster, f"kept-{moved}-")[source.port]
    for name in (key, other):
        server.execute("HSET", name, "f", "v")
    slot = cluster.slot(key)
    cluster.begin_migration(slot, target)
    cluster.migrate_keys(slot, source, target)
    if moved:
        cluster.end_migration(slot, target)
    target.pause()
    try:
        assert unavailable(server, "HGET", key, "f") < 1.0 + MARGIN
        until(lambda: f"127.0.0.1:{source.port}" not in server._silent, "an answer", 2)
        assert server.execute("HGET", other, "f") == b"v"
    finally:
        target.resume()
        if not moved:
            cluster.end_migration(slot, target)
    until(lambda: not server._silent, "an answer")
    assert server.execute("HGET", key, "f") == b"v"


def test_nobody_waits_for_all_who_learn_the_map(patient_cluster, make_server):
    """One after the other asks for it in vain, when all nodes hang: each in his own time."""
    cluster = patient_cluster
    requests = threading.local()
    server = make_server(cluster.url, timeout=2.0, request=lambda: vars(requests)["request"])

    def wait(delay):
        requests.request = SimpleNamespace()
        time.sleep(delay)
        return unavailable(server, "EXISTS", f"key {delay}")

    requests.request = None
    server.execute("EXISTS", "key")  # it has a map
    with ThreadPoolExecutor(30) as pool:
        for node in cluster.nodes:
            node.pause()
        try:
            waited = list(pool.map(wait, [1.9 * number / 30 for number in range(30)]))
        finally:
            for node in cluster.nodes:
                node.resume()
    assert max(waited) < 2.0 + MARGIN
