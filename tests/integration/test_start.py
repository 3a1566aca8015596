"""Starting a server: what is wrong stops it with one line, whatever Odoo does with exceptions."""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from odoo.addons.redis_session_ormcache.tests.support.topologies import PASSWORD, USER, access_rule
from stack.provision import environment
from stack.servers import (
    Certificates,
    Cluster,
    Proxy,
    Redis,
    Sentinels,
    StrictProxy,
    TLSRedis,
    add_user,
    as_user,
    write_conf,
)

ADDON = environment.ADDON


def start(tmp_path, settings=None, *, load=f"base,web,{ADDON}", env=None, path=(), libraries=()):
    """Load the server-wide modules as every Odoo command does, and stop; (exit code, output).

    :param path: of addons, and of Python
    :param libraries: of Python
    """
    options = {"addons_path": ",".join([environment.addons_path(), *map(str, path)])}
    if settings is not None:
        settings = {"secret": "of all nodes, or each one asks for it", **settings}
    conf = tmp_path / "odoo.conf"
    write_conf(conf, None, tmp_path, load=load, options=options, redis=settings)
    variables = {k: v for k, v in os.environ.items() if not k.startswith(("ODOO_", "PG"))}
    python_path = os.pathsep.join(map(str, [*path, *libraries, environment.odoo_path()]))
    done = subprocess.run(
        [sys.executable, "-m", "odoo", "-c", conf, "--no-http", "--stop-after-init"],
        env={**variables, "PYTHONPATH": python_path, **(env or {})},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


def assert_stopped(outcome, *told):
    code, output = outcome
    assert code != 0
    lines = [line for line in output.splitlines() if "stops the server" in line]
    assert len(lines) == 1, output
    for text in told:
        assert text in lines[0]
    assert "Traceback" not in output


def test_it_says_where_sessions_are(tmp_path, redis):
    """One line at INFO, without the password."""
    code, output = start(tmp_path, {"url": redis.url, "prefix": "shop"})
    assert code == 0
    assert f"Sessions are stored in Redis at {redis.url} under shop:session:*" in output


def test_the_password_is_not_logged(tmp_path):
    """Neither in that line nor anywhere else."""
    with Redis(tmp_path / "redis", password="s3cret") as redis:
        code, output = start(tmp_path, {"url": redis.url}, env={"ODOO_REDIS_PREFIX": "env"})
    assert code == 0
    assert ":***@127.0.0.1" in output
    assert "under env:session:*" in output
    assert "s3cret" not in output


@pytest.mark.parametrize(
    ("settings", "env", "told"),
    [
        ({"url": "http://x"}, {}, ["[redis] url", "redis://"]),
        ({"unknown": "1"}, {}, ["[redis] unknown", "expected one of"]),
        ({}, {"ODOO_REDIS_TTL": "1"}, ["ODOO_REDIS_TTL", "expected one of"]),
        ({"session_anonymous_ttl": "-5"}, {}, ["session_anonymous_ttl", "at least 1"]),
        ({"url": "redis://user@localhost"}, {}, ["password is missing"]),
    ],
)
def test_a_wrong_setting_stops_the_server(tmp_path, settings, env, told):
    """Odoo would log it and go on with sessions in files."""
    assert_stopped(start(tmp_path, settings, env=env), *told)


@pytest.mark.parametrize("credentials", ["", ":b4d-one@", "nobody:g00d-one@"])
def test_a_wrong_password_stops_the_server(tmp_path, credentials):
    """A server that asks for a password will never serve us without it."""
    with Redis(tmp_path / "redis", password="g00d-one") as redis:
        url = f"redis://{credentials}127.0.0.1:{redis.port}/0"
        outcome = start(tmp_path, {"url": url})
    assert_stopped(outcome, "refuses the user or password", "redis://user:password@host")
    assert "-one" not in outcome[1]


def test_a_wrong_database_number_stops_the_server(tmp_path, redis):
    """Redis has 16 databases unless it is told otherwise."""
    url = redis.url.removesuffix("/0") + "/99"
    assert_stopped(start(tmp_path, {"url": url}), "DB index is out of range")


def test_urls_of_other_tools_lead_to_the_same_server(tmp_path, redis):
    """As they are written; what a platform adds to the environment changes nothing."""
    pod = {
        "ODOO_SESSION_REDIS_PORT": "tcp://10.0.0.7:6379",
        "ODOO_SESSION_REDIS_SERVICE_HOST": "10.0.0.7",
        "ODOO_REDIS_NAME": "/odoo/odoo-redis",
        "ODOO_REDIS_ENV_REDIS_VERSION": "7.0",
    }
    url = f"valkey://127.0.0.1:{redis.port}?db=1"
    code, output = start(tmp_path, env={**pod, "ODOO_REDIS_URL": url})
    assert code == 0
    assert f"Sessions are stored in Redis at valkey://127.0.0.1:{redis.port} under" in output
    assert "HTTP 503" not in output


def test_a_user_without_a_password(tmp_path):
    """Is one who says so: with an empty password."""
    with Redis(tmp_path / "redis") as redis:
        redis.cli("ACL", "SETUSER", "guest", "on", "nopass", "~*", "+@all")
        redis.cli("ACL", "SETUSER", "default", "off")
        where = f"127.0.0.1:{redis.port}/0"
        code, output = start(tmp_path, {"url": f"redis://guest:@{where}"})
        assert code == 0
        assert f"Sessions are stored in Redis at redis://***@{where} under" in output
        assert_stopped(start(tmp_path, {"url": f"redis://{where}"}), "refuses the user or password")


def test_a_redis_that_is_down_does_not_stop_the_server(tmp_path):
    """It may come back; until then requests that need a session get 503."""
    with Redis(tmp_path / "redis") as redis:
        pass
    code, output = start(tmp_path, {"url": redis.url})
    assert code == 0
    assert "requests that need a session get HTTP 503 until it answers" in output
    assert "Traceback" not in output


def test_a_host_that_is_not_there_does_not_stop_the_server(tmp_path):
    """Its name may be known in a moment."""
    code, output = start(tmp_path, {"url": "redis://nowhere.invalid:6379/0"})
    assert code == 0
    assert "requests that need a session get HTTP 503 until it answers" in output


# -- what is found of the server -----------------------------------------------------------------

DURABLE = {"appendonly": "yes"}


def warnings(outcome):
    code, output = outcome
    assert code == 0, output
    assert "Traceback" not in output
    return [line for line in output.splitlines() if "WARNING" in line and "edis" in line]


def test_a_fit_server_is_not_complained_of(tmp_path):
    """No warning where sessions are durable and nothing is evicted."""
    with Redis(tmp_path / "redis", config={**DURABLE, "maxmemory": "100mb"}) as redis:
        assert warnings(start(tmp_path, {"url": redis.url})) == []


@pytest.mark.parametrize(
    ("config", "told"),
    [
        ({}, "has no persistence: when it restarts everybody is logged out"),
        ({**DURABLE, "maxmemory-policy": "allkeys-lru"}, "has maxmemory-policy allkeys-lru"),
        ({**DURABLE, "maxmemory-policy": "volatile-ttl"}, "has maxmemory-policy volatile-ttl"),
        ({**DURABLE, "replicaof": "127.0.0.1 1"}, "is a replica, which takes no writes"),
        ({**DURABLE, "maxmemory": "1"}, "get HTTP 503 until it answers"),
        ({**DURABLE, "min-replicas-to-write": "1"}, "get HTTP 503 until it answers"),
    ],
)
def test_a_dangerous_server_is_warned_of(tmp_path, config, told):
    """Once, in words that say what happens; the server starts."""
    with Redis(tmp_path / "redis", config=config) as redis:
        found = warnings(start(tmp_path, {"url": redis.url}))
        assert [told in line for line in found].count(True) == 1, found
        only_cached = {"ormcache_url": redis.url, "session": "false"}
        found = warnings(start(tmp_path, only_cached))
        assert not any("persistence" in line or "maxmemory-policy" in line for line in found)


def test_a_server_that_is_too_old_stops_the_server(tmp_path, redis):
    """It would refuse commands one by one."""

    def older(answer):
        return answer.replace(b"redis_version:7", b"redis_version:5")

    with Proxy(redis.port, rewrite=older) as proxy:
        outcome = start(tmp_path, {"url": proxy.url})
    assert_stopped(outcome, "is of version 5.", "expected 6.2 or newer")


def test_another_topology_than_the_url_says_stops_the_server(tmp_path, redis):
    """With the URL's scheme that would do."""
    plain = f"127.0.0.1:{redis.port}"
    assert_stopped(
        start(tmp_path, {"url": f"redis+cluster://{plain}"}),
        "cluster support disabled (its answer to CLUSTER SLOTS, each time)",
        "expected redis://",
    )
    assert_stopped(
        start(tmp_path, {"url": f"redis+sentinel://{plain}/main"}),
        "expected addresses of sentinels",
    )
    with Cluster(tmp_path / "cluster") as cluster:
        node = f"redis://127.0.0.1:{cluster.nodes[0].port}/0"
        assert_stopped(start(tmp_path, {"url": node}), "expected redis+cluster://")


def test_wrong_words_to_sentinels_stop_the_server(tmp_path):
    """Whatever they ask for: a password of their own, or the right name."""
    with Sentinels(tmp_path / "sentinels", replicas=0, sentinel_password="theirs") as sentinels:
        without = sentinels.url.partition("?")[0]
        told = "refuses the user or password", "sentinel_username and sentinel_password"
        assert_stopped(start(tmp_path, {"url": without}), *told)
        assert_stopped(start(tmp_path, {"url": f"{without}?sentinel_password=other"}), *told)
        other = sentinels.url.replace("/main/", "/other/")
        assert_stopped(start(tmp_path, {"url": other}), "knows a service 'other'")
        sentinel = f"redis://:theirs@127.0.0.1:{sentinels.sentinels[0].port}/0"
        assert_stopped(start(tmp_path, {"url": sentinel}), "is a sentinel")
        sentinels.sentinels[0].kill()
        assert warnings(start(tmp_path, {"url": sentinels.url}))
        assert_stopped(start(tmp_path, {"url": other}), "knows a service 'other'")


def test_a_user_who_may_not_do_it_all_stops_the_server(tmp_path, redis):
    """Found at start, not at the first request that needs it."""
    add_user(redis, USER, PASSWORD, access_rule().replace(" +hdel", ""))
    outcome = start(tmp_path, {"url": as_user(redis.url, USER, PASSWORD)})
    assert_stopped(outcome, "expected a user with the rule")
    assert PASSWORD not in outcome[1]


@pytest.mark.parametrize("command", ["EVALSHA", "HSET"])
def test_a_server_that_lacks_a_command_stops_the_server(tmp_path, command):
    """As one behind a proxy, or whose commands were renamed; a script's as well."""
    told = "unknown command 'EVALSHA'" if command == "EVALSHA" else "Unknown Redis command"
    with Redis(tmp_path / "redis", config={**DURABLE, f"rename-command {command}": '""'}) as redis:
        outcome = start(tmp_path, {"url": redis.url})
    assert_stopped(outcome, told, "its answer to EVALSHA", "a server that has these commands")


def refuse(*refused, words=b"-ERR unsupported command\r\n"):
    return lambda command: words if command[0] in refused else None


@pytest.mark.parametrize("words", [b"-ERR TIME is disabled\r\n", b"-PROXYERR no\r\n", b""])
def test_a_proxy_that_refuses_a_command_stops_the_server(tmp_path, redis, words):
    """Whatever its words, or if it hangs up."""
    with StrictProxy(redis.port, refuse(b"TIME", words=words)) as proxy:
        outcome = start(tmp_path, {"url": proxy.url})
    told = words.decode()[1:].removeprefix("ERR ").strip() or "closed"
    assert_stopped(outcome, told, "its answer to TIME, each time", "expected a user with the rule")


@pytest.mark.parametrize("words", [b"-ERR unsupported command 'client'\r\n", b"-no\r\n", b""])
def test_a_proxy_that_takes_neither_names_nor_questions_is_enough(tmp_path, words):
    """No word in the log: it does all that is needed."""
    with Redis(tmp_path / "redis", config=DURABLE) as redis:
        with StrictProxy(redis.port, refuse(b"CLIENT", b"INFO", b"CONFIG", words=words)) as proxy:
            assert warnings(start(tmp_path, {"url": proxy.url})) == []


@pytest.mark.parametrize("words", [b"-BUSY Redis is busy\r\n", b"-NOREPLICAS Not enough\r\n"])
def test_a_refusal_that_passes_does_not_stop_the_server(tmp_path, redis, words):
    """Redis documents by which words it is."""
    with StrictProxy(redis.port, refuse(b"EVALSHA", words=words)) as proxy:
        found = warnings(start(tmp_path, {"url": proxy.url}))
    told = "requests that need a session get HTTP 503 until it answers"
    assert [told in line for line in found].count(True) == 1


def test_a_server_that_repeats_a_password_is_not_quoted(tmp_path):
    """Of a command that it does not know Redis says all that it was asked."""
    with Redis(tmp_path / "redis", config={**DURABLE, "rename-command AUTH": '""'}) as redis:
        outcome = start(tmp_path, {"url": as_user(redis.url, USER, PASSWORD)})
    assert_stopped(outcome, "unknown command")
    assert PASSWORD not in outcome[1]


def test_a_user_with_the_documented_rule_is_enough(tmp_path, redis):
    """Nothing is asked that it may not, and refused: the server's own list has no entry."""
    add_user(redis, USER, PASSWORD, f"{access_rule()} {access_rule('for books')}")
    redis.cli("ACL", "LOG", "RESET")
    url = as_user(redis.url, USER, PASSWORD)
    assert warnings(start(tmp_path, {"url": url})) == []
    refused = redis.cli("ACL", "LOG").split()
    optional = {"info", "config|get", "client|setname"}
    assert optional.intersection(refused) == optional
    assert refused.count("reason") == len(optional)


def test_a_user_who_may_keep_no_books_is_told_so_once(tmp_path, redis):
    """All else works."""
    add_user(redis, USER, PASSWORD, access_rule())
    [line] = warnings(start(tmp_path, {"url": as_user(redis.url, USER, PASSWORD)}))
    assert "No books are kept of this process" in line


# -- TLS -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    return Certificates(tmp_path_factory.mktemp("certificates"))


def test_what_tls_will_never_accept_stops_the_server(tmp_path, certificates):
    """A wrong authority, a missing certificate, a file that is not there."""
    refused = "refuses TLS"
    with TLSRedis(tmp_path / "redis", certificates, config=DURABLE) as server:
        good = certificates.options()
        assert warnings(start(tmp_path, {"url": server.url})) == []
        for options, told in (
            ({**good, "ssl_ca_certs": f"{certificates.other_ca}.crt"}, refused),
            ({}, refused),
            (certificates.options(client=False), refused),
            ({**good, "ssl_ca_certs": "/nowhere.crt"}, "ssl_ca_certs cannot be used"),
            ({**good, "ssl_keyfile": "/nowhere.key"}, "ssl_certfile and ssl_keyfile cannot be"),
            ({**good, "ssl_keyfile": good["ssl_ca_certs"]}, "ssl_certfile and ssl_keyfile cannot"),
        ):
            outcome = start(tmp_path, {"url": server.url_with(**options)})
            assert_stopped(outcome, told)


def test_tls_and_plain_are_told_apart_from_silence(tmp_path, redis, certificates):
    """A server that speaks the other one will never serve us; one that is away may."""
    plain = redis.url.replace("redis://", "rediss://")
    assert_stopped(start(tmp_path, {"url": plain}), "speaks no TLS; expected redis for rediss")
    with TLSRedis(tmp_path / "redis", certificates) as server:
        url = server.url_with().replace("rediss://", "redis://")
        assert_stopped(start(tmp_path, {"url": url}), "speaks TLS; expected rediss for redis")
    away = start(tmp_path, {"url": "rediss://255.255.255.255:6379/0"})  # no network leads there
    assert "requests that need a session get HTTP 503 until it answers" in away[1]
    assert away[0] == 0


def test_a_certificate_that_ran_out_does_not_stop_the_server(tmp_path, certificates):
    """A new one on the server's side is all it takes."""
    with TLSRedis(tmp_path / "redis", certificates, pair=certificates.expired) as server:
        found = warnings(start(tmp_path, {"url": server.url}))
    assert "certificate has expired" in found[0]


def test_a_missing_library_stops_the_server(tmp_path, redis):
    """Without redis-py no node runs on file sessions unnoticed."""
    (tmp_path / "redis.py").write_text("raise ImportError('no module redis here')")
    assert_stopped(start(tmp_path, {"url": redis.url}, path=[tmp_path]), "no module redis here")


def test_a_missing_parser_stops_the_server(tmp_path, redis):
    """Without hiredis redis-py would wait longer than it may."""
    (tmp_path / "hiredis.py").write_text("raise ImportError('no module hiredis here')")
    assert_stopped(start(tmp_path, {"url": redis.url}, path=[tmp_path]), "no module hiredis here")


@pytest.mark.parametrize(
    "package", ["redis==6.4.0", "redis==7.1.1", "redis==7.4.1", "hiredis==3.1.0"]
)
def test_another_driver_stops_the_server(tmp_path, redis, package):
    """As another addon may want it; what was found is named, and what is expected."""
    outcome = start(tmp_path, {"url": redis.url}, libraries=[environment.package(package)])
    found = package.replace("==", " ")
    expected = "redis>=8.0,<9" if package.startswith("redis") else "hiredis>=3.2,<4"
    assert_stopped(outcome, f"{found} was found; expected {expected}")


def test_the_oldest_driver_is_taken(tmp_path):
    """Which the package's own requirements allow."""
    with Redis(tmp_path / "redis", config=DURABLE) as redis:
        libraries = map(environment.package, ["redis==8.0.0", "hiredis==3.2.0"])
        assert warnings(start(tmp_path, {"url": redis.url}, libraries=libraries)) == []


def copied_driver(tmp_path, version, *change):
    """A redis-py of another version, with one change of its code."""
    spec = importlib.util.find_spec("redis")
    driver = Path(shutil.copytree(Path(spec.origin).parent, tmp_path / "driver/redis"))
    init = driver / "__init__.py"
    init.write_text(re.sub(r'__version__ = ".*"', f'__version__ = "{version}"', init.read_text()))
    for name, old, new in change:
        text = (driver / name).read_text()
        assert old in text
        (driver / name).write_text(text.replace(old, new))
    return driver.parent


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (("connection.py", "def set_parser(", "def use_parser("), "there is connection Abstract"),
        (("connection.py", "socket_read_size=self._socket_read", "self._socket_read"), None),
        (("cluster.py", "_initialization_lock", "_learning_lock"), "uses _initialization_lock"),
        (
            ("connection.py", "def set_parser(self, ", "def set_parser(self, deadline, "),
            "takes (self parser_class), not (self deadline parser_class)",
        ),
    ],
)  # fmt: skip
def test_a_driver_of_another_shape_stops_the_server(tmp_path, change, told):
    """One that does not exist yet is taken unless what is relied on has changed."""
    libraries = [copied_driver(tmp_path, "8.77.0", change)]
    with Redis(tmp_path / "redis", config=DURABLE) as redis:
        outcome = start(tmp_path, {"url": redis.url}, libraries=libraries)
    if told:
        assert_stopped(outcome, "redis 8.77.0 was found, of another shape than redis>=8.0,<9", told)
    else:
        assert warnings(outcome) == []


