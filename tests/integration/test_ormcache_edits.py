"""Values that their callers edit: what comes of that stays in its process, as without the addon."""

import itertools

import pytest

from odoo.addons.redis_session_ormcache.tests.support.cached import FIGURES

STOCK = "base,rpc,web"


# How many root menus have an action.
MENUS = """
    def count(force):
        menus = env(context={"force_action": True} if force else {})["ir.ui.menu"]
        return sum(bool(menu["action"]) for menu in menus.load_menus_root()["children"])
    result = [count(force) for force in kept["order"]]
"""
ORDERS = [[False, True], [True, False]]


def test_menus_are_as_without_the_addon(redis, make_worker, website_database):
    """website sets actions in the menus that base has cached, whoever asks for them first."""
    stock = []
    for order in ORDERS:
        worker = make_worker(redis, website_database, load=STOCK)
        worker.run(f"kept['order'] = {order}")
        stock.append(worker.run(MENUS, uid=2))
        worker.stop()
    assert stock[0][0] < stock[0][1] == stock[1][0] == stock[1][1]
    for first, second in itertools.product((0, 1), repeat=2):
        for number in (first, second):
            worker = make_worker(redis, website_database)
            if number is first:
                worker.run("env.registry.clear_all_caches()")
            worker.run(f"kept['order'] = {ORDERS[number]}")
            assert worker.run(MENUS, uid=2) == stock[number]
            worker.stop()


# Cached methods that a third addon might have; the first one's values are edited by their callers.
METHODS = """
    from odoo.tools import ormcache
    from odoo.tools.misc import frozendict
    def method(name, function, *arguments):
        function.__name__ = function.__qualname__ = name
        function.__module__ = "an.addon"
        setattr(type(env["res.lang"]), name, ormcache(*arguments)(function))
    def _words(self, kind):
        self.env.cr.execute("SELECT code FROM res_lang WHERE active")
        codes = [code for code, in self.env.cr.fetchall()]
        return {
            "list": codes, "dict": {"codes": tuple(codes)}, "set": set(codes),
            "nested": (frozendict({"codes": codes}), 1),
        }[kind]
    method("_words", _words, "kind")
    method("_said", lambda self, kind: repr(self._words(kind)), "kind")
    method("_shouted", lambda self, kind: self._said(kind).upper(), "kind")
    method("_check_uid_passwd", lambda self, kind: len(repr(self._words(kind))), "kind")  # local
    method("_counted", lambda self, kind: self._check_uid_passwd(kind), "kind")
"""
EDIT = {
    "list": "words.append('edited')",
    "dict": "words['more'] = 'edited'",
    "set": "words.add('edited')",
    "nested": "words[0]['codes'].append('edited')",
}


@pytest.mark.parametrize("kind", EDIT)
def test_what_comes_of_an_edited_value_stays_in_its_process(
    redis, make_worker, lone_database, kind
):
    """Directly, by way of another value, and by way of one that is never shared."""
    first, second = make_worker(redis, lone_database), make_worker(redis, lone_database)
    for worker in (first, second):
        worker.run(METHODS)
    lang = "env['res.lang']"
    right = second.run(f"result = repr({lang}._words({kind!r}))")
    first.run(f"words = {lang}._words({kind!r}); {EDIT[kind]}")
    asked = {"_said": right, "_shouted": right.upper(), "_counted": len(right)}
    for name, value in asked.items():
        assert first.run(f"result = {lang}.{name}({kind!r})") != value
    for name, value in asked.items():
        assert second.run(f"result = {lang}.{name}({kind!r})") == value
    # Who has not edited it shares what comes of it.
    third = make_worker(redis, lone_database)
    third.run(METHODS)
    for name in asked:
        third.run(f"{lang}.{name}({kind!r})")
    figures = third.run(FIGURES)
    assert [figures[name]["found"] for name in asked] == [1, 1, 1], figures


def test_an_edited_value_is_shared_again_after_its_cache_was_cleared(
    redis, make_worker, lone_database
):
    """It is computed anew, and so is what comes of it."""
    first, second = make_worker(redis, lone_database), make_worker(redis, lone_database)
    for worker in (first, second):
        worker.run(METHODS)
    first.run("env['res.lang']._words('list').append('edited')")
    assert "edited" in first.run("result = env['res.lang']._said('list')")
    first.run("env.registry.clear_cache()")
    assert "edited" not in first.run("result = env['res.lang']._said('list')")
    second.run("env['res.lang']._said('list')")
    assert second.run(FIGURES)["_said"]["found"] == 1
