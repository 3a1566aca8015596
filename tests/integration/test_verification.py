"""A method that depends on more than its arguments is found, and shared no more."""

import pytest

from odoo.addons.redis_session_ormcache.tests.support.cached import FIGURES
from stack.servers import until

ALL = {"ormcache_verify": "1"}  # every value of Redis is computed again
DEFINE = """
    import time
    from odoo.tools import ormcache
    from odoo.addons.redis_session_ormcache.http_patch import verification
    verification.SETTLED = 0.5

    def _greet(self, word):
        time.sleep(0.01)
        return f"{word} {self.env.context.get('tone')}"

    def _category(self, name):
        time.sleep(0.01)
        category = self.env["res.partner.category"]
        return (category.search([("name", "=", name)]) or category.create({"name": name})).name

    def _company(self, name):
        time.sleep(0.01)
        return self.env["res.company"].browse(1).phone

    for method in (_greet, _category, _company):
        name = method.__name__
        method.__module__, method.__qualname__ = "odoo.addons.shouting.models", f"Lang.{name}"
        setattr(env.registry["res.lang"], name, ormcache(method.__code__.co_varnames[1])(method))
    result = None
"""
METHOD = "odoo.addons.shouting.models.Lang._greet"


def greet(worker, tone, word="hello"):
    """A greeting, in a tone that the key does not have."""
    return worker.run(f"result = env['res.lang']._greet({word!r})", context={"tone": tone})


def figure(worker, method, name):
    """A figure that a worker has counted of a method."""
    return worker.run(FIGURES)[method][name]


@pytest.fixture
def start(redis, make_worker, lone_database):
    """Start a worker with these methods."""

    def make(config=None, **settings):
        worker = make_worker(redis, lone_database, settings={**ALL, **settings}, config=config)
        worker.run(DEFINE)
        return worker

    return make


def distrusted(raw, database):
    """The names of methods that nobody shares."""
    found = raw.hgetall(f"odoo:ormcache:{database}:distrusted")
    return {name.decode() for name in found} - {"#"}


def test_a_method_that_depends_on_more_than_its_key_is_found(start, raw, lone_database):
    """Its values leave all processes, those that start later too, until somebody trusts it."""
    first, second = start(), start()
    assert greet(first, "loud") == "hello loud"
    assert greet(second, "soft") == "hello loud"  # as in one process of stock Odoo
    until(lambda: distrusted(raw, lone_database) == {METHOD}, "that it is distrusted")
    until(lambda: greet(second, "soft") == "hello soft", "that its value is gone")
    assert greet(first, "soft") == "hello soft"
    third = start()
    assert greet(third, "third") == "hello third"
    assert [figure(second, "_greet", name) for name in ("verified", "wrong")] == [1, 1]
    assert "_greet" not in third.run(FIGURES)
    told = second.log.read_text()
    assert told.count(f"a value of {METHOD} that another process had computed is wrong here") == 1
    assert "hello" not in told
    third.run(f"""
        from odoo.addons.redis_session_ormcache.http_patch.registry import shared_of
        shared_of(env.registry).trust({METHOD!r})
        env.registry.clear_cache()
        result = None
    """)
    assert greet(first, "again") == "hello again"
    assert greet(third, "again") == "hello again"
    assert figure(third, "_greet", "found") == 1


def test_a_method_that_raises_for_others_is_found(start, raw, lone_database):
    """As one whose key does not say for whom it is refused."""
    first, second = start(), start()
    refuse = """
        def refuse(self, word):
            raise ValueError(word)
        method = type(env["res.lang"])._greet.__cache__.method
        method.__code__, result = refuse.__code__, None
    """
    assert greet(first, "loud") == "hello loud"
    second.run(refuse)
    assert greet(second, "loud") == "hello loud"
    until(lambda: distrusted(raw, lone_database) == {METHOD}, "that it is distrusted")


def test_a_change_explains_a_difference(start, raw, lone_database, postgres):
    """Also one that nobody signals: then the caches go that are older, as when it is looked for."""
    first, second = start(), start()
    look = "result = env['res.lang']._company('a')"
    before = first.run(look)
    second.run("result = env.user.name")  # has seen the tables
    postgres.sql(lone_database, "UPDATE res_company SET phone = '+1' WHERE id = 1")
    assert second.run(look) == before
    until(lambda: second.run(look) == "+1", "that the change is seen")
    assert distrusted(raw, lone_database) == set()
    assert figure(second, "_company", "wrong") == 0


def test_nothing_is_written_for_it(start, raw, lone_database, postgres):
    """A method that makes what it does not find is not asked in vain, nor blamed."""
    first, second = start(), start()
    look = "result = env['res.lang']._category('made')"
    assert first.run(look) == "made"
    count = "SELECT count(*) FROM res_partner_category"
    assert postgres.sql(lone_database, count) == "1"
    postgres.sql(lone_database, "DELETE FROM res_partner_category")
    assert second.run(look) == "made"
    assert postgres.sql(lone_database, count) == "0"
    assert [figure(second, "_category", name) for name in ("found", "verified")] == [1, 0]
    assert distrusted(raw, lone_database) == set()


def test_a_process_without_a_free_connection_goes_on(start):
    """The value is not verified."""
    first, second = start(), start(config={"db_maxconn": 1})
    assert greet(first, "loud") == greet(second, "soft") == "hello loud"
    assert [figure(second, "_greet", name) for name in ("found", "verified")] == [1, 0]
    assert "Traceback" not in second.log.read_text()


def test_nothing_is_computed_again_where_that_is_off(start, lone_database):
    """The setting is 0."""
    first, second = start(ormcache_verify="0"), start(ormcache_verify="0")
    assert greet(first, "loud") == greet(second, "soft") == "hello loud"
    assert [figure(second, "_greet", name) for name in ("found", "verified")] == [1, 0]
