"""Many websockets in one evented process while Redis hangs or dies: all are served again."""

import threading
import time

import pytest
import redis as driver

from odoo.addons.redis_session_ormcache.connection.client import MAX_CONNECTIONS
from odoo.addons.redis_session_ormcache.tests.support.browser import Browser
from odoo.addons.redis_session_ormcache.tests.support.dose import dose
from stack.load.websockets import SESSION_EXPIRED, TRY_LATER, Tabs
from stack.servers import Redis, until

WEBSOCKETS, SESSIONS = dose(150, 5000), dose(3, 100)
PAUSE, DEATH = 3.0, dose(1.0, 3.0)  # seconds
PATIENCE = dose(30, 240)  # seconds until all have a notification


@pytest.fixture(scope="module")
def redis(tmp_path_factory):
    with Redis(tmp_path_factory.mktemp("redis"), config={"appendonly": "yes"}) as server:
        yield server


@pytest.fixture(scope="module")
def node(make_node, redis):
    # A process that is too large for Odoo's limit is restarted.
    return make_node(redis, command="gevent", config={"limit_memory_soft": 0})


@pytest.fixture(scope="module")
def tabs(node, database, postgres):
    sids = []
    for _number in range(SESSIONS):
        browser = Browser(database)
        browser.login(node)
        sids.append(browser.sid)
    with Tabs(node, postgres, sids, WEBSOCKETS) as tabs:
        yield tabs


def hanging(redis):
    redis.pause()
    time.sleep(PAUSE)
    redis.resume()


def killed(redis):
    redis.kill()
    time.sleep(DEATH)
    redis.start()


def test_a_notification_reaches_all(tabs, redis):
    """Each websocket asks Redis for its session, by few connections that they share."""
    with driver.Redis.from_url(redis.url) as raw:
        before = raw.info("commandstats")["cmdstat_hget"]["calls"]
        tabs.tell("hello")
        until(lambda: len(tabs.told["hello"]) == WEBSOCKETS, "all have it", PATIENCE)
        asked = raw.info("commandstats")["cmdstat_hget"]["calls"] - before
        assert asked <= 2 * WEBSOCKETS + tabs.closed[TRY_LATER]  # some were subscribing yet
        assert raw.info("clients")["connected_clients"] <= MAX_CONNECTIONS + 10


@pytest.mark.parametrize("fault", [hanging, killed])
def test_a_notification_that_meets_an_outage_reaches_all(tabs, redis, fault):
    """A websocket is closed at most once, to come again later; nobody is logged out."""
    opened, text = tabs.opened, fault.__name__
    breaking = threading.Thread(target=fault, args=[redis])
    breaking.start()
    time.sleep(0.1)
    tabs.tell(text)
    until(lambda: len(tabs.told[text]) == WEBSOCKETS, "all have it", PATIENCE)
    breaking.join()
    until(lambda: tabs.open == WEBSOCKETS, "all are open", PATIENCE)
    assert tabs.closed[SESSION_EXPIRED] == 0
    assert tabs.opened - opened <= 1.5 * WEBSOCKETS
