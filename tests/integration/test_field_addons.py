"""Addons of others, from PyPI, beside this one; and servers that are not Odoo's."""

import re
import socketserver
import subprocess
import sys
import threading
import time
import zlib
from http.server import BaseHTTPRequestHandler

import pytest

from odoo.addons.redis_session_ormcache.tests.integration.test_other_addons import (
    AFTER,
    BEFORE,
    BOTH,
    COEXISTING,
    REGISTRY,
    REPLACING,
    STORE,
    load,
)
from odoo.addons.redis_session_ormcache.tests.integration.test_start import (
    ADDON,
    assert_stopped,
    make_addon,
    start,
)
from odoo.addons.redis_session_ormcache.tests.support.browser import Browser
from odoo.addons.redis_session_ormcache.tests.support.field import field_addons, set_parameter
from stack.provision import environment
from stack.servers import install, write_conf
from stack.servers.odoo import LOAD, odoo_environment

INSTALLED = ["auth_session_timeout", "dbfilter_from_header", "queue_job", "sentry"]
WIDE = "dbfilter_from_header,queue_job,sentry"
DELAY = 3  # seconds of inactivity, of auth_session_timeout
IGNORED = "/web/session/check"


@pytest.fixture(scope="module")
def redis(module_redis):
    return module_redis


@pytest.fixture(scope="module")
def found():
    """Where Odoo and its addons find those of others."""
    return field_addons()


@pytest.fixture(scope="module")
def crowded(make_database, postgres, found):
    """A database with addons of others."""
    name = make_database()
    install(postgres, name, INSTALLED, found["config"], found["env"])
    for key, value in (
        ("inactive_session_time_out_delay", DELAY),
        ("inactive_session_time_out_ignored_url", IGNORED),
    ):
        set_parameter(postgres, name, key, value)
    return name


@pytest.fixture(scope="module")
def reports():
    """What error monitors send; on a port of its own."""
    received = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.headers.get("Content-Encoding") == "gzip":
                body = zlib.decompress(body, 31)
            received.append(body.decode(errors="replace"))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_arguments):
            pass

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        received.append(server.server_address[1])
        yield received
        server.shutdown()


@pytest.fixture(scope="module")
def nodes(make_node, redis, crowded, found, reports):
    """A threaded and a prefork node; the addons of others are loaded after ours, and before."""
    made = []
    for workers, wide in ((0, f"{LOAD},{WIDE}"), (1, f"base,rpc,web,{WIDE},{ADDON}")):
        node = make_node(redis, database=crowded, load=wide, workers=workers, start=False, **found)
        with node.conf.open("a") as conf:
            conf.write(
                f"[sentry]\nsentry_enabled = true\nsentry_dsn = http://k@127.0.0.1:{reports[0]}/1\n"
                f"[queue_job]\nchannels = root:{1 if workers else 0}\n"
            )
        made.append(node.start() or node)
    return made


@pytest.fixture
def browser(crowded):
    return Browser(crowded)


def log(node):
    return node.log.read_text(errors="replace")


def until(holds, seconds=20):
    end = time.monotonic() + seconds
    while not (value := holds()) and time.monotonic() < end:
        time.sleep(0.2)
    return value


def test_sentry_reports_and_sessions_are_shared(nodes, browser, reports):
    """It wraps the application, whichever is loaded first."""
    assert browser.login(nodes[0])
    assert [browser.uid(node) for node in nodes * 2] == [2] * 4
    browser.call(nodes[1], "/web/session/destroy")
    assert browser.uid(nodes[0]) is None
    assert until(lambda: sum("Starting Odoo Server" in str(r) for r in reports) >= len(nodes))
    for node in nodes:
        assert "Traceback" not in log(node)
        assert "CRITICAL" not in log(node)


def test_a_job_of_queue_job_runs(nodes, browser, postgres, crowded):
    """The runner is a process of the server, and asks it by requests without a session."""
    browser.login(nodes[0])
    assert browser.get(nodes[0], "/queue_job/create_test_job").status_code == 200
    state = "SELECT state FROM queue_job"
    assert until(lambda: postgres.sql(crowded, state).split() == ["done"]), log(nodes[1])


