"""The store of ``deploy/openid``: the library's own test, and several nodes."""

import importlib.util
import sys
import threading
import time

import pytest
import redis as driver

from stack.deployment import DEPLOY
from stack.provision import environment
from stack.servers import Cluster, Redis
from stack.servers.process import LOOPBACK

SECRET = "of all nodes, and of nobody else"
SERVER = "https://openid.example.com/server"
LIBRARY = "python3-openid==3.2.0"
THREADS = 8


def load(name, path):
    """A module from a file."""
    spec = importlib.util.spec_from_file_location(name, path)
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def library():
    return load("redis_store", DEPLOY / "openid/redis_store.py")


@pytest.fixture
def make(library, own_redis):
    """A store, as another node makes it."""

    def make(secret=SECRET):
        return library.RedisOpenIDStore(driver.Redis.from_url(own_redis.url), secret)

    return make


def association(issued=0, lifetime=600, handle="a handle"):
    from openid.association import Association

    return Association(handle, b"s" * 20, int(time.time()) + issued, lifetime, "HMAC-SHA1")


@pytest.mark.parametrize("server", [Redis, Cluster])
def test_the_library_is_content(library, tmp_path, server):
    """Its own test of a store passes."""
    suite = load("storetest", environment.source(LIBRARY) / "openid/test/storetest.py")
    with server(tmp_path / "redis") as running:
        if server is Cluster:
            client = driver.RedisCluster(host=LOOPBACK, port=running.nodes[0].port)
        else:
            client = driver.Redis.from_url(running.url)
        suite.testStore(library.RedisOpenIDStore(client, SECRET))


def test_a_nonce_is_used_once_on_all_nodes(make):
    """Of many that use it at once, one may."""
    stores, start, taken = [make() for _ in range(THREADS)], threading.Barrier(THREADS), []

    def use(store, number):
        start.wait()
        if store.useNonce(SERVER, now, f"salt {number}"):
            taken.append(number)

    for number in range(20):
        now = int(time.time())
        threads = [threading.Thread(target=use, args=(store, number)) for store in stores]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sorted(taken) == list(range(20))


def test_another_node_finds_an_association(make):
    """And none that has expired."""
    made = association()
    make().storeAssociation(SERVER, made)
    assert make().getAssociation(SERVER).secret == made.secret
    make().storeAssociation(SERVER, association(issued=-700, handle="old"))
    assert make().getAssociation(SERVER, "old") is None


def test_redis_holds_no_secret(make, own_redis):
    """Neither the secret of an association, nor its handle, nor the server's address; and what was
    moved or changed there does not open."""
    store = make()
    store.storeAssociation(SERVER, association())
    raw = driver.Redis.from_url(own_redis.url)
    [key] = [key for key in raw.keys("*") if b"associations" in key]
    [(field, value)] = raw.hgetall(key).items()
    for secret in (b"s" * 20, b"a handle", SERVER.encode()):
        assert secret not in key + field + value
    other, place = store._place("https://other.example.com", "a handle")
    raw.hset(other, place, value)
    assert store.getAssociation("https://other.example.com") is None
    raw.hset(key, field, value[:-1] + bytes([value[-1] ^ 1]))
    assert store.getAssociation(SERVER) is None
    assert make("another secret of 32 characters!").getAssociation(SERVER) is None


def test_what_nobody_needs_goes(make, own_redis):
    """Each key has a TTL, or is emptied by the cleanup."""
    store = make()
    store.storeAssociation(SERVER, association())
    store.useNonce(SERVER, int(time.time()), "salt")
    raw = driver.Redis.from_url(own_redis.url)
    for key in raw.keys("*"):
        assert raw.ttl(key) > 0 or key.endswith(b":servers")
    store.storeAssociation(SERVER, association(issued=-700, handle="a handle"))
    assert store.cleanup() == (0, 1)
    assert not raw.exists("{openid}:servers")


def test_a_short_secret_is_refused(make):
    with pytest.raises(ValueError, match="32 characters"):
        make("short")
