"""``odoo redis``, on two nodes, by what it prints and its exit code."""

import datetime
import json
import re
import socket
import subprocess
import time

import pytest
import redis as driver
import trustme

from odoo.addons.redis_session_ormcache.commands import doctor
from odoo.addons.redis_session_ormcache.connection import RedisServer
from odoo.addons.redis_session_ormcache.http_patch import code_listing
from odoo.addons.redis_session_ormcache.operation import Books, Process
from odoo.addons.redis_session_ormcache.tests.integration.test_ormcache_code import (
    NAME,
    addons,
    release,
)
from odoo.addons.redis_session_ormcache.tests.integration.test_other_addons import STORE
from odoo.addons.redis_session_ormcache.tests.integration.test_start import make_addon
from odoo.addons.redis_session_ormcache.tests.support.browser import Browser
from odoo.addons.redis_session_ormcache.tests.support.field import set_parameter
from stack.provision import environment
from stack.servers import (
    LOAD,
    Redis,
    free_port,
    odoo_environment,
    start_all,
    stop_all,
    until,
    write_conf,
)
from stack.servers.tls import Certificates

LATE = 15.0  # seconds until a process is seen
GOOD = {"appendonly": "yes"}
SUBCOMMANDS = ["doctor", "status", "sessions", "purge", "warm", "verify", "migrate"]


@pytest.fixture(scope="module")
def durable(tmp_path_factory):
    """A Redis as it should be."""
    with Redis(tmp_path_factory.mktemp("durable") / "redis", config=GOOD) as server:
        yield server


@pytest.fixture(scope="module")
def database(make_database, postgres):
    """One that stores attachments in files, as most do."""
    name = make_database()
    set_parameter(postgres, name, "ir_attachment.location", "file")
    return name


@pytest.fixture(scope="module")
def unused(make_database):
    """A database that no node uses."""
    return make_database()


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """The `data_dir` that nodes share."""
    return tmp_path_factory.mktemp("files")


@pytest.fixture(scope="module")
def nodes(make_node, durable, database, files):
    """Two, which have served somebody each."""
    made = [
        make_node(durable, workers=1, start=False, config={"data_dir": files}) for _ in range(2)
    ]
    start_all(*made)
    books = Books(RedisServer(durable.url, half="sessions", timeout=2.0), "odoo")
    for node in made:
        for path in ("/odoo", "/web/login"):
            page = Browser(database).get(node, path).text
        [asset, *_more] = re.findall(r"/web/assets/[^\"]+", page)
        assert Browser(database).get(node, asset).ok  # stores it in a file
    until(lambda: len(books.processes()) >= 4, "that all are seen", LATE)
    return made


@pytest.fixture
def configure(tmp_path, postgres, database, files):
    """Write an odoo.conf for the command."""

    def write(url, *, options=None, **redis):
        config = {"db_name": database, "proxy_mode": True, "list_db": False, "data_dir": files}
        config |= options or {}
        path = tmp_path / "odoo.conf"
        write_conf(path, postgres, tmp_path, options=config, redis={"url": url, **redis})
        return path

    return write