def test_dbfilter_from_header_filters(nodes, browser, crowded):
    """A session of a database that the header does not allow is logged out."""
    browser.login(nodes[0])
    for node in nodes:
        allowed = browser.get(node, "/odoo", headers={"X-Odoo-DbFilter": f"^{crowded}$"})
        assert allowed.status_code == 200
    refused = browser.get(nodes[1], "/odoo", headers={"X-Odoo-DbFilter": "^nothing$"})
    assert refused.status_code != 200
    assert browser.uid(nodes[0]) is None


def test_auth_session_timeout_counts_activity_on_all_nodes(nodes, browser):
    """A request on either node is activity; one for an ignored path is not; nor is none at all."""
    browser.login(nodes[0])
    started = time.monotonic()
    while time.monotonic() - started < 2.5 * DELAY:
        time.sleep(DELAY / 4)
        assert browser.get(nodes[1], "/odoo").status_code == 200  # saves nothing
        assert browser.uid(nodes[0])
    sid, started = browser.sid, time.monotonic()
    while time.monotonic() - started < DELAY + 1:
        time.sleep(DELAY / 4)
        browser.post(nodes[0], IGNORED)
    assert browser.uid(nodes[1]) is None
    browser.sid = sid
    assert browser.uid(nodes[0]) is None
    for node in nodes:
        assert "Exception reading session file" not in log(node)


@pytest.mark.parametrize("when", BOTH)
def test_session_db_stops_the_server(tmp_path, redis, postgres, crowded, found, when):
    """Where it is told to keep sessions; it does nothing unless told."""
    path = [environment.field_addons() / "odoo/addons"]
    uri = f"postgresql://{postgres.user}@{postgres.host}:{postgres.port}/{crowded}"
    wide = load(when, "session_db")
    outcome = start(tmp_path, {"url": redis.url}, load=wide, path=path, env={"SESSION_DB_URI": uri})
    name = "odoo.addons.session_db.pg_session_store.PGSessionStore"
    assert_stopped(outcome, f"sessions are kept by {name}, not in Redis")
    code, output = start(tmp_path, {"url": redis.url}, load=wide, path=path)
    assert code == 0
    assert "Sessions are stored in Redis" in output
    only_cache = {"url": redis.url, "session": "false"}
    code, output = start(tmp_path, only_cache, load=wide, path=path, env={"SESSION_DB_URI": uri})
    assert code == 0
    assert "The ormcache is shared in Redis" in output


# -- small ones, while requests are served ---------------------------------------------------------

JOBS = """
from odoo import models
class Jobs(models.Model):
    _inherit = "ir.cron"
    def _callback(self, cron_name, server_action_id):
        {}
"""
LATE = {
    "store": STORE + "odoo.http.root.session_store = store",
    "Registry.check_signaling was replaced by odoo.addons.late.<lambda>": (
        REGISTRY + "Registry.check_signaling = lambda self, cr=None: self"
    ),
    "IrCron._callback was replaced by odoo.addons.late.": JOBS.format("pass"),
}
MIXED = sorted(set(COEXISTING) - {"application wrapped", "method replaced", "root wrapped"})


@pytest.fixture
def with_late(tmp_path, make_node, make_database, postgres, redis):
    """A node whose database has an addon with the given code, which is imported with it."""

    def make(code):
        path, database = make_addon(tmp_path, "late", code), make_database()
        late = "INSERT INTO ir_module_module (name, state) VALUES ('late', 'installed')"
        postgres.sql(database, late)
        config = {"addons_path": f"{environment.addons_path()},{path}"}
        return make_node(redis, database=database, config=config), Browser(database)

    return make


def test_a_store_that_comes_with_a_database_is_refused(with_late):
    """It is imported when others may be served: what needs a session gets 503, and one line."""
    node, browser = with_late(LATE["store"])
    until(lambda: browser.get(node, "/web/login").status_code == 503)
    for _time in range(3):
        answer = browser.get(node, "/web/login")
        assert (answer.status_code, "Set-Cookie" in answer.headers) == (503, False)
        assert browser.post(node, "/web/session/authenticate").status_code == 503
    assert browser.get(node, "/web/health").status_code == 200
    assert browser.get(node, "/web/static/img/favicon.ico").status_code == 200
    told = [line for line in log(node).splitlines() if "CRITICAL" in line]
    assert len(told) == 1, told
    assert "sessions are kept by odoo.addons.late.Store, not in Redis: requests that" in told[0]
    assert "Traceback" not in log(node)


