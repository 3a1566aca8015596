"""Nodes whose clocks differ end sessions at the same moment: by the clock of Redis.

One node is right; the others differ by more than the timeout of the sessions, and by more than an
old sid is valid after a soft rotation. All run at once, so a test takes as long as one timeout.
"""

import json
import re
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from odoo.addons.redis_session_ormcache.keys import session_place
from odoo.addons.redis_session_ormcache.tests.conftest import SET_TIMEOUT
from odoo.addons.redis_session_ormcache.tests.support.browser import Browser
from stack.provision import environment
from stack.servers import LOAD, start_all

TIMEOUT = 5  # seconds of inactivity
VALID = 6  # seconds that an old sid is valid
SKEWS = {"right": 0, "ahead": 200, "behind": -200, "days ahead": 3 * 86400}
MARGIN = 1.0  # seconds, for a slow machine


@pytest.fixture(scope="module")
def redis(module_redis):
    return module_redis


@pytest.fixture(scope="module")
def own_database(make_database, postgres):
    name = make_database()
    postgres.sql(name, SET_TIMEOUT.format(TIMEOUT))
    return name


@pytest.fixture(scope="module")
def nodes(make_node, redis, own_database):
    """A node for each of `SKEWS`, by its name."""
    path = f"{environment.addons_path()},{environment.CHECKOUT / 'dev/addons'}"
    nodes = {
        name: make_node(
            redis,
            database=own_database,
            load=f"{LOAD},redis_session_probe",
            config={"addons_path": path},
            env={
                "PROBE_DELETION_TIMER": str(VALID),
                **(environment.clock(skew) if skew else {}),
            },
            start=False,
        )
        for name, skew in SKEWS.items()
    }
    start_all(*nodes.values())
    for node in nodes.values():  # to load a database takes its time
        assert Browser(own_database).login(node)
    return nodes


@pytest.fixture
def visit(nodes):
    """Have a node make the session of a visitor; the sid."""

    def visit(name):
        browser = Browser()
        assert browser.get(nodes[name], '/probe/session?update={"mark":1}').ok
        return browser.sid

    return visit


@pytest.fixture
def knows(nodes):
    """Whether a node has a visitor's session, which is activity."""

    def knows(name, sid):
        browser = Browser()
        browser.sid = sid
        return "mark" in browser.get(nodes[name], "/probe/session").json()

    return knows


@pytest.fixture
def log_in(nodes, own_database):
    """Log in on a node; the sid."""

    def log_in(name):
        browser = Browser(own_database)
        assert browser.login(nodes[name])
        return browser.sid

    return log_in


@pytest.fixture
def ask(nodes):
    """Ask a node whether a sid is that of a user; None, or the sid to go on with.

    Each time by a new browser: a cookie's own end is of no interest here.
    """

    def ask(name, sid, **update):
        browser = Browser()
        browser.sid = sid
        if update:
            browser.get(nodes[name], "/probe/session", params={"update": json.dumps(update)})
        return browser.sid if browser.is_logged_in(nodes[name]) else None

    return ask


@pytest.fixture
def rotate(ask):
    """Have a node rotate a session softly, as if it were due; the new sid."""

    def rotate(name, sid):
        new = ask(name, sid, create_time=0)
        assert new not in (None, sid), name
        return new

    return rotate


def test_the_clocks_are_shifted(nodes):
    """The nodes of these tests have the clocks that they should have."""
    for name, skew in SKEWS.items():
        browser = Browser()
        shown = browser.get(nodes[name], "/probe/session").json()["create_time"]
        assert abs(shown - time.time() - skew) < MARGIN, name


def test_a_session_in_use_lives_on(visit, knows):
    """A session that is used ends on no node, whichever saved it, though it is not saved again."""
    sids = {(writer, asked): visit(writer) for writer in SKEWS for asked in SKEWS}
    began, lost = time.monotonic(), {}
    while (passed := time.monotonic() - began) < TIMEOUT * 1.6:
        gone = [pair for pair, sid in sids.items() if not knows(pair[1], sid)]
        lost |= {pair: round(passed, 1) for pair in gone if pair not in lost}
        time.sleep(TIMEOUT / 5)
    assert lost == {}


def test_an_idle_session_ends_on_time(visit, knows, raw):
    """A session that nobody uses is there until its timeout, and not after it, whichever node saved
    it and whichever is asked."""
    sids = {(writer, asked): visit(writer) for writer in SKEWS for asked in SKEWS}
    idle = {writer: (visit(writer), time.monotonic()) for writer in SKEWS}
    time.sleep(TIMEOUT - 2 * MARGIN)
    assert [pair for pair, sid in sids.items() if not knows(pair[1], sid)] == []
    for writer, (sid, since) in idle.items():
        key = session_place("odoo", sid).key
        left = TIMEOUT - (time.monotonic() - since)
        assert raw.pttl(key) / 1000 == pytest.approx(left, abs=MARGIN / 2), writer
    time.sleep(TIMEOUT + MARGIN / 2)
    assert [pair for pair, sid in sids.items() if knows(pair[1], sid)] == []


def test_cleaning_up_ends_nobody_s_session(nodes, own_database, log_in, ask):
    """The daily clean-up of a node that is ahead leaves the sessions of others as they are."""
    admin, sids = Browser(own_database), [log_in("right"), log_in("behind")]
    for name in ("days ahead", "ahead"):
        assert admin.login(nodes[name])
        options = {"model": "ir.cron", "kwargs": {}}
        domain = [["cron_name", "ilike", "auto-vacuum"]]
        path = "/web/dataset/call_kw"
        jobs = admin.call(nodes[name], path, method="search", args=[domain], **options)
        assert jobs
        admin.call(nodes[name], path, method="method_direct_trigger", args=[jobs], **options)
        sids = [ask(name, sid) for sid in sids]
        assert all(sids), name
    assert all(ask("right", sid) for sid in sids)


def test_a_soft_rotation_logs_nobody_out(log_in, ask, rotate):
    """After a soft rotation by any node the old sid works on every node for as long as it would on
    one node, and not longer; the new one works on."""

    def follow(writer):
        """Which node lost which sid, and after how many seconds; which still knows the old one."""
        old = log_in(writer)
        new, began, lost = rotate(writer, old), time.monotonic(), []
        while (passed := time.monotonic() - began) < VALID + MARGIN:
            for asked in SKEWS:
                if passed < VALID - 2 * MARGIN and not ask(asked, old):
                    passed = time.monotonic() - began
                    if passed < VALID - MARGIN:  # else it came too late
                        lost.append((writer, asked, "old", round(passed, 1)))
                going_on = ask(asked, new)
                if going_on is None:
                    lost.append((writer, asked, "new", round(time.monotonic() - began, 1)))
                new = going_on or new
            time.sleep(MARGIN)
        return lost, [(writer, asked) for asked in SKEWS if ask(asked, old)]

    with ThreadPoolExecutor() as pool:
        assert list(pool.map(follow, SKEWS)) == [([], [])] * len(SKEWS)


def test_a_skew_is_warned_of_once(nodes):
    """A node whose clock is not that of Redis says so at its start, in one line; one that is right
    says nothing."""
    for name, skew in SKEWS.items():
        lines = nodes[name].log.read_text(errors="replace").splitlines()
        told = [line for line in lines if " WARNING " in line and re.search("clock", line, re.I)]
        assert len(told) == (1 if skew else 0), name
