"""``sessions.max_inactivity_seconds`` changes while a process serves websockets only.

Odoo's auth_timeout saves a session when its last websocket closes, which is outside of requests.
"""

import uuid

import pytest
from odoo.http import STORED_SESSION_BYTES

from odoo.addons.redis_session_ormcache.tests.support.browser import Browser, is_served
from stack.servers import init_database, until

LOW, HIGH = 60, 120  # seconds; activity is noted after 1/60 of them
TIMEOUT = "sessions.max_inactivity_seconds"


@pytest.fixture(scope="module")
def idle_database(postgres):
    """A database in which a screen is locked after a minute."""
    name = f"test_{uuid.uuid4().hex[:8]}"
    init_database(postgres, name, ["web", "auth_timeout"])
    postgres.sql(
        name,
        "UPDATE res_groups SET lock_timeout_inactivity = 1 WHERE id = (SELECT res_id "
        "FROM ir_model_data WHERE module = 'base' AND name = 'group_user')",
    )
    yield name
    postgres.dropdb(name)


@pytest.fixture(scope="module")
def nodes(make_node, redis, idle_database):
    """A process that serves requests, and an evented one."""
    web = make_node(redis, database=idle_database)
    return web, make_node(redis, database=idle_database, command="gevent")


def set_timeout(browser, node, seconds):
    """Change the setting, as an administrator does."""
    browser.call(
        node,
        "/web/dataset/call_kw",
        model="ir.config_parameter",
        method="set_param",
        args=[TIMEOUT, str(seconds)],
        kwargs={},
    )


@pytest.mark.parametrize(("former", "seconds"), [(LOW, HIGH), (HIGH, LOW)])
def test_a_websocket_process_keeps_a_timeout_that_was_changed(
    nodes, idle_database, raw, former, seconds
):
    """A session that is saved when its websocket closes lives as long as its last request said."""
    web, evented = nodes
    browser = Browser(idle_database)
    browser.login(web)
    set_timeout(browser, web, former)
    connection = browser.websocket(evented)
    assert is_served(connection)
    set_timeout(browser, web, seconds)
    key = f"odoo:session:{browser.sid[:STORED_SESSION_BYTES]}"
    until(lambda: browser.uid(web) and is_about(raw.ttl(key), seconds), "activity is noted", 10)
    stored = raw.hgetall(key)
    connection.close()
    until(lambda: raw.hgetall(key) != stored, "the session is saved", 10)
    assert is_about(raw.ttl(key), seconds)


def is_about(ttl, seconds):
    """Whether a time to live was set to so many seconds a moment ago."""
    return seconds - 20 < ttl <= seconds
