"""Other addons that change what this one changes: they coexist, or are named before harm is done.

They are small ones, which do as addons in the field do; ``test_field_addons.py`` has real ones.
"""

import subprocess

import pytest

from odoo.addons.redis_session_ormcache.tests.integration.test_start import (
    ADDON,
    assert_stopped,
    make_addon,
    start,
)
from stack.provision import environment
from stack.servers import write_conf
from stack.servers.odoo import odoo_environment

# -- at start --------------------------------------------------------------------------------------

# A middleware as error monitors have it; it has the attributes of what it wraps, or not.
MIDDLEWARE = """
class Middleware:
    __slots__ = ("app",)
    def __init__(self, app):
        self.app = app
    def __call__(self, environ, start_response):
        return self.app(environ, start_response)
class Forwarding(Middleware):
    def __getattr__(self, name):
        return getattr(self.app, name)
"""
# A store and a function of another addon's own.
STORE = """
class Store(odoo.http.sessions.SessionStore):
    pass
store = Store(odoo.http.Session)
"""
KEPT = "original = odoo.http.Request._save_session\n"
SAVE = "odoo.http.Request._save_session = "
CALL = "odoo.http.Application.__call__ = "
LOOKUP = "from odoo.tools.cache import ormcache\noriginal = ormcache.lookup\n"
COUNTING = """
import functools
@functools.wraps(original)
def counting(self, *args, **kwargs):
    return original(self, *args, **kwargs)
"""
REGISTRY = "from odoo.modules.registry import Registry\n"
PASSING_ON = """
import functools
original = odoo.http.root.__class__.session_store
@functools.cached_property
def session_store(self):
    return original.__get__(self, self.__class__)
odoo.http.root.__class__.session_store = session_store
session_store.__set_name__(odoo.http.root.__class__, "session_store")
vars(odoo.http.root).pop("session_store", None)
"""
BOTH = BEFORE, AFTER = "before", "after"
COEXISTING = {
    "application wrapped": (
        MIDDLEWARE + "odoo.http.Application = Middleware(odoo.http.Application)",
        BOTH,
    ),
    "application subclassed": (
        "odoo.http.Application = type('Mine', (odoo.http.Application,), {})\n"
        "odoo.http.root = odoo.http.Application()",
        BOTH,
    ),
    "root wrapped": (
        MIDDLEWARE + "odoo.http.root = Forwarding(odoo.http.root)",
        BOTH,
    ),
    "store passed on": (PASSING_ON, BOTH),
    "store wrapped": (
        "class Audited:\n"
        "    def __init__(self, store): self.store = store\n"
        "    def __getattr__(self, name): return getattr(self.store, name)\n"
        "vars(odoo.http.root)['session_store'] = Audited(odoo.http.root.session_store)",
        (AFTER,),
    ),
    "request subclassed": (
        "class Mine(odoo.http.Request):\n"
        "    def _save_session(self, env=None): return super()._save_session(env)\n"
        "odoo.http.Request = Mine",
        BOTH,
    ),
    "sessions subclassed": (
        "class Mine(odoo.http.Session):\n    pass\nodoo.http.Session = Mine",
        BOTH,
    ),
    "method wrapped, by a name": (
        KEPT + SAVE + "lambda *args, **kwargs: original(*args, **kwargs)",
        BOTH,
    ),
    "method wrapped, in a closure": (
        KEPT + SAVE + "(lambda call: lambda self, env=None: call(self, env))(original)",
        BOTH,
    ),
    "method wrapped, by a table": (
        KEPT
        + "all = {'save': original}\n"
        + SAVE
        + "lambda self, env=None: all['save'](self, env)",
        BOTH,
    ),
    "method wrapped, by a class": (
        KEPT + "class Kept:\n    save = original\n"
        "def save(self, env=None): return Kept.save(self, env)\n" + SAVE + "save",
        BOTH,
    ),
    "method wrapped, by an argument": (
        KEPT + SAVE + "lambda self, env=None, call=original: call(self, env)",
        BOTH,
    ),
    "method replaced": (SAVE + "lambda self, env=None: None", (BEFORE,)),
    "application called": (
        "original = odoo.http.Application.__call__\n" + CALL + "lambda *args: original(*args)",
        BOTH,
    ),
    "lookup wrapped": (LOOKUP + COUNTING + "ormcache.lookup = counting", (AFTER,)),
    "registries wrapped": (
        REGISTRY + "make = Registry.new\n"
        "def new(*args, **kwargs): return make(*args, **kwargs)\nRegistry.new = new",
        BOTH,
    ),
    "cursor subclassed": (
        "import odoo.sql_db\nodoo.sql_db.Cursor = type('Mine', (odoo.sql_db.Cursor,), {})",
        BOTH,
    ),
    "statements wrapped": (
        "from odoo.sql_db import Cursor\nexecute = Cursor.execute\n"
        "def timed(*args, **kwargs): return execute(*args, **kwargs)\nCursor.execute = timed",
        BOTH,
    ),
    "ours imported": (f"from odoo.addons.{ADDON} import ormcache", (AFTER,)),
    "lifetimes": (
        "odoo.http.SESSION_LIFETIME = 3600\n"
        "odoo.http.get_session_max_inactivity = lambda env: 3600",
        BOTH,
    ),
}
REPLACING = {
    "ours imported": (
        f"from odoo.addons.{ADDON} import ormcache",
        {BEFORE: f"other imports it first: in server_wide_modules, {ADDON} comes before other"},
    ),
    "store": (
        STORE + "odoo.http.Application.session_store = property(lambda self: store)",
        dict.fromkeys(BOTH, "sessions are kept by odoo.addons.other.Store, not in Redis; do"),
    ),
    "store of the class": (
        STORE + "odoo.http.Application.session_store = store",
        dict.fromkeys(BOTH, "sessions are kept by odoo.addons.other.Store, not in Redis; do"),
    ),
    "store of the root": (
        STORE + "odoo.http.root.session_store = store",
        dict.fromkeys(BOTH, "sessions are kept by odoo.addons.other.Store, not in Redis; do"),
    ),
    "store that fails": (
        "def broken(self): raise OSError('no such place')\n"
        "odoo.http.Application.session_store = property(broken)",
        dict.fromkeys(BOTH, "other.broken gives no sessions: OSError('no such place'); do"),
    ),
    "class of the store": (
        "class Mine(odoo.http.FilesystemSessionStore):\n    pass\n"
        "odoo.http.FilesystemSessionStore = Mine",
        {BEFORE: "sessions are kept by odoo.addons.other.Mine, not in Redis"},
    ),
    "more methods of the store": (
        "odoo.http.FilesystemSessionStore.purge = lambda self: None",
        {BEFORE: "odoo.addons.other.<lambda> adds FilesystemSessionStore.purge"},
    ),
    "class of sessions": (
        "class Mine(dict):\n    pass\nodoo.http.Session = Mine",
        dict.fromkeys(
            BOTH,
            "odoo.http.Session was replaced by odoo.addons.other.Mine, which does not inherit "
            "from it; do without that addon, or set session = false",
        ),
    ),
    "class of sessions, a last one": (
        "class Mine(odoo.http.Session):\n"
        "    def __init_subclass__(cls): raise TypeError('it is the last one')\n"
        "odoo.http.Session = Mine",
        dict.fromkeys(
            BOTH,
            "odoo.http.Session was replaced by odoo.addons.other.Mine, which cannot be inherited "
            "from: it is the last one; do without",
        ),
    ),
    "middleware": (
        MIDDLEWARE + "odoo.http.root = Middleware(odoo.http.root)",
        {
            BEFORE: "odoo.http.root was replaced by odoo.addons.other.Middleware",
            AFTER: "odoo.addons.other.Middleware gives no sessions: AttributeError",
        },
    ),
    "class of the cache": (
        "import odoo.tools.cache as cache\n"
        "cache.ormcache = type('Mine', (cache.ormcache,), {'__module__': __name__})",
        {BEFORE: "odoo.tools.cache.ormcache was replaced by odoo.addons.other.Mine; with"},
    ),
    "class of registries": (
        "import odoo.modules.registry as registry\n"
        "registry.Registry = type('Mine', (registry.Registry,), {'__module__': __name__})",
        {BEFORE: "odoo.modules.registry.Registry was replaced by odoo.addons.other.Mine; do"},
    ),
    "statements": (
        "from odoo.sql_db import Cursor\n"
        "Cursor.execute = lambda self, query, params=None, log_exceptions=True: None",
        {BEFORE: "Cursor.execute was replaced by odoo.addons.other.<lambda>"},
    ),
    "parameters": (
        "from odoo.addons.base.models.ir_config_parameter import IrConfig_Parameter\n"
        "IrConfig_Parameter._get_param = lambda self, key: None",
        {BEFORE: "_get_param was replaced by odoo.addons.other.<lambda>"},
    ),
    "method": (
        SAVE + "lambda self: None",
        {
            BEFORE: "Request._save_session was replaced by odoo.addons.other.<lambda>, which "
            "cannot be called with (self, env)",
            AFTER: "odoo.http.Request._save_session was replaced by odoo.addons.other.<lambda>, "
            "which does not call what it replaced; do without that addon, or set session = false",
        },
    ),
    "method of a subclass": (
        "class Mine(odoo.http.Request):\n"
        "    def _save_session(self, env=None): pass\n"
        "odoo.http.Request = Mine",
        {AFTER: "_save_session was replaced by odoo.addons.other.Mine"},
    ),
    "call of the application": (
        CALL + "lambda self, environ, start: None",
        {
            AFTER: "odoo.http.Application.__call__ was replaced by odoo.addons.other.<lambda>, "
            "which does not call what it replaced; do without that addon, or set session = false",
        },
    ),
    "call of an application's subclass": (
        "class Mine(odoo.http.Application):\n"
        "    def __call__(self, environ, start): return []\n"
        "odoo.http.root = Mine()",
        {AFTER: "Application.__call__ was replaced by odoo.addons.other.Mine.__call__"},
    ),
    "lookup wrapped": (
        LOOKUP + COUNTING + "ormcache.lookup = counting",
        {
            BEFORE: "ormcache.lookup was replaced by odoo.addons.other.counting, which would "
            f"be passed over: in server_wide_modules, {ADDON} comes before other; with "
            "ormcache = false it is not touched"
        },
    ),
    **{
        name.rpartition(".")[2]: (
            f"import {module}\n{module}.{name} = lambda *args, **kwargs: None",
            {
                AFTER: f"{module}.{name} was replaced by odoo.addons.other.<lambda>, which does "
                "not call what it replaced; do without that addon, or set ormcache = false"
            },
        )
        for module, name in (
            ("odoo.tools.cache", "ormcache.lookup"),
            ("odoo.modules.registry", "Registry.get_sequences"),
            ("odoo.modules.registry", "Registry.check_signaling"),
            ("odoo.sql_db", "Cursor.execute"),
            ("odoo.addons.base.models.ir_cron", "IrCron._callback"),
        )
    },
}


