"""Redis' clock decides: learnt at the start, and again."""

import logging
import os
import time

import pytest
from freezegun import freeze_time

from odoo.addons.redis_session_ormcache.connection import DEADLINE, RedisServer, Script
from odoo.addons.redis_session_ormcache.connection import client as clients
from stack.servers import LyingProxy

AHEAD = 3600.0  # seconds
IN_TIME = Script("in_time", "return 'in time'")


@pytest.fixture
def ahead(redis):
    """A Redis whose clock is ahead."""
    with LyingProxy(redis.port) as proxy:
        proxy.lies["TIME"] = time_answer(AHEAD)
        yield proxy


@pytest.fixture
def server(ahead):
    server = RedisServer(ahead.url, half="sessions", timeout=1.0)
    yield server
    server.disconnect()


def time_answer(ahead):
    seconds = str(int(time.time() + ahead)).encode()
    return b"*2\r\n$%d\r\n%s\r\n$1\r\n0\r\n" % (len(seconds), seconds)


def skew(server):
    return server.clock.now() - time.time()


def test_the_start_learns_it(server, caplog):
    """Before the first request; a skew is told, once; a fork knows it too."""
    caplog.set_level(logging.WARNING, "odoo.addons.redis_session_ormcache")
    assert skew(server) == pytest.approx(0, abs=0.01)
    server.check(durable=False)
    server.execute_many([("EXISTS", "a")])
    assert skew(server) == pytest.approx(AHEAD, abs=2)
    told = [record.getMessage() for record in caplog.records]
    assert [f"{server.shown_url} is 3" in line for line in told] == [True], told
    server.disconnect()
    pid = os.fork()
    if not pid:
        os._exit(int(abs(skew(server) - AHEAD) > 2))
    assert os.waitpid(pid, 0)[1] == 0


def test_it_is_learnt_again(ahead, server, monkeypatch):
    """By a connection that learnt it more than a minute ago, for a clock that was set."""
    server.evaluate(IN_TIME, "a", DEADLINE)
    ahead.lies["TIME"] = time_answer(2 * AHEAD)
    server.evaluate(IN_TIME, "a", DEADLINE)
    assert skew(server) == pytest.approx(AHEAD, abs=2)
    read = clients.monotonic
    monkeypatch.setattr(clients, "monotonic", lambda: read() + clients._CLOCK_AGE + 1)
    server.evaluate(IN_TIME, "a", DEADLINE)
    monkeypatch.undo()
    assert skew(server) == pytest.approx(2 * AHEAD, abs=100)


def test_a_frozen_clock_moves_no_deadline(redis):
    """A connection that was opened before a test froze the clock, or meanwhile, goes on."""
    left = Script(
        "left", "return tonumber(ARGV[1]) - redis.call('TIME')[1] * 1000"
    )  # in milliseconds
    server = RedisServer(redis.url, half="sessions", timeout=1.0)
    for _time in range(2):
        assert 0 < server.evaluate(left, "a", DEADLINE) <= 2000
        with freeze_time("2031-02-03"):
            assert 0 < server.evaluate(left, "a", DEADLINE) <= 2000
            server.disconnect()
            assert 0 < server.evaluate(left, "a", DEADLINE) <= 2000
    server.disconnect()


def test_each_topology_learns_it(topologies):
    """Also where the connections are of another kind."""
    for name in ("unix", "sentinel", "cluster"):
        server = RedisServer(topologies(name).url, half="sessions", timeout=2.0)
        server.check(durable=False)
        assert server._client.clock._ahead is not None
        server.disconnect()
