"""Servers and stores for the tests. All servers are real; ``dev/stack`` starts them."""

import contextlib
import functools
import itertools
import os
import random
import threading
import uuid
from collections import Counter

import pytest

from stack.provision import environment
from stack.servers import Odoo, PostgreSQL, Redis, Worker, init_database

# Odoo's and the addon's modules are imported in the functions: pytest reads this file before
# pytest-odoo has told Odoo where its addons are.

TIMEOUT = 1.0  # seconds, the budget of the stores under test
SET_TIMEOUT = (
    "INSERT INTO ir_config_parameter (key, value) VALUES ('sessions.max_inactivity_seconds', '{}')"
)
NODE_SECRET = "of all nodes that serve several databases"
MODULES = ["web", "bus", "auth_totp"]  # in every database
LONGEST = 10
FIRST = (
    "test_under_load",
    "test_suites",
    "test_topologies",
    "test_processes",
    "test_start",
    "test_site",
)
SPREAD = ("test_suites", "outages/test_ormcache")  # each of their tests has its own servers


def pytest_collection_modifyitems(items):
    """Begin with what takes long, so that no process is left with it at the end."""

    def rank(item):
        name = item.module.__name__
        return next((n for n, part in enumerate(FIRST) if name.endswith(part)), len(FIRST))

    items.sort(key=rank)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Keep the tests of a module in one process, for they share servers; not those of SPREAD."""
    from xdist.scheduler import LoadScopeScheduling

    class ByModule(LoadScopeScheduling):
        def _split_scope(self, nodeid):
            module = nodeid.partition("::")[0].removesuffix(".py")
            return nodeid if module.endswith(SPREAD) else module

    return ByModule(config, log)


def pytest_terminal_summary(terminalreporter):
    """Say how many of the bugs that tests plant were found, and what took longest."""
    reports = [
        report
        for reports in terminalreporter.stats.values()
        for report in reports
        if isinstance(report, pytest.TestReport)
    ]
    planted = [report for report in reports if "plant" in report.keywords]
    planted = [report for report in planted if report.when == "call" or report.failed]
    if planted:
        found = sum(report.passed for report in planted)
        terminalreporter.write_line(f"planted bugs: {found} of {len(planted)} found")
    parts = Counter()
    for report in reports:
        path, _colons, name = report.nodeid.partition("::")
        part = path.partition("tests/")[2]
        parts[f"{part} {name}" if part.startswith("suites/") else part] += report.duration
    if len(parts) > 1:
        terminalreporter.section(f"{LONGEST} longest parts of {sum(parts.values()):.0f} s")
        for part, seconds in parts.most_common(LONGEST):
            terminalreporter.write_line(f"{seconds:7.1f} s  {part}")


@pytest.fixture(scope="session")
def seed(request):
    """Of what is left to chance in this run: ``--hypothesis-seed``."""
    given = request.config.getoption("hypothesis_seed")
    number = int(given) if given and given.isdigit() else random.randrange(2**32)
    print(f"seed {number}")
    return number


@pytest.fixture(scope="session", autouse=True)
def load_registry(postgres):
    """Instead of pytest-odoo's: a database of this process's own."""
    import odoo.sql_db
    from odoo.modules.registry import Registry
    from odoo.tools import config

    threading.current_thread().testing = True
    name = f"pytest_{os.getpid()}"
    postgres.dropdb(name)
    init_database(postgres, name, MODULES)
    config["db_name"] = [name]
    Registry(name)
    yield
    odoo.sql_db.close_db(name)
    postgres.dropdb(name)


@pytest.fixture(scope="session")
def odoo_types():
    """The types of Odoo can be encoded, as ``post_load`` makes them."""
    from odoo.addons.redis_session_ormcache.http_patch import cached_values

    cached_values.check()
    cached_values.apply()


@pytest.fixture(scope="session")
def redis(request, tmp_path_factory):
    """A Redis server for all tests that leave it running; `TOPOLOGY` may name another one."""
    if name := os.environ.get("TOPOLOGY"):
        yield request.getfixturevalue("topologies")(name)
        return
    with Redis(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture(scope="session")
def topologies(tmp_path_factory):
    """Gives the Redis of a name in ``TOPOLOGIES``, for all tests that leave it running."""
    from odoo.addons.redis_session_ormcache.tests.support.topologies import topology

    with contextlib.ExitStack() as running:

        @functools.cache
        def start(name):
            return running.enter_context(topology(name, tmp_path_factory.mktemp(name)))

        yield start


@pytest.fixture(scope="module")
def module_redis(tmp_path_factory):
    """A Redis server of one module's own, which may take the place of ``redis`` there."""
    with Redis(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture
def own_redis(tmp_path):
    """A Redis server that a test may pause, kill or fill."""
    with Redis(tmp_path / "redis") as server:
        yield server


@pytest.fixture
def raw(redis):
    """A plain redis-py client, to look at what is really stored."""
    import redis as driver

    from odoo.addons.redis_session_ormcache.tests.support.topologies import RESTRICTED, TOPOLOGY

    if TOPOLOGY in RESTRICTED:
        pytest.skip(f"looks at all keys, which the user of {TOPOLOGY} may not")
    with driver.Redis.from_url(redis.url) as client:
        yield client


@pytest.fixture
def make_store():
    """Build a RedisSessionStore on a server; each with a prefix of its own."""
    from odoo.addons.redis_session_ormcache.connection import RedisServer
    from odoo.addons.redis_session_ormcache.http_patch import database_secret
    from odoo.addons.redis_session_ormcache.sessions import RedisSessionStore, ServerSecrets

    def secret_of(database):
        """As a node reads it; most of these tests name databases that are not there."""
        return database_secret.read(database) or f"of {database}"

    stores, secrets = [], ServerSecrets(NODE_SECRET, read=secret_of)

    def make(redis, *, prefix=None, timeout=TIMEOUT, secrets=secrets, **options):
        server = RedisServer(redis.url, half="sessions", timeout=timeout)
        prefix = prefix or f"odoo:test-{uuid.uuid4().hex}"
        stores.append(RedisSessionStore(server, prefix=prefix, secrets=secrets, **options))
        return stores[-1]

    yield make
    for store in stores:
        store.server.disconnect()


@pytest.fixture
def redis_store(make_store, redis):
    return make_store(redis)


@pytest.fixture
def store(request, tmp_path, monkeypatch):
    """Odoo's own store, then ours, on one Redis after the other."""
    if request.param == "redis":
        store = request.getfixturevalue("redis_store")
    elif request.param != "filesystem":
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
def postgres():
    """The PostgreSQL server that Odoo's configuration names: running already."""
    from odoo.tools import config

    server = PostgreSQL(environment.home() / "test/postgresql", port=int(config["db_port"]))
    server.host, server.user = config["db_host"] or "127.0.0.1", config["db_user"]
    return server


@pytest.fixture(scope="session")
def make_database(postgres):
    """Make a database with ``MODULES``; a copy, so it takes a moment only."""
    names = []

    def make():
        names.append(f"test_{uuid.uuid4().hex[:8]}")
        init_database(postgres, names[-1], MODULES)
        return names[-1]

    yield make
    for name in names:
        postgres.dropdb(name)


@pytest.fixture(scope="session")
def database(make_database):
    return make_database()


@pytest.fixture(scope="session")
def website_database(postgres):
    """A database with the website, which tests do not change."""
    name = f"test_{uuid.uuid4().hex[:8]}"
    init_database(postgres, name, ["website"])
    yield name
    postgres.dropdb(name)


@pytest.fixture(scope="module")
def shop(postgres):
    """A database with a website and a shop, of one module's own."""
    name = f"test_shop_{os.getpid()}"
    init_database(postgres, name, ["website_sale", "auth_totp"])
    # Else no cart before a login.
    postgres.sql(name, "UPDATE website SET ecommerce_access = 'everyone'")
    yield name
    postgres.dropdb(name)


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
