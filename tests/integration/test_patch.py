"""The patches in one process: what is replaced, once; and hostile requests against all of it."""

import functools
import re
from unittest.mock import patch

import odoo.http
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from odoo.http import Application, Request, root
from odoo.modules.registry import Registry
from odoo.tools import config, reset_cached_properties
from werkzeug.test import EnvironBuilder, run_wsgi_app

from odoo.addons.redis_session_ormcache import post_load
from odoo.addons.redis_session_ormcache.http_patch import application, websocket
from odoo.addons.redis_session_ormcache.sessions import RedisSessionStore, SessionStoreUnavailable
from odoo.addons.redis_session_ormcache.sessions.scripts import FIND
from odoo.addons.redis_session_ormcache.tests.support.cookies import SID, texts
from odoo.addons.redis_session_ormcache.tests.support.dose import dose

PATCHED = (
    *((Request, name) for name in ("_save_session", "_get_session_and_dbname")),
    (Application, "__call__"),
)


@pytest.fixture(scope="module", autouse=True)
def _installed():
    """As Odoo does it; the settings are those of the configuration file pytest was given."""
    monkeypatch = pytest.MonkeyPatch()
    monkeypatch.setenv("ODOO_REDIS_ORMCACHE", "false")
    saved = Application.session_store
    methods = [(cls, name, vars(cls)[name]) for cls, name in PATCHED]
    new = vars(Registry)["new"]
    post_load()
    # These tests see each command that a request leads to; the thread of the books sends others.
    monkeypatch.setattr(application, "serving", lambda: None)
    yield
    Registry.new = new
    Application.session_store = saved
    for cls, name, method in methods:
        setattr(cls, name, method)
    vars(root).pop("session_store", None)
    from odoo.addons.redis_session_ormcache.http_patch import install

    install._installed = None
    monkeypatch.undo()


def test_one_stable_store():
    """Whoever drops Odoo's cached properties, as core and its tests do, finds the same store."""
    store = root.session_store
    assert isinstance(store, RedisSessionStore)
    reset_cached_properties(root)
    assert root.session_store is store
    assert Application().session_store is store
    assert isinstance(vars(Application)["session_store"], functools.cached_property)


def test_patching_twice_is_patching_once():
    """``post_load`` may be called again."""
    before = vars(Application)["session_store"], Request._save_session
    post_load()
    assert (vars(Application)["session_store"], Request._save_session) == before


def test_a_store_in_memory_may_take_its_place():
    """Odoo's tests swap the store; the patched requests leave another one alone."""
    from odoo.addons.test_http.utils import MemorySessionStore

    with patch.object(
        Application, "session_store", MemorySessionStore(session_class=odoo.http.Session)
    ):
        vars(root).pop("session_store", None)
        status, _headers = request("/web/health", "")
        assert status == 200


@pytest.fixture
def bus(monkeypatch):
    """The module of bus, as it is once a database with it was loaded."""
    from odoo.addons.bus import websocket as bus

    monkeypatch.setattr(bus, "acquire_cursor", bus.acquire_cursor)
    monkeypatch.setattr(bus.Websocket, "_terminate", bus.Websocket._terminate)
    websocket._then_patching(lambda cls: None)(None)
    return bus


def test_a_store_that_is_away_ends_a_websockets_transaction(bus):
    """Once, and without what was done in it; the socket is closed for what happened."""
    database, cursors = config["db_name"][0], []

    def block():
        with bus.acquire_cursor(database) as cursor:
            cursors.append(cursor)
            cursor.execute("CREATE TABLE never_there ()")
            raise SessionStoreUnavailable

    with pytest.raises(SessionStoreUnavailable):
        block()
    assert len(cursors) == 1
    with bus.acquire_cursor(database) as cursor:
        cursor.execute("SELECT to_regclass('never_there')")
        assert cursor.fetchone() == (None,)


def test_a_websockets_cursor_is_patched_once(bus):
    """Another addon may wrap it, and more databases be loaded."""
    ours = bus.acquire_cursor
    bus.acquire_cursor = wrapper = functools.partial(ours)
    websocket._then_patching(lambda cls: None)(None)
    assert bus.acquire_cursor is wrapper


def test_a_store_that_is_away_concerns_no_websocket_that_is_closed(bus):
    """What its models do when it was closed may ask the store."""
    bus.Websocket._terminate = lambda self: (_ for _ in ()).throw(SessionStoreUnavailable())
    websocket._acquire_cursor = object()
    websocket._then_patching(lambda cls: None)(None)
    bus.Websocket._terminate(None)


def request(path, cookie):
    builder = EnvironBuilder(path, headers={"Host": "localhost"})
    environ = builder.get_environ()
    environ["HTTP_COOKIE"] = cookie
    _body, status, headers = run_wsgi_app(root, environ, buffered=True)
    return int(status.split()[0]), headers


VALUES = st.one_of(
    st.binary(max_size=200).map(lambda raw: raw.decode("latin-1")),
    texts("*?[]^-../\0\n\r %{}\"'\\;,=", 70, 100),
    texts(SID, 84, 84),
    texts(SID, 0, 120),
    texts(SID, 80, 86).map(lambda sid: sid + "\n"),
    st.sampled_from(
        ["../" * 28, "..%2f" * 17, "A" * 83 + "*", "A" * 84 + "\n", '"' + "A" * 84 + '"']
    ),
)


@settings(max_examples=dose(1_000, 10_000), deadline=None)
@given(VALUES)
@example("A" * 84)
@example("")
def test_hostile_cookies(value):
    """Whatever is in it: never a 500, and Redis is asked for nothing but well-formed keys."""
    server = root.session_store.server
    asked = []

    def execute(*command):
        asked.append(command)
        return original(*command)

    original = server.execute
    with patch.object(server, "execute", execute):
        status, _headers = request("/web/health", f"session_id={value}")
    assert status < 500
    for *words, key, field in asked:
        assert words in (["HGET"], ["EVALSHA", FIND.sha, 1], ["EVAL", FIND.text, 1])
        assert re.fullmatch(r"odoo:session:[A-Za-z0-9_-]{42}", key)
        assert re.fullmatch(r"[0-9a-f]{32}", field)


def test_a_valid_cookie_reaches_redis():
    """The test above would notice."""
    with patch.object(root.session_store.server, "execute", return_value=None) as execute:
        request("/web/health", "session_id=" + "A" * 84)
    assert execute.call_count == 2
