"""Redis away: the ormcache is Odoo's own then. No request fails, and the log stays calm."""

import contextlib
import re
import threading
import time

import pytest

from odoo.addons.redis_session_ormcache.tests.support.browser import Browser

PAGES = ["/odoo", "/web/webclient/load_menus", "/web/login", "/web/health"]
SILENT, SPEAKS = "does not answer", "answers again"
REFUSED, SHARED = "is not shared:", "is shared again"


@contextlib.contextmanager
def stopped(redis):
    redis.stop()
    yield
    redis.start()


@contextlib.contextmanager
def killed(redis):
    redis.kill()
    yield
    redis.start()


@contextlib.contextmanager
def paused(redis):
    redis.pause()
    began = time.monotonic()
    yield
    time.sleep(max(0, 10 - (time.monotonic() - began)))
    redis.resume()


@contextlib.contextmanager
def full(redis):
    redis.cli("config", "set", "maxmemory", "1")
    yield
    redis.cli("config", "set", "maxmemory", "0")


@contextlib.contextmanager
def read_only(redis):
    redis.cli("replicaof", "127.0.0.1", "1")
    yield
    redis.cli("replicaof", "no", "one")


@contextlib.contextmanager
def evicting(redis):
    used = int(re.search(r"used_memory:(\d+)", redis.cli("info", "memory"))[1])
    redis.cli("config", "set", "maxmemory-policy", "allkeys-random")
    redis.cli("config", "set", "maxmemory", str(used + 200_000))
    ended = threading.Event()

    def fill():
        while not ended.is_set():
            redis.cli("set", f"junk:{time.monotonic()}", "x" * 20_000)

    thread = threading.Thread(target=fill)
    thread.start()
    yield
    ended.set()
    thread.join()
    redis.cli("config", "set", "maxmemory", "0")


@pytest.mark.parametrize("away", [stopped, killed, paused, full, read_only, evicting])
def test_no_request_fails(own_redis, make_node, make_database, away):
    """Cold or warm, before, during and after: right answers only, and two lines in the log."""
    database = make_database()
    node = make_node(own_redis, database=database, settings={"session": False})
    browser = Browser(database)
    browser.login(node)

    def passage(cold):
        if cold:  # as another process's change would make this one
            browser.call(
                node, "/web/dataset/call_kw", model="ir.config_parameter", method="set_param",
                args=["test.cold", str(time.monotonic())], kwargs={},
            )  # fmt: skip
        for path in PAGES:
            answer = browser.get(node, path)
            assert answer.status_code in (200, 303), (path, answer.text)

    passage(cold=True)
    with away(own_redis):
        for number in range(6):
            passage(cold=number % 2 == 0)
        log = node.log.read_text()
    back = {full: SHARED, read_only: SHARED, evicting: None}.get(away, SPEAKS)
    deadline = time.monotonic() + 30
    while back and back not in node.log.read_text() and time.monotonic() < deadline:
        passage(cold=True)
        time.sleep(0.5)
    log = node.log.read_text()
    gone = {full: REFUSED, read_only: REFUSED, evicting: None}.get(away, SILENT)
    if gone:
        assert log.count(gone) == 1, log
        assert log.count(back) == 1, log
    assert "Traceback" not in log
    assert " ERROR " not in log


def test_a_server_starts_and_serves_without_redis(make_node, own_redis, make_database):
    """It shares from the moment Redis is there."""
    database = make_database()
    own_redis.stop()
    node = make_node(own_redis, database=database, settings={"session": False})
    browser = Browser(database)
    assert browser.login(node)
    own_redis.start()
    time.sleep(1.1)
    for _ in range(2):
        browser.call(
            node, "/web/dataset/call_kw", model="ir.config_parameter", method="set_param",
            args=["test.cold", str(time.monotonic())], kwargs={},
        )  # fmt: skip
        assert browser.get(node, "/odoo").ok
    assert "odoo:ormcache:" in own_redis.cli("keys", "*")


def test_who_computes_and_dies_is_not_waited_for(redis, make_worker, lone_database):
    """A claim ends with its transaction, or after a short while if its process was killed."""
    first, second = make_worker(redis, lone_database), make_worker(redis, lone_database)
    slow = """
        import time
        from odoo.addons.base.models.res_lang import ResLang
        cache = ResLang._get_active_by.__cache__
        original = cache.method
        def method(self, field):
            time.sleep({})
            return original(self, field)
        cache.method, method.__name__ = method, "_get_active_by"
        method.__module__, method.__qualname__ = original.__module__, original.__qualname__
        registry.clear_cache("stable") if {} else None
    """
    look = "result = env['res.lang']._get_active_by('code')['en_US']['name']"
    first.run(slow.format(60, True))
    first.begin(look)
    time.sleep(0.5)
    began = time.monotonic()
    first.stop()
    assert second.run(look) == "English (US)"
    assert time.monotonic() - began < 5
