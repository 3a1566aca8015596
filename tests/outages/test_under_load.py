"""Redis fails while 50 users click on two nodes, with the addon's own timeouts.

Every answer is right, or a 503 that says when to come back; nobody is logged out; no request waits
longer than it may; and afterwards all is as before.
"""

import contextlib
import socket
import time
from types import SimpleNamespace

import pytest

from odoo.addons.redis_session_ormcache.config import Settings
from odoo.addons.redis_session_ormcache.connection.client import MAX_CONNECTIONS
from odoo.addons.redis_session_ormcache.http_patch.install import ORMCACHE_TIMEOUT
from odoo.addons.redis_session_ormcache.tests.support.dose import dose
from stack.load import LOGGED_OUT, UNAVAILABLE, WRONG, Site
from stack.servers import Cluster, Island, Proxy, Redis, Sentinels, ServerError, until

USERS = 50
PAUSE = dose(0.3, 0.0)  # seconds between an answer and the next click
BUDGET = Settings().timeout + ORMCACHE_TIMEOUT + 0.5  # seconds; the last for a busy machine
CONNECTIONS = 2 * MAX_CONNECTIONS  # of a process to one server: both halves' pools
AFTERWARDS = 2.0  # seconds after the end of a fault in which the last one may be turned away
DURABLE = {"appendonly": "yes", "appendfsync": "always"}


@pytest.fixture(scope="module")
def make_site(tmp_path_factory, make_database, postgres):
    """Two nodes on a Redis and 50 logged-in users."""

    def make(url):
        folder = tmp_path_factory.mktemp("site")
        return Site(folder, postgres, url, database=make_database(), users=USERS)

    return make


def ride(site, fault, *, seconds=30):
    """Let the users click before, during and after a fault; what came of it.

    :param fault: a function that returns when Redis can serve again
    """
    crowd, before, logs = site.crowd(PAUSE), site.footprint(), site.log_sizes()
    with crowd:
        assert crowd.recovers(), crowd.complaints()[:3]
        started = time.monotonic()
        fault()
        healed = time.monotonic()
        recovered = crowd.recovers(seconds)
    answers = crowd.answers
    away = [answer for answer in answers if answer.verdict == UNAVAILABLE]
    outcome = SimpleNamespace(
        crowd=crowd,
        verdicts=crowd.verdicts(),
        longest_wait=max(answer.waited for answer in answers),
        outage=away[-1].ended - away[0].began if away else 0.0,
        late=max((answer.began - healed for answer in away), default=0.0),
        fault=healed - started,
    )
    print(
        f"{len(answers)} answers, {dict(outcome.verdicts)}; fault {outcome.fault:.1f} s, "
        f"outage {outcome.outage:.1f} s, last turned away {outcome.late:+.1f} s after it; "
        f"longest wait for Redis {outcome.longest_wait:.2f} s"
    )
    assert recovered, (outcome.verdicts, crowd.complaints()[:3])
    assert outcome.longest_wait <= BUDGET
    assert outcome.late <= AFTERWARDS
    assert site.errors(logs) == []
    leaks = site.leaks(before, CONNECTIONS)
    assert not leaks, "\n".join(leaks)
    return outcome


def assert_nobody_noticed(outcome):
    """All right or turned away; all logged in with the same cookie; nothing saved was lost."""
    crowd = outcome.crowd
    assert not crowd.complaints(), crowd.complaints()[:3]
    for user in crowd.users:
        numbers = [user.remembered(node) for node in user.nodes]
        assert numbers[0] == numbers[1]
        assert numbers[0] is not None, "logged out"
        assert user.acknowledged <= numbers[0] <= user.sent


# -- a single server -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def single(tmp_path_factory, make_site):
    """Two nodes on one durable server, behind a proxy."""
    folder = tmp_path_factory.mktemp("single")
    with (
        Redis(folder, config=DURABLE) as server,
        Proxy(server.port) as proxy,
        make_site(proxy.url) as site,
    ):
        yield SimpleNamespace(server=server, proxy=proxy, site=site)


def paused(single):
    single.server.pause()
    time.sleep(dose(5, 10))
    single.server.resume()


def killed(single):
    single.server.kill()
    time.sleep(1)
    single.server.start()


def full(single):
    single.server.cli("CONFIG", "SET", "maxmemory", "1")
    time.sleep(3)
    single.server.cli("CONFIG", "SET", "maxmemory", "0")


def slow(single):
    single.proxy.delay = 0.2
    time.sleep(5)
    single.proxy.delay = 0.0


def refusing(single):
    proxy = single.proxy
    proxy.refused, proxy.mode = 0, "refuse"
    deadline = time.monotonic() + 60
    while proxy.refused < 1000 and time.monotonic() < deadline:
        # The two nodes ask twice a second each. Not faster than they are refused: what is left in
        # the proxy's queue would come before the nodes.
        with (
            contextlib.suppress(OSError),
            socket.create_connection(proxy.server_address, timeout=1) as refused,
        ):
            refused.recv(1)
    proxy.mode = "pass"
    assert proxy.refused >= 1000


