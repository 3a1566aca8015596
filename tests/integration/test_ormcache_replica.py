"""A primary and its replica: signals are compared by what they say, not by who wrote them."""

import subprocess

import pytest

from odoo.addons.redis_session_ormcache.tests.support.cached import LOOK, MANY, figures
from stack.provision.environment import postgres_bin
from stack.servers import LOAD, PostgreSQL, until

LOADED = "Registry loaded"


@pytest.fixture
def primary(tmp_path):
    """A server that can tell others what changes."""
    config = {"wal_level": "logical"}
    with PostgreSQL(tmp_path / "primary", config=config) as server:
        yield server
    server.remove()


@pytest.fixture
def logical_replica(primary, tmp_path, lone_database, postgres):
    """A server that is told of each change, and writes it in transactions of its own."""
    with PostgreSQL(tmp_path / "replica") as server:
        for target in (primary, server):
            copy(postgres, target, lone_database)
        primary.sql(lone_database, "CREATE PUBLICATION all_of_it FOR ALL TABLES")
        server.sql(
            lone_database,
            f"CREATE SUBSCRIPTION all_of_it CONNECTION 'host={primary.host} port={primary.port}"
            f" user={primary.user} dbname={lone_database}' PUBLICATION all_of_it"
            " WITH (copy_data = false)",
        )
        yield server
        server.sql(lone_database, "DROP SUBSCRIPTION all_of_it")
    server.remove()


def copy(source, target, database):
    """A dump of a database, restored on another server."""
    env = source.environment()
    programs = postgres_bin()
    target.createdb(database)
    dump, restore = (
        [str(programs / program), "-h", server.host, "-p", str(server.port), "-U", server.user]
        for program, server in (("pg_dump", source), ("psql", target))
    )
    with subprocess.Popen([*dump, database], env=env, stdout=subprocess.PIPE) as dumping:
        subprocess.run(
            [*restore, "-Xq", "-v", "ON_ERROR_STOP=1", "-d", database],
            env=env,
            stdin=dumping.stdout,
            stdout=subprocess.DEVNULL,
            check=True,
        )
    assert dumping.returncode == 0


def test_a_logical_replica_causes_no_reload(
    redis, make_worker, primary, logical_replica, lone_database
):
    """Requests on one and the other load the registry as often as in stock Odoo: once."""
    config = {"db_replica_host": logical_replica.host, "db_replica_port": logical_replica.port}
    loads = []
    for load in (LOAD, "base,web"):
        worker = make_worker(redis, lone_database, load=load, postgres=primary, config=config)
        for number in range(20):
            found = worker.run("result = cr.readonly", readonly=bool(number % 2))
            assert found == bool(number % 2)
            worker.run(LOOK, readonly=bool(number % 2))
        loads.append(worker.log.read_text().count(LOADED))
    assert loads == [1, 1]


def test_what_is_signalled_reaches_readers_of_a_replica(
    redis, make_worker, primary, logical_replica, lone_database
):
    """And values computed on the one and the other are shared, each among its own."""
    config = {"db_replica_host": logical_replica.host, "db_replica_port": logical_replica.port}
    options = {"postgres": primary, "config": config}
    first = make_worker(redis, lone_database, **options)
    second = make_worker(redis, lone_database, **options)
    for readonly in (True, False):
        assert first.run(LOOK, readonly=readonly) == second.run(LOOK, readonly=readonly)
    assert figures(second)["found"] >= MANY
    first.run("env['res.lang']._lang_get('en_US').name = 'Changed'")
    look = "result = env['res.lang']._get_active_by('code')['en_US']['name']"
    until(lambda: second.run(look, readonly=True) == "Changed", "that the replica follows")
    assert second.run(look, readonly=False) == "Changed"
    assert second.log.read_text().count(LOADED) == 1


METHODS = """
    from odoo.tools import ormcache
    def method(name, function):
        function.__name__ = function.__qualname__ = name
        function.__module__ = "an.addon"
        setattr(type(env["res.lang"]), name, ormcache()(function))
    def _english(self):
        self.env.cr.execute("SELECT name FROM res_lang WHERE code = 'en_US'")
        return self.env.cr.fetchone()[0]
    def _greeting(self):
        if meanwhile := kept.pop("meanwhile", None):
            meanwhile()
        return f"Hello {self._english()}"
    method("_english", _english)
    method("_greeting", _greeting)
"""
GREET = "result = env['res.lang']._greeting()"
GREET_WHILE_ANOTHER_READS = f"""
    import threading
    import odoo.api
    def read():
        with registry.cursor(readonly=True) as cursor:
            registry.check_signaling(cursor)
            kept["read"] = odoo.api.Environment(cursor, 1, {{}})["res.lang"]._english()
    def meanwhile():
        thread = threading.Thread(target=read)
        thread.start()
        thread.join()
    kept["meanwhile"] = meanwhile
    {GREET}
"""


def test_what_a_lagging_replica_says_stays_in_its_process(
    redis, make_worker, primary, logical_replica, lone_database
):
    """A request reads an old value there while another one of the process computes from it, on the
    primary: as in stock Odoo, other processes compute what is right."""
    config = {"db_replica_host": logical_replica.host, "db_replica_port": logical_replica.port}
    found, name = [], "SELECT name FROM res_lang WHERE code = 'en_US'"
    for load in ("base,web", LOAD):
        options = {"load": load, "postgres": primary, "config": config}
        one, other = (make_worker(redis, lone_database, **options) for _ in range(2))
        for worker in (one, other):
            worker.run(METHODS)
        old = primary.sql(lone_database, name)
        until(lambda old=old: logical_replica.sql(lone_database, name) == old, "that it follows")
        logical_replica.sql(lone_database, "ALTER SUBSCRIPTION all_of_it DISABLE")
        other.run(f"env['res.lang']._lang_get('en_US').name = 'new with {load}'")
        one.run(GREET_WHILE_ANOTHER_READS)
        found.append((one.run("result = kept['read']") == old, other.run(GREET)))
        logical_replica.sql(lone_database, "ALTER SUBSCRIPTION all_of_it ENABLE")
    assert found == [(True, "Hello new with base,web"), (True, f"Hello new with {LOAD}")]