def make_addon(tmp_path, name, code):
    """An addon that runs code when it is imported; the folder it is in."""
    addon = tmp_path / "addons" / name
    addon.mkdir(parents=True)
    (addon / "__manifest__.py").write_text("{'name': 'r', 'license': 'LGPL-3', 'author': 'x'}")
    (addon / "__init__.py").write_text(f"import odoo.http\n{code}\n")
    return addon.parent


BUS = """
import odoo.addons, pathlib
bus = pathlib.Path(__file__).with_name("bus")
bus.mkdir()
(bus / "websocket.py").write_text("{}")
odoo.addons.__path__._path.insert(0, str(bus.parent))
"""
# What is evaluated there is Odoo's own.
SHAPES = {
    "store": (
        "odoo.http.Application.session_store = property(own('lambda self: None'))",
        "session_store is a cached_property",
    ),
    "request": (
        "odoo.http.Request._save_session = own('lambda self, env, more: None')",
        "takes (self, env), not ['self', 'env', 'more']",
    ),
    "application": (
        "odoo.http.Application.__call__ = own('lambda self, environ: None')",
        "takes (self, environ, start_response), not ['self', 'environ']",
    ),
    "new method": (
        "odoo.http.FilesystemSessionStore.get_many = own('lambda self, sids: []')",
        "a session store has no method get_many",
    ),
    "changed method": (
        "odoo.http.FilesystemSessionStore.rotate = own('lambda self, session: None')",
        "not ['self', 'session']",
    ),
    "session": (
        """odoo.http.Session = own("type('Session', (), {'__slots__': ('data',)})")""",
        "Session has",
    ),
    "lookup": (
        "import odoo.tools.cache\n"
        "lookup = own('lambda self, *args, **kwargs: self.method(*args)')\n"
        "odoo.tools.cache.ormcache.lookup = lookup",
        "with ormcache = false it is not touched",
    ),
    "signals": (
        "from odoo.modules.registry import Registry\n"
        "Registry.get_sequences = own('lambda self, cr: (0, {})')",
        "get_sequences",
    ),
    "statements": (
        "import odoo.sql_db\n"
        "odoo.sql_db.Cursor.execute = own('lambda self, query, params=None: None')",
        "a thread has hooks for queries",
    ),
    "worker": (
        "import odoo.service.server\n"
        "odoo.service.server.WorkerHTTP.start = own('lambda self, multi: None')",
        "not ['self', 'multi']",
    ),
    "stop of a worker": (
        "import odoo.service.server\n"
        "odoo.service.server.Worker.__init__ = lambda self, multi: None",
        "a Worker has an attribute alive",
    ),
    "domain": (
        "from odoo.orm.domains import DomainCondition\nDomainCondition.__slots__ = ('expression',)",
        "DomainCondition has its slots",
    ),
    "cursor": (
        BUS.format("def acquire_cursor(db, tries): pass"),
        "acquire_cursor takes (db), not ['db', 'tries']",
    ),
    "websocket": (
        BUS.format("def acquire_cursor(db): pass"),
        "Websocket._terminate takes (self), not None",
    ),
}