def cut(single):
    single.proxy.mode = "cut"
    time.sleep(4)
    single.proxy.mode = "pass"


@pytest.mark.parametrize("fault", [paused, killed, full, slow, refusing, cut])
def test_a_fault_of_a_server(single, fault):
    """Nobody is logged out, nothing hangs, nothing that was saved is lost."""
    outcome = ride(single.site, lambda: fault(single))
    assert_nobody_noticed(outcome)
    assert UNAVAILABLE in outcome.verdicts or fault is slow


def test_a_restart_without_the_data(single):
    """All are asked to log in again, without an error, and can."""
    from odoo.addons.redis_session_ormcache.tests.support.browser import Browser

    def emptied():
        single.server.kill()
        for path in single.server.folder.glob("appendonlydir/*"):
            path.unlink()
        single.server.start()

    crowd, logs = single.site.crowd(), single.site.log_sizes()
    with crowd:
        assert crowd.recovers()
        emptied()
        time.sleep(4)
    assert crowd.verdicts()[LOGGED_OUT] >= USERS
    assert [answer for answer in crowd.answers if answer.verdict == WRONG] == []
    assert single.site.errors(logs) == []
    browser = Browser(single.site.database)
    assert browser.login(single.site.nodes[0])
    assert browser.uid(single.site.nodes[1])


# -- Sentinel --------------------------------------------------------------------------------------


def dies(sentinels):
    """The primary is killed; returns when the sentinels have another."""
    primary = sentinels.primary
    primary.kill()
    sentinels.await_switch(primary)


def test_a_primary_that_is_killed(tmp_path, make_site):
    """Sentinel's failover passes unnoticed but for some 503; the successor has all sessions."""
    with (
        Sentinels(tmp_path / "sentinels", config=DURABLE) as sentinels,
        make_site(sentinels.url) as site,
    ):
        outcome = ride(site, lambda: dies(sentinels))
        kept = [user.remembered(site.nodes[0]) for user in outcome.crowd.users]
        lost = sum(n < user.acknowledged for n, user in zip(kept, outcome.crowd.users, strict=True))
        print(f"{len(kept) - kept.count(None)} of {USERS} sessions, last change of {lost} lost")
        assert not outcome.crowd.complaints(), outcome.crowd.complaints()[:3]
        assert None not in kept


@pytest.mark.skipif(not Island.available(), reason="makes a network: needs root and iproute2")
def test_a_primary_that_is_cut_off(tmp_path, make_site):
    """The same when its packets are dropped: nobody waits longer, all follow the successor."""
    with (
        Island() as island,
        Sentinels(tmp_path / "sentinels", config=DURABLE, island=island) as sentinels,
        make_site(sentinels.url) as site,
    ):

        def splits():
            primary = sentinels.primary
            island.cut()
            sentinels.await_switch(primary)

        outcome = ride(site, splits)
        assert not outcome.crowd.complaints(), outcome.crowd.complaints()[:3]
        assert None not in [user.remembered(site.nodes[0]) for user in outcome.crowd.users]
        island.heal()
        sentinels.await_replicas()
        assert None not in [user.remembered(site.nodes[1]) for user in outcome.crowd.users]


# -- Cluster ---------------------------------------------------------------------------------------


def test_a_cluster_that_changes(tmp_path, make_site):
    """Slots that move are followed without a 503; a node that dies costs its own users some."""
    with Cluster(tmp_path / "cluster") as cluster, make_site(cluster.url) as site:
        slots = [cluster.slot(f"odoo:session:{user.sid[:42]}") for user in site.crowd().users]

        def migrates():
            for slot in slots[:10]:
                source = cluster.primary_of(slot)
                to = next(node for node in cluster.nodes[:3] if node is not source)
                cluster.begin_migration(slot, to)
                time.sleep(0.1)  # new keys are asked for there
                cluster.migrate_keys(slot, source, to)
                time.sleep(0.1)  # and those that moved
                cluster.end_migration(slot, to)

        outcome = ride(site, migrates)
        assert_nobody_noticed(outcome)
        assert UNAVAILABLE not in outcome.verdicts

        def node_dies():
            slot = slots[0]
            primary = cluster.primary_of(slot)
            primary.kill()
            asked = next(node for node in cluster.nodes if node.running)
            until(lambda: serves_other(cluster, slot, primary, asked), "a failover")

        outcome = ride(site, node_dies)
        assert not outcome.crowd.complaints(), outcome.crowd.complaints()[:3]
        kept = [user.remembered(site.nodes[0]) for user in outcome.crowd.users]
        assert None not in kept


def serves_other(cluster, slot, than, asked):
    with contextlib.suppress(ServerError):
        return cluster.primary_of(slot, asked) is not than
    return False