def run(*words, conf=None, env=None):
    """Run the command; what came of it."""
    command = [*environment.odoo_command(), f"--addons-path={environment.addons_path()}", "redis"]
    config = ["-c", str(conf)] if conf else []
    return subprocess.run(
        [*command, *words, *config], env=odoo_environment(env or {}),
        stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip


def found(done):
    """What it printed for machines."""
    assert done.stdout, done.stderr
    return json.loads(done.stdout)


def findings(conf, *words, env=None):
    """What `doctor` found, without what is in order: {subject: level}; and the exit code."""
    done = run("doctor", "--json", "--pings", "50", *words, conf=conf, env=env)
    told = found(done)
    assert all(finding["todo"] for finding in told if finding["level"] == "WARN")
    return {
        finding["subject"]: finding["level"] for finding in told if finding["level"] != "OK"
    }, done.returncode


def test_help_has_examples():
    """For each subcommand; the examples are understood."""
    for name in SUBCOMMANDS:
        done = run(name, "--help")
        assert done.returncode == 0
        assert f"odoo redis {name}" in done.stdout.partition("examples:")[2]
    assert run("nothing").returncode == 2
    assert run().returncode == 2


def test_a_healthy_set_up_gives_no_warning(nodes, durable, configure):
    """Every line is OK."""
    done = run("doctor", conf=configure(durable.url))
    assert done.returncode == 0
    assert {line[:4] for line in done.stdout.splitlines()} == {"OK  "}, done.stdout


def test_status_shows_processes_users_and_savings(nodes, durable, configure, database):
    """For people and for machines, the same."""
    browser = Browser(database)
    for node in nodes:
        browser.login(node)
    conf = configure(durable.url)

    def users():
        databases = found(run("status", "--json", conf=conf))["databases"]
        return databases.get(database, {}).get("users")

    until(users, "the user", LATE)
    told = found(run("status", "--json", conf=conf))
    assert {process["role"] for process in told["processes"]} == {"web", "websocket"}
    assert told["databases"][database]["users"] == 1
    assert told["databases"][database]["cache_hits"] > 0
    assert told["outages"] == []
    shown = run("status", conf=conf)
    assert shown.returncode == 0
    assert "1 node, 4 processes" in shown.stdout
    assert database in shown.stdout
    assert "no outage within a day" in shown.stdout


def test_status_says_when_sessions_were_away(durable, configure):
    """Minutes one after the other are one outage."""
    from odoo.addons.redis_session_ormcache.operation import books
    from odoo.addons.redis_session_ormcache.operation.books import Figure

    server = RedisServer(durable.url, half="sessions", timeout=2.0)
    writing = Books(server, "elsewhere")
    now = writing.now()
    for ago, count in ((3, 2), (2, 5), (7, 1)):
        writing.now = lambda ago=ago: now - 60 * ago
        writing.add("host", {Figure("sessions_unavailable"): count})
    assert books.HISTORY_TTL > 24 * 3600
    told = found(run("status", "--json", conf=configure(durable.url, prefix="elsewhere")))
    assert [outage["answers_503"] for outage in told["outages"]] == [1, 7]
    assert told["outages"][1]["end"] - told["outages"][1]["begin"] == 120


def test_somebody_is_logged_out_everywhere(nodes, durable, configure, database):
    """And nobody else; first it is said who that would be."""
    conf = configure(durable.url)
    browsers = [Browser(database) for _ in range(3)]
    for browser in browsers:
        assert browser.login(nodes[0]) == 2
    identifiers = [browser.sid[:42] for browser in browsers]

    def listed():
        sessions = found(run("sessions", "-d", database, "--json", conf=conf))["sessions"]
        return {session["identifier"] for session in sessions}

    assert [browser.uid(nodes[1]) for browser in browsers] == [2, 2, 2]
    assert set(identifiers) <= listed()  # at once
    one = ["sessions", "--identifier", identifiers[0], "--revoke"]
    assert identifiers[0] in run(*one, "--dry-run", conf=conf).stdout
    refused = run(*one, conf=conf)
    assert refused.returncode == 1
    assert "--yes" in refused.stderr
    assert browsers[0].uid(nodes[1]) == 2
    assert run(*one, "--yes", conf=conf).returncode == 0
    assert [browser.uid(nodes[1]) for browser in browsers] == [None, 2, 2]
    but = ["--user", "admin", "--but", identifiers[1], "--revoke", "--yes"]
    assert run("sessions", "-d", database, *but, conf=conf).returncode == 0
    assert [browser.uid(nodes[0]) for browser in browsers] == [None, 2, None]
    assert run("sessions", "-d", database, "--user", "nobody", conf=conf).stdout == "no session\n"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], "Say whose sessions"),
        (["--user", "admin"], "Say whose sessions"),
        (["--identifier", "short"], "short is no identifier"),
        (["--identifier", "A" * 42, "--user", "admin"], "A user is one of a database"),
    ],
)
def test_a_wrong_choice_of_sessions_is_refused(durable, configure, words, told):
    """Before anything is done."""
    done = run("sessions", *words, "--revoke", "--yes", conf=configure(durable.url))
    assert done.returncode == 2
    assert told in done.stderr


def test_cached_values_are_forgotten(nodes, durable, configure, database, postgres):
    """By every process, at its next request; sessions stay."""
    browser = Browser(database)
    browser.login(nodes[0])
    conf = configure(durable.url)
    count = "SELECT count(*) FROM orm_signaling_default"
    before = int(postgres.sql(database, count))
    done = run("purge", "-d", database, "-d", "no_such_database", "--yes", conf=conf)
    assert done.returncode == 1
    assert "no_such_database" in done.stderr
    assert f"{database}: forgotten" in done.stdout
    assert int(postgres.sql(database, count)) == before + 1
    assert browser.uid(nodes[1]) == 2
    assert "Caches invalidated" in "".join(node.log.read_text() for node in nodes)
    assert run("purge", "-d", database, conf=conf).returncode == 1  # nobody agreed