@pytest.mark.parametrize("change", SHAPES)
def test_an_odoo_of_another_shape_stops_the_server(tmp_path, redis, change):
    """A patched part that changed is found before anything is patched; the version is named."""
    code, told = SHAPES[change]
    own = "own = lambda expression: eval(expression, vars(odoo.http))"
    path = make_addon(tmp_path, "reshape", f"{own}\n{code}")
    outcome = start(tmp_path, {"url": redis.url}, load=f"base,web,reshape,{ADDON}", path=[path])
    assert_stopped(outcome, "Odoo 19.0", told)


def test_sessions_can_stay_in_files(tmp_path):
    """``session = false`` leaves Odoo as it is, and says so."""
    off = {"session": "false", "ormcache": "false"}
    code, output = start(tmp_path, {**off, "url": "redis://127.0.0.1:1"})
    assert code == 0
    assert "Sessions are not stored in Redis (session = false)" in output
    assert "The ormcache is not shared" in output
    assert "Redis at" not in output


def test_each_half_may_have_its_own_server(tmp_path, redis, own_redis):
    """Sessions want persistence, a cache wants eviction: two URLs, or one for both."""
    urls = {"session_url": redis.url, "ormcache_url": own_redis.url}
    code, output = start(tmp_path, {**urls, "url": "redis://127.0.0.1:1"})
    assert code == 0
    assert f"Sessions are stored in Redis at {redis.url} under odoo:session:*" in output
    assert f"The ormcache is shared in Redis at {own_redis.url} under odoo:ormcache:*" in output
    assert "127.0.0.1:1 " not in output
