"""Servers and stores for the tests. All servers are real; ``dev/stack`` starts them."""

import contextlib
import functools
import itertools
import os
import re
import uuid
from pathlib import Path
from types import SimpleNamespace

import pytest

from stack import topologies as stacks
from stack.servers import Odoo, PostgreSQL, Redis, Worker, init_database

# Odoo's and the addon's modules are imported in the fixtures: pytest reads this file before
# pytest-odoo has told Odoo where its addons are.

TIMEOUT = 1.0  # seconds, the budget of the stores under test
TOPOLOGIES = ("old", "valkey", "unix", "tls", "access", "sentinel", "cluster")
RESTRICTED = ("access", "sentinel", "cluster")
TOPOLOGY = os.environ.get("TOPOLOGY")  # of the tests that need no particular one
USER, PASSWORD = "odoo", "s3/cr#t"


@pytest.fixture(scope="session")
def redis(request, tmp_path_factory):
    """A Redis server for all tests that leave it running; `TOPOLOGY` may name another one."""
    if TOPOLOGY:
        yield request.getfixturevalue("topologies")(TOPOLOGY)
        return
    with Redis(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture(scope="session")
def topologies(tmp_path_factory):
    """Gives the Redis of a name in ``TOPOLOGIES``, for all tests that leave it running."""
    with contextlib.ExitStack() as running:

        @functools.cache
        def start(name):
            folder = tmp_path_factory.mktemp(name)
            if name == "tls":
                return running.enter_context(
                    stacks.TLSRedis(folder, stacks.Certificates(folder / "certificates"))
                )
            if name in PLAIN:
                return running.enter_context(PLAIN[name](folder))
            return SimpleNamespace(url=running.enter_context(restricted(name, folder)))

        yield start


PLAIN = {"old": stacks.OldRedis, "valkey": stacks.Valkey, "unix": stacks.UnixRedis}


@contextlib.contextmanager
def restricted(name, folder):
    """The URL of a Redis for the user that the documentation says is enough."""
    rule = access_rule()
    if name == "access":
        with Redis(folder) as redis:
            stacks.add_user(redis, USER, PASSWORD, rule)
            yield stacks.as_user(redis.url, USER, PASSWORD)
    elif name == "sentinel":
        with stacks.Sentinels(folder, password="theirs", sentinel_password="0ther") as redis:
            for server in redis.servers:
                stacks.add_user(server, USER, PASSWORD, rule)
            for sentinel in redis.sentinels:
                stacks.add_user(sentinel, "watch", PASSWORD, access_rule("on the sentinels"))
            url = stacks.as_user(redis.url, USER, PASSWORD).partition("?")[0]
            yield f"{url}?sentinel_username=watch&sentinel_password={PASSWORD.replace('#', '%23')}"
    else:
        with stacks.Cluster(folder) as redis:
            for node in redis.nodes:
                stacks.add_user(node, USER, PASSWORD, f"{rule} {access_rule('In a Cluster')}")
            yield stacks.as_user(redis.url, USER, PASSWORD)


def access_rule(place=None):
    """What the documentation says that a user needs: in all, or in one place besides."""
    text = (Path(__file__).parents[1] / "readme/CONFIGURE.md").read_text()
    if place:
        return re.search(rf"{place}[^`]*`([^`]+)`", text)[1].replace("\n", " ")
    return re.search(r"ACL SETUSER odoo on >password (.+)", text)[1]


@pytest.fixture
def own_redis(tmp_path):
    """A Redis server that a test may pause, kill or fill."""
    with Redis(tmp_path / "redis") as server:
        yield server


@pytest.fixture
def raw(redis):
    """A plain redis-py client, to look at what is really stored."""
    import redis as driver

    if TOPOLOGY in RESTRICTED:
        pytest.skip(f"looks at all keys, which the user of {TOPOLOGY} may not")
    with driver.Redis.from_url(redis.url) as client:
        yield client


@pytest.fixture
def make_store():
    """Build a RedisSessionStore on a server; each with a prefix of its own."""
    from odoo.addons.redis_session_ormcache.connection import RedisServer
    from odoo.addons.redis_session_ormcache.sessions import RedisSessionStore

    stores = []

    def make(redis, *, prefix=None, timeout=TIMEOUT, **options):
        server = RedisServer(redis.url, half="sessions", timeout=timeout)
        prefix = prefix or f"odoo:test-{uuid.uuid4().hex}"
        stores.append(RedisSessionStore(server, prefix=prefix, **options))
        return stores[-1]

    yield make
    for store in stores:
        store._server.disconnect()


@pytest.fixture
def redis_store(make_store, redis):
    return make_store(redis)


@pytest.fixture(params=["filesystem", "redis", *TOPOLOGIES])
def store(request, tmp_path, monkeypatch):
    """Odoo's own store, then ours, on one Redis after the other."""
    if request.param == "redis":
        store = request.getfixturevalue("redis_store")
    elif request.param in TOPOLOGIES:
        redis = request.getfixturevalue("topologies")(request.param)
        store = request.getfixturevalue("make_store")(redis)
    else:
        from odoo.http import FilesystemSessionStore, Session

        store = FilesystemSessionStore(str(tmp_path), session_class=Session, renew_missing=True)
    # FilesystemSessionStore.vacuum looks there rather than at itself.
    import odoo.http

    monkeypatch.setitem(vars(odoo.http.root), "session_store", store)
    return store


@pytest.fixture
def env():
    """An environment of the test database, rolled back at the end."""
    import odoo.api
    from odoo.modules.registry import Registry
    from odoo.tests.common import get_db_name

    with Registry(get_db_name()).cursor() as cr:
        yield odoo.api.Environment(cr, odoo.api.SUPERUSER_ID, {})
        cr.rollback()


@pytest.fixture
def new_session():
    """Make a session as a logged-in user's, with something to recognise it by."""
    numbers = itertools.count()

    def make(store, **values):
        from odoo.http import get_default_session

        session = store.new()
        session.update(get_default_session(), db="prod", mark=next(numbers))
        session.update(values)
        return session

    return make


# -- processes -----------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def postgres(tmp_path_factory):
    """The PostgreSQL server that Odoo's configuration names: running already."""
    from odoo.tools import config

    server = PostgreSQL(tmp_path_factory.mktemp("postgres"), port=int(config["db_port"]))
    server.host, server.user = config["db_host"] or "127.0.0.1", config["db_user"]
    return server


@pytest.fixture(scope="session")
def make_database(postgres):
    """Make a database with web, bus and auth_totp; a copy, so it takes a moment only."""
    names = []

    def make():
        names.append(f"test_{uuid.uuid4().hex[:8]}")
        init_database(postgres, names[-1], ["web", "bus", "auth_totp"])
        return names[-1]

    yield make
    for name in names:
        postgres.dropdb(name)


@pytest.fixture(scope="session")
def database(make_database):
    return make_database()


@pytest.fixture
def lone_database(make_database):
    """A database that no other test changes."""
    return make_database()


@pytest.fixture
def make_worker(tmp_path, postgres):
    """Start an Odoo process that runs what it is told, as a request is run."""
    workers = []

    def make(redis, database, *, settings=None, postgres=postgres, **options):
        settings = {"url": redis.url, "session": False, **(settings or {})}
        folder = tmp_path / f"worker{len(workers)}"
        workers.append(Worker(folder, postgres, database=database, redis=settings, **options))
        return workers[-1]

    yield make
    for worker in workers:
        worker.stop()


@pytest.fixture(scope="module")
def make_node(tmp_path_factory, postgres, database):
    """Start an Odoo process on a Redis server; its budget for Redis is ``TIMEOUT``."""
    nodes = []

    def make(redis, *, database=database, settings=None, start=True, **options):
        number = len(nodes)
        settings = {"url": redis.url, "timeout": TIMEOUT, **(settings or {})}
        folder = tmp_path_factory.mktemp(f"node{number}-")
        node = Odoo(f"node{number}", folder, postgres, database=database, redis=settings, **options)
        nodes.append(node)
        return node.start() or node if start else node

    yield make
    for node in nodes:
        node.kill()  # stopping waits for websockets