def load(when, other="other"):
    """The server-wide modules, with another addon before or after ours."""
    return f"base,web,{other},{ADDON}" if when == BEFORE else f"base,web,{ADDON},{other}"


@pytest.mark.parametrize(
    ("name", "when"), [(name, when) for name in COEXISTING for when in COEXISTING[name][1]]
)
def test_what_leads_to_ours_coexists(tmp_path, redis, name, when):
    """A server starts, and nothing is complained of."""
    path = make_addon(tmp_path, "other", COEXISTING[name][0])
    code, output = start(tmp_path, {"url": redis.url}, load=load(when), path=[path])
    assert code == 0, output
    assert "Sessions are stored in Redis" in output
    assert "CRITICAL" not in output
    assert "ERROR" not in output
    assert "do without" not in output


@pytest.mark.parametrize(
    ("name", "when"), [(name, when) for name in REPLACING for when in REPLACING[name][1]]
)
def test_what_replaces_ours_stops_the_server(tmp_path, redis, name, when):
    """The line names it, and not Odoo's version."""
    code, told = REPLACING[name]
    path = make_addon(tmp_path, "other", code)
    outcome = start(tmp_path, {"url": redis.url}, load=load(when), path=[path])
    assert_stopped(outcome, told[when])
    assert "written for Odoo" not in outcome[1]