def test_values_are_computed_before_anybody_needs_them(
    own_redis, configure, website_database, postgres, make_node
):
    """By requests of a visitor and of a user, of which nothing is left; the next process takes what
    it needs from Redis."""
    conf = configure(own_redis.url, options={"db_name": website_database})
    # Else the login below changes the address of this site, and with it most of what is cached.
    set_parameter(postgres, website_database, "web.base.url.freeze", "True")
    devices = "SELECT count(*) FROM res_device_log"
    before = postgres.sql(website_database, devices)
    done = run("warm", "-d", website_database, "--path", "/contactus", "--json", conf=conf)
    assert done.returncode == 0, done.stderr
    told = found(done)
    assert told["people"] == 2
    assert told["requests"] > 50
    assert told["failed"] == 0, done.stderr
    assert told["published"] > 300
    assert postgres.sql(website_database, devices) == before
    assert not own_redis.cli("KEYS", "odoo:session:*").split()
    again = found(run("warm", "-d", website_database, "--json", conf=conf))
    assert again["published"] < told["published"] / 20
    assert again["found"] > told["published"] / 2
    verified = run("verify", "-d", website_database, "--json", conf=conf)
    assert verified.returncode == 0, verified.stderr
    compared = found(verified)
    assert compared["verified"] > compared["found"] * 0.7
    assert compared["distrusted"] == {}
    books = Books(RedisServer(own_redis.url, half="sessions", timeout=2.0), "odoo")

    def sums():
        counters = books.counters(socket.gethostname()).items()
        return {
            name: sum(amount for figure, amount in counters if figure.name == name)
            for name in ("cache_found", "cache_computed")
        }

    before = sums()  # of the command, which keeps books too
    node = make_node(own_redis, database=website_database)
    browser = Browser(website_database)
    browser.login(node)
    for path in ("/odoo", "/web/webclient/load_menus", "/", "/contactus"):
        assert browser.get(node, path).status_code == 200
    node.stop()
    taken, computed = (after - before[name] for name, after in sums().items())
    assert taken > 50
    assert computed < taken / 4


@pytest.mark.parametrize(
    ("words", "settings", "told"),
    [
        (["-d", "no_such_database"], {}, "no_such_database"),
        (["-d", "postgres"], {"ormcache": False}, "no values are shared"),
    ],
)
def test_what_cannot_be_warmed_is_said(durable, configure, words, settings, told):
    """In one line."""
    done = run("warm", *words, conf=configure(durable.url, **settings))
    assert done.returncode == 1
    assert told in done.stderr
    assert "Traceback" not in done.stderr


# -- what doctor finds ---------------------------------------------------------------------------


def test_a_redis_that_is_not_there(configure):
    """Of both halves."""
    told, code = findings(configure(f"redis://127.0.0.1:{free_port()}/0"))
    assert told == {"Redis of sessions": "FAIL", "Redis of ormcache": "FAIL"}
    assert code == 1


def test_a_wrong_password(tmp_path, configure):
    """Which the server would not start with."""
    with Redis(tmp_path / "redis", password="right", config=GOOD) as server:
        told, code = findings(configure(server.url.replace("right", "wrong")))
    assert told["Redis of sessions"] == "FAIL"
    assert code == 1


def test_a_redis_that_forgets_or_is_full(tmp_path, configure):
    """No persistence, an evicting policy, and hardly any room."""
    with Redis(tmp_path / "redis", config={"maxmemory-policy": "volatile-lru"}) as server:
        driver.Redis.from_url(server.url).set("filler", b"x" * 40 * 2**20)
        used = int(re.search(r"used_memory:(\d+)", server.cli("INFO", "memory"))[1])
        server.cli("CONFIG", "SET", "maxmemory", str(int(used * 1.08)))
        told, code = findings(configure(server.url))
    assert told["Redis of sessions"] == "WARN"
    assert told["Redis of sessions, memory"] == "WARN"
    assert code == 0


def test_a_clock_that_is_wrong(durable, configure):
    """By a node whose clock is ahead."""
    told, _code = findings(configure(durable.url), env=environment.clock(600))
    assert told["Redis of sessions, clock"] == "WARN"


@pytest.mark.parametrize(("days", "level"), [(5, "WARN"), (-5, "FAIL"), (300, None)])
def test_a_certificate_that_ends(tmp_path, configure, days, level):
    """Or has ended."""
    port = free_port()
    certificates = Certificates(tmp_path / "tls")
    authority = trustme.CA()
    end = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(days=days, hours=1)
    pair = authority.issue_cert("localhost", "127.0.0.1", not_after=end)
    pair.cert_chain_pems[0].write_to_path(f"{tmp_path}/short.crt")
    pair.private_key_pem.write_to_path(f"{tmp_path}/short.key")
    authority.cert_pem.write_to_path(f"{tmp_path}/ca.crt")
    config = {**GOOD, **certificates.config(port, clients=False, pair=tmp_path / "short")}
    with TLSRedis(tmp_path / "redis", port=port, config=config) as _server:
        url = f"rediss://127.0.0.1:{port}/0?ssl_ca_certs={tmp_path}/ca.crt"
        told, _code = findings(configure(url))
    assert told.get("Redis of sessions, certificate") == level


