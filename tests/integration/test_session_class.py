"""Another addon's subclass of ``odoo.http.Session``: sessions do what it does, as in stock Odoo."""

import functools
import json

import odoo.http
import pytest
from odoo.http import SESSION_ROTATION_INTERVAL

from odoo.addons.redis_session_ormcache.tests.integration.test_other_addons import (
    AFTER,
    BEFORE,
    load,
)
from odoo.addons.redis_session_ormcache.tests.integration.test_start import (
    make_addon,
)
from odoo.addons.redis_session_ormcache.tests.support.browser import Browser
from stack.provision import environment

# It keeps marked texts in another form than it gives them, has slots and attributes, reads what was
# stored when a session is made, and adds to what Odoo's methods do. `record` and `activity` are
# names that an addon may well use.
ADDON = """
import json
from odoo import http
from odoo.http import request

class Counting:
    calls = ()
    def called(self, name):
        self.calls = (*self.calls, name)

class Marked(http.Session):
    __slots__ = ("begun", "found")
    def __init__(self, data, sid, new=False):
        self.begun = "begun"
        super().__init__(data, sid, new)
        self.found = data.get("cart", [])
    def __setitem__(self, name, value):
        hidden = isinstance(value, str) and value.startswith("secret ")
        super().__setitem__(name, {"hidden": value[::-1]} if hidden else value)
    def __getitem__(self, name):
        value = super().__getitem__(name)
        return value["hidden"][::-1] if isinstance(value, dict) and "hidden" in value else value

class MySession(Counting, Marked):
    kind = "mine"
    record = property(lambda self: [*self.calls])
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.attribute = len(self)
    def activity(self):
        return "a method"
    def authenticate(self, env, credential):
        self.called("authenticate")
        return super().authenticate(env, credential)
    def finalize(self, env):
        super().finalize(env)
        self["logins"] = self.get("logins", 0) + 1
        self.called("finalize")
    def logout(self, keep_db=False):
        begun = self.begun, self.attribute > 0
        super().logout(keep_db)
        self["left"] = begun
    def touch(self):
        self["touched"] = True
        super().touch()

http.Session = MySession

class Seen(http.Controller):
    @http.route("/other/seen", type="http", auth="none")
    def seen(self, **values):
        session = request.session
        before = session.found
        for name, value in values.items():
            session[name] = json.loads(value)
        if "touched" in values:
            session.touch()
        if "create_time" in session and "age" in values:
            session["create_time"] -= session.pop("age")
        names = "cart", "text", "logins", "left", "touched", "login"
        return json.dumps([
            session.kind, session.begun, before, session.record, session.activity(), session.uid,
            isinstance(session, MySession), session.attribute > 0,
            {name: session.get(name) for name in names},
        ])
"""
OTHER = "other"


@pytest.fixture(scope="module")
def redis(module_redis):
    return module_redis


@pytest.fixture(scope="module")
def nodes(make_node, redis, tmp_path_factory):
    """A stock node, one that loads the class before this addon, and one that loads it after."""
    folder = make_addon(tmp_path_factory.mktemp("other"), OTHER, ADDON)
    found = {"config": {"addons_path": f"{environment.addons_path()},{folder}"}}
    loads = f"base,web,{OTHER}", load(BEFORE), load(AFTER)
    return [make_node(redis, load=wanted, **found) for wanted in loads]


def visit(database, first, second):
    """What somebody sees who fills a cart, logs in, is given another sid, and logs out."""
    browser, steps = Browser(database), []

    def see(node, **values):
        texts = {name: json.dumps(value) for name, value in values.items()}
        response = browser.get(node, "/other/seen", params=texts)
        steps.append(response.json() if response.status_code == 200 else response.status_code)

    see(first)
    see(first, cart=[1])
    see(second, cart=[1, 2], text="secret words")
    assert browser.login(second)
    sid = browser.sid
    see(first)
    see(second, touched=False)
    see(first, age=SESSION_ROTATION_INTERVAL)
    browser.get(second, "/odoo")
    assert browser.sid not in (sid, None)
    steps.append(browser.sid[:42] == sid[:42])
    see(first)
    steps.append(browser.get(second, "/web/session/logout").status_code)
    see(first)
    see(second, cart=[3])
    return steps


def test_sessions_do_what_another_addons_class_does(nodes, database):
    """From the first visit to the logout, on two nodes, it is as on a stock node."""
    stock, before, after = nodes
    expected = visit(database, stock, stock)
    assert expected[-3] == 303
    assert visit(database, before, after) == expected
    assert visit(database, after, before) == expected


# -- the store -------------------------------------------------------------------------------------


def wrapped(name, change):
    """A method of Odoo's own class, wrapped as another addon would."""

    def apply(monkeypatch):
        original = getattr(odoo.http.Session, name)

        @functools.wraps(original)
        def method(self, *arguments, **options):
            return change(self, original(self, *arguments, **options))

        monkeypatch.setattr(odoo.http.Session, name, method)

    return apply


def subclassed(**methods):
    """A subclass in the place of Odoo's own."""

    def apply(monkeypatch):
        mine = type("Mine", (odoo.http.Session,), methods)
        monkeypatch.setattr(odoo.http, "Session", mine)

    return apply


CLASSES = {
    "odoo's": lambda monkeypatch: None,
    "__init__ wrapped": wrapped(
        "__init__", lambda self, _: self.update(made=self.get("made", 0) + 1)
    ),
    "__getitem__ wrapped": wrapped(
        "__getitem__", lambda _, value: f"{value}!" if isinstance(value, str) else value
    ),
    "subclassed": subclassed(),
    "with slots": subclassed(__slots__=("redis", "record")),
    "made elsewhere": subclassed(
        __new__=lambda cls, data, sid, new=False: object.__new__(cls),
    ),
}


@pytest.mark.parametrize("change", CLASSES)
def test_what_is_stored_is_what_odoos_store_stores(
    change, monkeypatch, tmp_path, redis, make_store
):
    """Whichever methods another addon changes, a session reads as it does from Odoo's files."""
    CLASSES[change](monkeypatch)
    files = odoo.http.FilesystemSessionStore(
        str(tmp_path), session_class=odoo.http.Session, renew_missing=True
    )
    seen = []
    for store in files, make_store(redis):
        session = store.new()
        session.update(odoo.http.get_default_session(), z=1, a="text", create_time=3)
        for soft in None, False, True, None:
            if soft is not None:
                store.rotate(session, None, soft)
            session["create_time"] = 3
            store.save(session)
            session = store.get(session.sid)
            assert isinstance(session, odoo.http.Session)
            seen.append((store, list(session.items()), session.is_dirty, session.is_new))
    ours, theirs = ([tuple(rest) for of, *rest in seen if of is s] for s in (store, files))
    assert ours == theirs
