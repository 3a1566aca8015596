"""A rolling update to another format of sessions, while users click on two nodes.

`dev/addons/session_formats` makes a node what a later release will be. A release that changes the
format reads both versions and writes the former one; the release after it writes the new one.
"""

import re
import threading
import time
from collections import Counter
from types import SimpleNamespace

import pytest
import redis as driver

from odoo.addons.redis_session_ormcache.keys import session_place
from odoo.addons.redis_session_ormcache.sessions.store import REFUSALS_LOGGED
from odoo.addons.redis_session_ormcache.tests.support.dose import dose
from stack.load import AWAY, RIGHT, UNAVAILABLE, Crowd, Site
from stack.servers import Redis, until

USERS = dose(12, 50)
ASIDE = 3  # users who do not click unless told to
PAUSE = dose(0.3, 0.0)  # seconds between an answer and the next click
STAGE = dose(0.7, 10.0)  # seconds between two restarts
GRACE = dose(0.3, 10.0)  # seconds that a node has to end what it does
SLOW = 1.5  # seconds of a slow request
THIS, READS, WRITES = "", "reads", "writes"  # releases: this one, and the two that follow


@pytest.fixture(scope="module")
def rolling(tmp_path_factory, make_database, postgres):
    """Two nodes on a Redis, whose release a test chooses."""
    with (
        Redis(tmp_path_factory.mktemp("redis")) as server,
        driver.Redis.from_url(server.url) as raw,
        Site(
            tmp_path_factory.mktemp("site"),
            postgres,
            server.url,
            database=make_database(),
            users=USERS + ASIDE,
            workers=dose(0, 2),
            addons=["session_formats"],
        ) as site,
    ):
        for node in site.nodes:
            node.grace = GRACE
        yield SimpleNamespace(site=site, raw=raw)


def update(site, node, release):
    """Restart a node as another release, if it is not that one."""
    if node.env.get("SESSION_FORMATS", THIS) != release:
        site.restart(node, SESSION_FORMATS=release)


def stored(raw, user):
    """The very bytes of a user's session."""
    place = session_place("odoo", user.sid)
    return raw.hget(place.key, place.field)


def versions(raw, users):
    """How many sessions are stored in each version."""
    return Counter(int(stored(raw, user).split()[0]) for user in users)


def assert_all_have_all(users):
    """All are logged in on all nodes with their cookies; nothing that was acknowledged is lost."""
    for user in users:
        numbers = {user.remembered(node) for node in user.nodes}
        assert len(numbers) == 1, numbers
        assert None not in numbers, "logged out"
        assert user.acknowledged <= numbers.pop() <= user.sent


def test_two_releases_in_order(rolling):
    """Updated one by one, to the release that reads the new format and then to the one that writes
    it, the nodes turn nobody away, log nobody out and lose nothing."""
    site, raw = rolling.site, rolling.raw
    for node in site.nodes:
        update(site, node, THIS)
    crowd, logs = site.crowd(PAUSE, new=True), site.log_sizes()
    found = []
    with crowd:
        assert crowd.recovers(), crowd.complaints()[:3]
        for release in (READS, WRITES):
            for node in site.nodes:
                update(site, node, release)
                time.sleep(STAGE)
                found.append(versions(raw, crowd.users))
        assert crowd.recovers(), (crowd.verdicts(), crowd.complaints()[:3])
    print(f"{dict(crowd.verdicts())}; versions stored after each restart: {found}")
    assert not crowd.complaints(), crowd.complaints()[:3]
    assert set(crowd.verdicts()) == {RIGHT, AWAY}
    assert_all_have_all(crowd.users)
    assert set(found[0]) == set(found[1]) == {1}
    assert found[2][2]
    for user in crowd.users:
        user.count(site.nodes[0])
    assert set(versions(raw, crowd.users)) == {2}
    assert site.errors(logs) == []


def test_a_node_beside_one_that_writes_a_later_format(rolling):
    """A node that was left out, or set back, turns its users away and says why; it overwrites
    nothing and logs nobody out, and when it is updated all is well."""
    site, raw = rolling.site, rolling.raw
    old, new = site.nodes
    for node in site.nodes:
        update(site, node, WRITES)
    before, logs = site.crowd(PAUSE, new=True), site.log_sizes()
    with before:
        assert before.recovers(), before.complaints()[:3]
        until(lambda: set(versions(raw, before.users)) == {2}, "a change by each user")
        set_back, since = old.log.stat().st_size, time.monotonic()
        update(site, old, THIS)  # set back: all that is stored is of the later format
        began = time.monotonic()
        # Left out: all that is stored is of this format, until the other node has written it.
        beside = site.crowd(PAUSE, new=True)
        aside = [beside.users.pop() for _user in range(ASIDE)]
        with Crowd(beside.users):
            for user in aside:
                assert_does_not_overwrite(raw, user, old, new)
            time.sleep(STAGE)
            assert set(versions(raw, before.users)) == {2}
            for crowd in (before, beside):
                assert_turned_away(crowd, old, new, since=began)
            assert_says_why(old, set_back, time.monotonic() - since)
            update(site, old, WRITES)
            for crowd in (before, beside):
                assert crowd.recovers(), (crowd.verdicts(), crowd.complaints()[:3])
    for crowd in (before, beside):
        print(f"{dict(crowd.verdicts())}")
        assert not crowd.complaints(), crowd.complaints()[:3]
    assert_all_have_all([*before.users, *beside.users, *aside])
    assert site.errors(logs) == []


def assert_does_not_overwrite(raw, user, old, new):
    """One that read it before the other node wrote it gets 503, and saves nothing."""
    assert user.count(old).verdict == RIGHT
    assert versions(raw, [user]) == {1: 1}
    answers = []
    late = threading.Thread(
        target=lambda: answers.append(
            user.click(old, "GET", f"/probe/count?value=1000&seconds={SLOW}")
        )
    )
    late.start()
    time.sleep(SLOW / 3)
    assert user.count(new).verdict == RIGHT
    written = stored(raw, user)
    late.join()
    assert [answer.verdict for answer in answers] == [UNAVAILABLE], answers
    assert stored(raw, user) == written
    assert written.startswith(b"2 ")


def assert_turned_away(crowd, old, new, *, since):
    """The node that knows the former format only answers right or 503, the other one right."""
    verdicts = {
        node.name: Counter(
            answer.verdict
            for answer in crowd.answers
            if answer.node == node.name and answer.began > since
        )
        for node in (old, new)
    }
    print(verdicts)
    assert set(verdicts[new.name]) == {RIGHT}
    assert UNAVAILABLE in verdicts[old.name]
    assert set(verdicts[old.name]) <= {RIGHT, UNAVAILABLE}


def assert_says_why(node, size, seconds):
    """The log names the versions and what to do, in a line now and then."""
    with node.log.open(encoding="utf-8") as log:
        log.seek(size)
        lines = [line for line in log if "HTTP 503: " in line]
    processes = node.workers or 1
    assert 1 <= len(lines) <= processes * (1 + seconds / REFUSALS_LOGGED), lines
    for line in lines:
        assert re.search(r"version 2 .* up to version 1: update ", line), line