class TLSRedis(Redis):
    """One that is asked over TLS only: it is ready when it listens."""

    def ready(self):
        from stack.servers import listens

        return listens(self.port)


@pytest.fixture
def others(durable):
    """Say that other processes are alive, under a prefix of their own."""
    books = Books(RedisServer(durable.url, half="sessions", timeout=2.0), f"p{time.time_ns()}")

    def register(host, **values):
        told = {"pid": 1, "role": "web", "started": 1.0, "addon": "1", "odoo": "19.0"}
        told |= {"settings": {"session": True}, "fingerprints": {"db": "a"}}
        told |= {"servers": {"db": "1"}}
        books.register(Process(**{**told, "host": host, "seen": books.now(), **values}))

    register.prefix = books._prefix
    return register


@pytest.mark.parametrize(
    ("values", "subject", "level"),
    [
        ({"addon": "2"}, "version of the addon", "WARN"),
        ({"fingerprints": {"db": "b"}}, "code for db", "WARN"),
        ({"settings": {"session": False}}, "setting session", "FAIL"),
        ({"role": "cron"}, "cron jobs", "WARN"),
        ({"servers": {"db": "2"}}, "PostgreSQL of db", "FAIL"),
        ({"fingerprints": {}}, None, None),
    ],
)
def test_nodes_that_differ(durable, configure, unused, others, values, subject, level):
    """Of two; each is named."""
    others("one", role=values.get("role", "web"))
    others("two", **values)
    conf = configure(durable.url, prefix=others.prefix, options={"db_name": unused})
    told, code = findings(conf)
    assert told == ({subject: level} if subject else {})
    assert code == (level == "FAIL")
    if subject:
        assert "two" in run("doctor", "--pings", "1", conf=conf).stdout


def test_a_replica_that_is_late(tmp_path, configure):
    """One that follows is in order; one that hangs is told of."""
    with Redis(tmp_path / "primary", config=GOOD) as primary:
        config = {"replicaof": f"127.0.0.1 {primary.port}"}
        with Redis(tmp_path / "replica", config=config) as replica:
            is_online = "state=online"
            until(lambda: is_online in primary.cli("INFO", "replication"), "the replica")
            conf = configure(primary.url)
            assert "replicas" not in str(findings(conf)[0])
            assert "all 1 follow" in run("doctor", "--pings", "1", conf=conf).stdout
            replica.pause()
            time.sleep(doctor.REPLICA_LAG + 2)
            told, code = findings(conf)
            replica.resume()
    assert told["Redis of sessions, replicas"] == "WARN"
    assert code == 0


def test_memory_that_will_not_last(durable, configure):
    """At its growth since a look of this command hours ago; a quarter of that growth lasts."""
    server = RedisServer(durable.url, half="sessions", timeout=2.0)
    books = Books(server, "growing")
    used = int(re.search(r"used_memory:(\d+)", durable.cli("INFO", "memory"))[1])
    durable.cli("CONFIG", "SET", "maxmemory", str(used + 512 * 2**20))
    conf = configure(durable.url, prefix="growing")
    now, subject = books.now(), "Redis of sessions, growth of memory"
    try:
        assert subject not in run("doctor", "--pings", "1", conf=conf).stdout  # the first look
        for mb, level in ((40, "WARN"), (10, None)):
            books.now = lambda: now - 10 * 3600
            books.note_memory(used - mb * 2**20)
            assert findings(conf)[0].get(subject) == level
            assert subject in run("doctor", "--pings", "1", conf=conf).stdout
    finally:
        durable.cli("CONFIG", "SET", "maxmemory", "0")


def test_files_that_are_not_here(nodes, durable, configure, database, tmp_path):
    """On a node with a filestore of its own."""
    told, code = findings(configure(durable.url, options={"data_dir": tmp_path / "own"}))
    assert told == {f"files of {database}": "FAIL"}
    assert code == 1


def test_a_node_without_the_addon(nodes, make_node, durable, configure, database, files):
    """By its connections to PostgreSQL."""
    stock = make_node(durable, load="base,web", config={"data_dir": files})
    Browser(database).get(stock, "/web/login")
    conf = configure(durable.url)
    told, _code = findings(conf)
    assert told == {f"processes of {database}": "WARN"}
    assert f"process {stock.pid} at" in run("doctor", "--pings", "1", conf=conf).stdout
    stock.stop()
    assert findings(conf) == ({}, 0)


