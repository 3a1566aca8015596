"""Redis' clock as this process knows it."""

import logging
import time
from datetime import UTC, datetime, timedelta

import pytest
from freezegun import freeze_time

from odoo.addons.redis_session_ormcache.connection import clock as clocks
from odoo.addons.redis_session_ormcache.connection.clock import ServerClock, monotonic

ADDON = "odoo.addons.redis_session_ormcache"
NAME = "redis://shop:6379/0"


def learn(clock, skew, *, took=0.002, at=None):
    """A server answers TIME whose clock is ahead of this machine's."""
    answered = monotonic() if at is None else at
    real = time.clock_gettime(time.CLOCK_REALTIME) + answered - monotonic()
    clock.learn(real - took / 2 + skew, answered - took, answered)


def test_nothing_learnt_is_pythons_clock():
    """Until a connection has asked."""
    with freeze_time("2031-02-03 04:05:06"):
        assert ServerClock(NAME).now() == time.time()


def test_a_clock_that_agrees_is_pythons_to_the_last_digit():
    """Two readings of one moment compare equal, as without this addon."""
    clock = ServerClock(NAME)
    learn(clock, 0.0)
    with freeze_time("2031-02-03 04:05:06") as frozen:
        assert clock.now() == time.time() == datetime.now(UTC).timestamp()
        frozen.tick(timedelta(hours=2))
        assert clock.now() == time.time()


@pytest.mark.parametrize("skew", [3600.0, -30.0, 0.5])
def test_redis_decides(skew):
    """It is its time, also with a test's frozen clock on top."""
    clock = ServerClock(NAME)
    learn(clock, skew)
    assert clock.now() == pytest.approx(time.time() + skew, abs=0.2)
    with freeze_time("2031-02-03 04:05:06"):
        assert clock.now() == pytest.approx(time.time() + skew, abs=0.2)


def test_a_node_whose_clock_is_set_keeps_redis_time(monkeypatch):
    """Learnt once, it runs on with the monotonic clock."""
    clock = ServerClock(NAME)
    learn(clock, 0.0)
    before = clock.now()
    read = time.clock_gettime
    monkeypatch.setattr(time, "time", lambda: read(time.CLOCK_REALTIME) + 500)
    monkeypatch.setattr(
        clocks,
        "_clock",
        lambda which: read(which) + (500 if which == time.CLOCK_REALTIME else 0),
    )
    assert clock.now() == pytest.approx(before, abs=0.5)


def test_a_slow_answer_is_taken_to_be_of_its_middle():
    """Half of the round trip is the error at most."""
    clock = ServerClock(NAME)
    learn(clock, 20.0, took=1.0)
    assert clock.now() == pytest.approx(time.time() + 20, abs=0.2)


def test_a_skew_is_told_once_an_hour(caplog, monkeypatch):
    """One plain line: by how much, and what to do; not for what a slow answer may explain."""
    caplog.set_level(logging.WARNING, ADDON)
    monkeypatch.setattr(clocks, "_told", {})
    clock = ServerClock(NAME)
    now = monotonic()
    learn(clock, 4.9)
    learn(clock, 9.0, took=10.0)
    assert not caplog.records
    learn(clock, 31.0, at=now)
    learn(clock, 31.0, at=now + clocks._TOLD_EVERY - 1)
    learn(ServerClock(NAME), 31.0, at=now + 1)  # of the other half
    (record,) = caplog.records
    assert f"{NAME} is 31.0 s ahead of this machine's" in record.getMessage()
    assert "NTP" in record.getMessage()
    learn(clock, -31.0, at=now + clocks._TOLD_EVERY + 1)
    assert "31.0 s behind this machine's" in caplog.records[1].getMessage()