@pytest.mark.parametrize("reason", [name for name in LATE if name != "store"])
def test_a_cache_that_comes_with_a_database_is_not_shared(with_late, redis, reason):
    """What would make it incoherent is told, and it is Odoo's own then."""
    node, browser = with_late(LATE[reason])
    assert browser.login(node)
    told = [line for line in log(node).splitlines() if "CRITICAL" in line]
    assert len(told) == 1, told
    assert reason in told[0]
    assert "the ormcache is not shared; do without" in told[0]
    assert redis.cli("KEYS", f"odoo:ormcache:{browser.database}:*:*").split() == []


def test_a_database_may_add_to_what_its_jobs_do(with_late, redis):
    """An addon that calls what it overrides."""
    node, browser = with_late(JOBS.format("super()._callback(cron_name, server_action_id)"))
    assert browser.login(node)
    assert "CRITICAL" not in log(node)
    assert redis.cli("KEYS", f"odoo:ormcache:{browser.database}:*:*").split()


def test_all_that_coexists_serves(tmp_path, make_node, redis, database):
    """All of it at once, before ours and after."""
    names = {BEFORE: [], AFTER: []}
    for number, name in enumerate(MIXED):
        code, whens = COEXISTING[name]
        for when in whens:
            addon = f"{when}_{number}"
            path = make_addon(tmp_path, addon, code)
            names[when].append(addon)
    config = {"addons_path": f"{environment.addons_path()},{path}"}
    wide = ["base", "rpc", "web", *names[BEFORE], ADDON, *names[AFTER]]
    node = make_node(redis, load=",".join(wide), config=config, database=database)
    plain, browser = make_node(redis, database=database), Browser(database)
    assert browser.login(node)
    assert [browser.uid(n) for n in (plain, node, plain, node)] == [2] * 4
    browser.call(plain, "/web/session/destroy")
    assert browser.uid(node) is None
    assert "CRITICAL" not in log(node)
    assert "Traceback" not in log(node)
    assert redis.cli("KEYS", "odoo:ormcache:*:*:*").split()


# -- servers that are not Odoo's -----------------------------------------------------------------

# As setup/odoo-wsgi.example.py of Odoo, whose application gunicorn or uwsgi would serve.
WSGI = """
import sys
from odoo.http import root as application
from odoo.tools import config
config.parse_config(["-c", sys.argv[1]], setup_logging=True)
application.initialize()
from werkzeug.test import Client
for path in sys.argv[2:]:
    answer = Client(application).get(path, headers={"Host": "localhost"})
    print("answer", path, answer.status_code, "Retry-After" in answer.headers)
"""
PATHS = ("/web/login", "/web/login", "/web/health", "/web/static/img/favicon.ico")


@pytest.mark.parametrize("case", ["", "store of the root", "method"])
def test_another_wsgi_server(tmp_path, redis, postgres, database, case):
    """Nothing tells when its addons are loaded: what is in force is looked at by requests."""
    path = make_addon(tmp_path, "other", REPLACING[case][0] if case else "")
    options = {"addons_path": f"{environment.addons_path()},{path}", "db_name": database}
    conf = tmp_path / "odoo.conf"
    write_conf(
        conf, postgres, tmp_path, load=load(AFTER), options=options, redis={"url": redis.url}
    )
    done = subprocess.run(
        [sys.executable, "-c", WSGI, conf, *PATHS],
        env=odoo_environment({}),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    answers = re.findall(r"answer \S+ (\d+) (\w+)", done.stdout)
    unserved = [("503", "True")] * 2 if case else [("200", "False")] * 2
    assert answers == [*unserved, ("200", "False"), ("200", "False")], done.stderr
    told = [line for line in done.stderr.splitlines() if "CRITICAL" in line]
    assert len(told) == bool(case), told
    assert all("odoo.addons.other." in line for line in told)