def test_a_method_whose_value_was_wrong(nodes, durable, configure, database):
    """It is shared again when somebody trusts it."""
    method = "odoo.addons.other.models.Other._get"
    key = f"odoo:ormcache:{database}:distrusted"
    conf = configure(durable.url)
    durable.cli("HSET", key, "#", "0", method, "1700000000 ab")
    assert findings(conf) == ({f"cached values of {database}": "WARN"}, 0)
    assert method in run("doctor", "--pings", "1", conf=conf).stdout
    trusted = run("verify", "-d", database, "--trust", method, "--json", conf=conf)
    assert trusted.returncode == 0, trusted.stderr
    assert found(trusted)["distrusted"] == {}
    assert durable.cli("HGETALL", key).split() == ["#", "0"]
    assert findings(conf) == ({}, 0)


def test_which_files_differ(make_node, own_redis, configure, tmp_path, files, database):
    """Of two nodes with two releases of an addon; names of files are sealed in Redis."""
    changes = (
        {"models.py": "from odoo import models\n"},
        {"models.py": "", "views/new.xml": "<odoo/>"},
    )
    made = [
        make_node(
            own_redis, start=False, load=f"{LOAD},{NAME}",
            config={"addons_path": addons(release(tmp_path / name, each)), "data_dir": files},
        )
        for name, each in zip(("one", "two"), changes, strict=True)
    ]  # fmt: skip
    start_all(*made)
    for node in made:
        Browser(database).get(node, "/web/login")
    books = Books(RedisServer(own_redis.url, half="sessions", timeout=2.0), "odoo")
    until(lambda: all(process.fingerprints for process in books.alive()), "the code", LATE)
    until(lambda: len(books.listings(database)) == 2, "the listings", LATE)
    assert not any(b"models" in sealed for sealed in books.listings(database).values())
    known = code_listing.read(books, database)
    assert code_listing.differing(known) == [f"{NAME}: models.py", f"{NAME}: views/new.xml"]
    conf = configure(own_redis.url, options={"addons_path": addons(tmp_path / "one")})
    shown = run("doctor", "--pings", "1", conf=conf).stdout
    assert f"not the same: {NAME}: models.py, {NAME}: views/new.xml\n" in shown
    stop_all(*made)


def test_another_store_of_sessions(make_node, own_redis, configure, tmp_path, files):
    """That an addon puts in place while requests are served."""
    code = STORE + (
        "import threading\n"
        "def replace(): odoo.http.root.session_store = store\n"
        "threading.Timer(5, replace).start()\n"
    )
    path = make_addon(tmp_path, "other", code)
    node = make_node(
        own_redis, load=f"{LOAD},other", config={"addons_path": addons(path), "data_dir": files}
    )
    books = Books(RedisServer(own_redis.url, half="sessions", timeout=2.0), "odoo")
    until(lambda: any(process.replaced for process in books.alive()), "that it says so", 2 * LATE)
    told, code = findings(configure(own_redis.url))
    assert told["session store"] == "FAIL"
    assert code == 1
    node.kill()


def test_no_node_at_all(durable, configure, unused):
    """Under another prefix than the nodes have, for one."""
    told, _code = findings(configure(durable.url, prefix="nobody", options={"db_name": unused}))
    assert told == {"nodes": "WARN"}


@pytest.mark.parametrize(
    ("options", "subjects"),
    [
        ({"proxy_mode": False}, {"proxy_mode"}),
        ({"list_db": True}, {"list_db"}),
        ({"db_name": False}, {"dbfilter", "secret"}),
        ({"db_name": False, "dbfilter": "^%d$"}, {"secret"}),
    ],
)
def test_settings_of_odoo(nodes, durable, configure, options, subjects):
    """That several nodes need, or that let too much out."""
    told, code = findings(configure(durable.url, options=options))
    assert told == dict.fromkeys(subjects, "WARN")
    assert code == 0


def test_a_wrong_setting_is_named(configure):
    """As at the start of a server."""
    done = run("status", conf=configure("redis://localhost:6379/0", timeout="soon"))
    assert done.returncode == 1
    assert "timeout" in done.stderr
    assert "Traceback" not in done.stderr


def test_without_redis_there_is_nothing_to_see(configure):
    """Both halves are off."""
    conf = configure("redis://localhost:6379/0", session=False, ormcache=False)
    done = run("status", conf=conf)
    assert done.returncode == 1
    assert "Redis is not used" in done.stderr
