"""A slow resolver: no call takes longer for it, and none fails once an address is known."""

import time

import pytest

from odoo.addons.redis_session_ormcache.tests.support.dose import LONG
from stack.servers import Certificates, Cluster, Redis, Resolver, Sentinels, TLSRedis, Worker, until
from stack.servers.sentinels import SERVICE

TIMEOUT = 2.0  # seconds
MARGIN = 0.5  # seconds, for a slow machine
SLOW, TOO_SLOW = 3.0, 8.0  # seconds that a look-up takes: longer than a call, and much longer
NAME = "redis.test"
THREADS = 20

pytestmark = pytest.mark.skipif(not Resolver.available(), reason="needs root")

# In the process: calls of many threads at once on new connections; how each ended, and when.
CALLS = f"""
import time
from concurrent.futures import ThreadPoolExecutor
from odoo.addons.redis_session_ormcache.connection import RedisServer
from odoo.addons.redis_session_ormcache.exceptions import Error

def call(server, number):
    began = time.monotonic()
    try:
        server.execute("EXISTS", f"key{{number}}")
        return ["", time.monotonic() - began]
    except Error as error:
        return [str(error), time.monotonic() - began]

def calls(url, rounds, threads):
    found = []
    if url not in kept:
        kept[url] = RedisServer(url, half="sessions", timeout={TIMEOUT})
    server = kept[url]
    for _round in range(rounds):
        server._silent.clear()
        server._client.disconnect()
        with ThreadPoolExecutor(threads) as pool:
            found += pool.map(lambda number: call(server, number), range(threads))
    return found
"""


@pytest.fixture(scope="module")
def resolver(tmp_path_factory):
    with Resolver(tmp_path_factory.mktemp("resolver"), {NAME: "127.0.0.1"}) as resolver:
        yield resolver


@pytest.fixture
def quick(resolver):
    """The resolver, quick at first."""
    resolver.delay = 0.0
    yield resolver
    resolver.delay = 0.0


@pytest.fixture(scope="module")
def process(tmp_path_factory, postgres, database, redis, resolver):
    """An Odoo process that asks the resolver, with both halves off."""
    options = {"redis": {"url": redis.url, "session": False, "ormcache": False}}
    folder = tmp_path_factory.mktemp("worker")
    with Worker(folder, postgres, database=database, prefix=resolver.prefix, **options) as worker:
        yield worker


@pytest.fixture(scope="module")
def run(process):
    """Make calls in the process; how each ended, and how long it took."""

    def run(url, rounds=1, threads=THREADS):
        return process.run(f"{CALLS}\nresult = calls({url!r}, {rounds}, {threads})")

    return run


def named(url, name):
    return url.replace("127.0.0.1", name)


def assert_served(found, within=TIMEOUT + MARGIN):
    assert [error for error, _took in found if error] == []
    assert max(took for _error, took in found) < within


@pytest.mark.parametrize("delay", [SLOW, TOO_SLOW])
def test_once_known_a_name_costs_nobody_anything(redis, quick, run, delay):
    """New connections are opened to the last good address, at once."""
    url = named(redis.url, NAME)
    assert_served(run(url))
    quick.delay = delay
    began = time.monotonic()
    assert_served(run(url))
    assert_served(run(url, rounds=3), within=0.2 + MARGIN)
    assert time.monotonic() - began < TIMEOUT
    assert quick.asked


@pytest.mark.parametrize("delay", [TOO_SLOW, *([SLOW] if LONG else [])])
def test_while_it_is_not_known_calls_end_in_time(redis, quick, run, delay):
    """And are served as soon as it is, though each look-up takes long."""
    name = f"unknown{delay:.0f}.test"
    quick.names[name], quick.delay = "127.0.0.1", delay
    url = named(redis.url, name)
    began = time.monotonic()
    found = run(url)
    assert all(error for error, _took in found)
    assert max(took for _error, took in found) < TIMEOUT + MARGIN
    until(lambda: not any(error for error, _took in run(url)), "a served call", delay)
    assert delay - MARGIN < time.monotonic() - began < delay + TIMEOUT + MARGIN
    assert_served(run(url, rounds=3), within=0.2 + MARGIN)


def test_a_name_that_cannot_be_looked_up_keeps_its_address(redis, quick, run):
    """Also if the resolver says that there is no such name; one never known is an error at once."""
    name = "lost.test"
    quick.names[name] = "127.0.0.1"
    url = named(redis.url, name)
    assert_served(run(url))
    del quick.names[name]
    assert_served(run(url))
    for error, took in run(named(redis.url, "never.test")):
        assert "never.test" in error or "did not answer a moment ago" in error
        assert took < TIMEOUT / 2


def test_a_name_that_moves_is_followed(tmp_path, quick, run):
    """While look-ups are quick, by the next connection."""
    name = "moves.test"
    with Redis(tmp_path / "old") as old:
        new = Redis(tmp_path / "new", port=old.port)
        new.host = "127.0.0.2"
        with new:
            quick.names[name] = "127.0.0.1"
            url = named(old.url, name)
            assert_served(run(url))
            old.kill()
            quick.names[name] = "127.0.0.2"
            assert_served(run(url))


def test_a_certificate_is_for_the_name(tmp_path, redis, quick, run):
    """Though what is connected to is an address."""
    quick.names["other.test"] = "127.0.0.1"
    with TLSRedis(tmp_path, Certificates(tmp_path / "certificates")) as tls:
        assert_served(run(named(tls.url, NAME), threads=1))
        for error, _took in run(named(tls.url, "other.test"), threads=1):
            assert "other.test" in error


def test_sentinels_have_names(tmp_path, quick, run):
    """The primary is found while each look-up takes long."""
    with Sentinels(tmp_path) as sentinels:
        hosts = ",".join(f"{NAME}:{sentinel.port}" for sentinel in sentinels.sentinels)
        url = f"redis+sentinel://{hosts}/{SERVICE}/0"
        assert_served(run(url))
        quick.delay = TOO_SLOW
        assert_served(run(url))
        assert_served(run(url, rounds=3), within=0.3 + MARGIN)


def test_nodes_of_a_cluster_announce_names(tmp_path, quick, run):
    """Those of the URL, and those that the nodes say they have."""
    config = {"cluster-preferred-endpoint-type": "hostname"}
    with Cluster(tmp_path, config=config) as cluster:
        for number, node in enumerate(cluster.nodes):
            quick.names[f"node{number}.test"] = "127.0.0.1"
            node.cli("CONFIG", "SET", "cluster-announce-hostname", f"node{number}.test")
        until(
            lambda: all(node.cli("CLUSTER", "SLOTS").count(".test") >= 6 for node in cluster.nodes),
            "all nodes knowing all names",
        )
        url = named(cluster.url, NAME)
        assert_served(run(url))
        quick.delay = TOO_SLOW
        assert_served(run(url))
        assert_served(run(url, rounds=3), within=0.3 + MARGIN)


def test_the_start_does_not_hang(redis, quick, process):
    """What is asked to find out why a server cannot be spoken to ends, though names are slow."""
    quick.names["start.test"], quick.delay = "127.0.0.1", TOO_SLOW
    url = named(redis.url, "start.test").replace("redis://", "rediss://")
    took = process.run(
        f"{CALLS}\nbegan = time.monotonic()\n"
        f"try:\n    RedisServer({url!r}, half='sessions', timeout=1.0).check(durable=True)\n"
        "except Error:\n    result = time.monotonic() - began"
    )
    assert took < 5.0  # the three seconds of the questions, and what finds out