def test_a_method_of_odoos_store_that_is_of_no_effect_is_told(tmp_path, redis):
    """Sessions in Redis do not call it."""
    code = """
    original = odoo.http.FilesystemSessionStore.rotate
    odoo.http.FilesystemSessionStore.rotate = lambda *args, **kwargs: original(*args, **kwargs)
    """
    path = make_addon(tmp_path, "other", "\n".join(map(str.strip, code.splitlines())))
    for when in (BEFORE, AFTER):
        code, output = start(tmp_path, {"url": redis.url}, load=load(when), path=[path])
        assert code == 0
        told = "do without odoo.addons.other.<lambda> (for FilesystemSessionStore.rotate)"
        assert told in output


@pytest.mark.parametrize("half", ["session", "ormcache"])
def test_what_is_not_installed_may_be_replaced(tmp_path, redis, half):
    """The other half does not mind."""
    code = (
        STORE + "odoo.http.root.session_store = store"
        if half == "session"
        else LOOKUP + ("ormcache.lookup = lambda *args, **kwargs: None")
    )
    path = make_addon(tmp_path, "other", code)
    for when in (BEFORE, AFTER):
        code, output = start(
            tmp_path, {"url": redis.url, half: "false"}, load=load(when), path=[path]
        )
        assert code == 0, output
        assert "in Redis at" in output


@pytest.mark.parametrize("kind", ["server", "workers", "gevent", "shell", "cron"])
def test_each_kind_of_server_stops(tmp_path, redis, kind):
    """Before it opens a port, or a database."""
    path = make_addon(tmp_path, "other", REPLACING["store"][0])
    options = {
        "addons_path": f"{environment.addons_path()},{path}",
        "workers": 2 if kind == "workers" else 0,
        "http_enable": kind != "cron",
        "max_cron_threads": 1,
    }
    conf = tmp_path / "odoo.conf"
    write_conf(conf, None, tmp_path, load=load(AFTER), options=options, redis={"url": redis.url})
    command = [kind] if kind in ("gevent", "shell") else []
    done = subprocess.run(
        [*environment.odoo_command(), *command, "-c", conf],
        env=odoo_environment({}),
        input="",
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    output = done.stdout + done.stderr
    assert_stopped((done.returncode, output), "odoo.addons.other.Store, not in Redis")
    assert "HTTP service" not in output
