"""Redis away: nobody is logged out, nothing is saved, nothing hangs, and it passes by itself."""

import contextlib
import logging
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest
from websocket import WebSocketBadStatusException

from odoo.addons.redis_session_ormcache.connection.client import MAX_CALLS, MAX_CONNECTIONS
from odoo.addons.redis_session_ormcache.connection.silence import PROBE_INTERVAL
from odoo.addons.redis_session_ormcache.exceptions import ConfigurationError
from odoo.addons.redis_session_ormcache.sessions import SessionStoreUnavailable, scripts
from odoo.addons.redis_session_ormcache.tests.conftest import TIMEOUT
from odoo.addons.redis_session_ormcache.tests.support.browser import (
    SUBSCRIBE,
    Browser,
    close_code,
    is_served,
)
from stack.servers import Proxy, Redis, until

MARGIN = 0.5  # seconds, for a slow machine


@pytest.fixture
def proxy(own_redis):
    with Proxy(own_redis.port) as proxy:
        yield proxy


def proxy_mode(mode):
    return lambda servers: setattr(servers.proxy, "mode", mode)


FAULTS = {
    "paused": (lambda s: s.redis.pause(), lambda s: s.redis.resume()),
    "killed": (lambda s: s.redis.kill(), lambda s: s.redis.start()),
    "reset": (proxy_mode("reset"), proxy_mode("pass")),
    "cut": (proxy_mode("cut"), proxy_mode("pass")),
    "silent": (proxy_mode("hole"), proxy_mode("pass")),
}


@pytest.fixture(params=FAULTS)
def fault(request, tmp_path):
    """A durable Redis behind a proxy, and a way to break and mend it."""
    config = {"appendonly": "yes", "appendfsync": "always"}
    with Redis(tmp_path / "redis", config=config) as redis, Proxy(redis.port) as proxy:
        servers = SimpleNamespace(redis=redis, proxy=proxy)
        begin, end = FAULTS[request.param]
        yield SimpleNamespace(
            url=proxy.url, redis=redis, begin=lambda: begin(servers), end=lambda: end(servers)
        )


# -- the store -----------------------------------------------------------------------------------


def readable(store, sid):
    with contextlib.suppress(SessionStoreUnavailable):
        return not store.get(sid).is_new
    return False


def test_the_breaker_answers_at_once(own_redis, make_store, new_session):
    """Once Redis was silent, calls fail without waiting, but for a probe now and then."""
    store = make_store(own_redis)
    session = new_session(store)
    store.save(session)
    own_redis.pause()
    with pytest.raises(SessionStoreUnavailable):
        store.get(session.sid)
    start = time.monotonic()
    for _time in range(100):
        with pytest.raises(SessionStoreUnavailable):
            store.get(session.sid)
    assert time.monotonic() - start < 0.2
    own_redis.resume()
    until(lambda: readable(store, session.sid), "an answer", PROBE_INTERVAL + MARGIN)


def test_it_is_logged_once_and_once_more_when_over(own_redis, make_store, caplog):
    """One warning, not one per request; one line when Redis is back; no traceback."""
    caplog.set_level(logging.INFO, "odoo.addons.redis_session_ormcache")
    store = make_store(own_redis)
    own_redis.kill()
    for _time in range(20):
        with pytest.raises(SessionStoreUnavailable):
            store.get("A" * 84)
    own_redis.start()
    until(lambda: not raises(store), "an answer", 10)
    assert [record.levelno for record in caplog.records] == [logging.WARNING, logging.INFO]
    assert "Traceback" not in caplog.text


def raises(store):
    try:
        store.get("A" * 84)
    except SessionStoreUnavailable:
        return True
    return False


def test_a_stale_connection_is_no_outage(own_redis, make_store, new_session):
    """A connection that Redis closed while it was idle is replaced without anybody noticing."""
    store = make_store(own_redis)
    session = new_session(store)
    store.save(session)
    own_redis.cli("CLIENT", "KILL", "TYPE", "normal")
    assert not store.get(session.sid).is_new
    own_redis.cli("CLIENT", "KILL", "TYPE", "normal")
    session["a"] = 1
    store.save(session)
    assert store.get(session.sid)["a"] == 1


def test_a_connection_lost_in_use_is_tried_once_more(proxy, make_store, new_session):
    """A reset in the middle of a question costs one more connection, not a 503."""
    store = make_store(proxy)
    session = new_session(store)
    store.save(session)
    proxy.mode = "reset once"
    assert not store.get(session.sid).is_new
    proxy.mode = "reset once"
    session["a"] = 1
    store.save(session)
    assert proxy.mode == "pass"
    assert store.get(session.sid)["a"] == 1


def test_many_callers_share_the_connections(own_redis, make_store, new_session):
    """More callers at once than connections wait their turn; that is no outage."""
    store = make_store(own_redis)
    session = new_session(store)
    store.save(session)
    with ThreadPoolExecutor(300) as pool:
        assert all(pool.map(lambda _n: not store.get(session.sid).is_new, range(3000)))
    assert len(own_redis.cli("CLIENT", "LIST").splitlines()) <= MAX_CONNECTIONS + 1


def test_scripts_survive_a_flush(own_redis, make_store, new_session):
    """A server that forgot the scripts is told their text again."""
    store = make_store(own_redis)
    session = new_session(store)
    store.save(session)
    own_redis.cli("SCRIPT", "FLUSH")
    session["a"] = 1
    store.save(session)
    assert store.get(session.sid)["a"] == 1


@pytest.mark.parametrize(
    ("refuse", "allow"),
    [
        (["CONFIG", "SET", "maxmemory", "1"], ["CONFIG", "SET", "maxmemory", "0"]),
        (["REPLICAOF", "127.0.0.1", "1"], ["REPLICAOF", "NO", "ONE"]),
    ],
)
def test_a_refused_write_is_an_outage_too(own_redis, make_store, new_session, refuse, allow):
    """A full or read-only Redis takes no save, and says so; what is there remains readable."""
    store = make_store(own_redis)
    session = new_session(store)
    store.save(session)
    own_redis.cli(*refuse)
    session["a"] = 1
    with pytest.raises(SessionStoreUnavailable):
        store.save(session)
    assert "a" not in store.get(session.sid)
    own_redis.cli(*allow)
    store.save(session)
    assert store.get(session.sid)["a"] == 1


def test_nothing_is_there_only_for_a_server_that_takes_changes(own_redis, make_store, new_session):
    """A replica that was emptied, or has not got it yet, is not believed that a session is gone."""
    store = make_store(own_redis)
    session = new_session(store)
    own_redis.cli("REPLICAOF", "127.0.0.1", "1")
    for call in (lambda: store.get("A" * 84), lambda: store.rotate(session, None, True)):
        with pytest.raises(SessionStoreUnavailable):
            call()
    own_redis.cli("REPLICAOF", "NO", "ONE")
    assert store.get("A" * 84).is_new


def pausing(redis, call):
    """The same call, of a server that hangs."""

    def hanging(*arguments):
        redis.pause()
        return call(*arguments)

    return hanging


def test_a_logout_needs_no_memory(own_redis, make_store, new_session, caplog):
    """A session ends though Redis is out of memory; a login, which needs some, changes nothing."""
    caplog.set_level(logging.INFO, "odoo.addons.redis_session_ormcache")
    store = make_store(own_redis)
    user, visitor = new_session(store, uid=2), new_session(store, uid=None, cart=7)
    for session in (user, visitor):
        store.save(session)
    old = user.sid
    own_redis.cli("CONFIG", "SET", "maxmemory", "1")
    user = store.get(old)
    user.clear()
    store.rotate(user, None)
    assert not user.is_dirty
    assert store.get(old).is_new
    assert store.get(user.sid).is_new
    assert "Nobody is logged in any more" in caplog.text
    sid = visitor.sid
    with pytest.raises(SessionStoreUnavailable):
        store.rotate(store.get(sid), None)
    assert store.get(sid)["cart"] == 7


@pytest.mark.parametrize("change", ["save", "rotate softly", "log out", "delete", "revoke"])
def test_what_was_given_up_is_not_done_later(own_redis, make_store, new_session, change):
    """A change that waits in a buffer when Redis hangs undoes nothing when it goes on."""
    store, other = (make_store(own_redis, prefix="odoo") for _node in range(2))
    store.check()  # the server knows the scripts
    session = new_session(store, a=0, uid=2 if change == "log out" else None)
    store.save(session)
    late = store.get(session.sid)
    late.update(a=1, uid=None)
    calls = {
        "save": lambda: store.save(late),
        "rotate softly": lambda: store.rotate(late, None, True),
        "log out": lambda: store.rotate(late, None),
        "delete": lambda: store.delete(late),
        "revoke": lambda: store.delete_from_identifiers([session.sid[:42]]),
    }
    for name in ("execute", "execute_many"):
        setattr(store.server, name, pausing(own_redis, getattr(store.server, name)))
    with pytest.raises(SessionStoreUnavailable):
        calls[change]()
    own_redis.resume()
    own_redis.cli("PING")  # what waited before was read before
    kept = other.get(session.sid)
    assert kept["a"] == 0
    assert "next_sid" not in kept


def test_a_rotation_that_failed_leaves_the_old_session(own_redis, make_store, new_session):
    """A login whose last step hangs: what the browser still has is not taken from it later."""
    store, other = (make_store(own_redis, prefix="odoo") for _node in range(2))
    store.check()
    session = new_session(store, cart=7, uid=None)
    store.save(session)
    sid = session.sid
    session = store.get(sid)
    store.rotate(store.get(saved_sid(store, new_session)), None)  # the server knows the scripts
    execute = store.server.execute

    def hanging(*command):
        if scripts.END.sha in command:
            own_redis.pause()
        return execute(*command)

    store.server.execute = hanging
    with pytest.raises(SessionStoreUnavailable):
        store.rotate(session, None)
    own_redis.resume()
    own_redis.cli("PING")
    assert other.get(sid)["cart"] == 7


def saved_sid(store, new_session):
    session = new_session(store, uid=None)
    store.save(session)
    return session.sid


def test_a_servers_clock_may_be_set(own_redis, make_store, new_session):
    """What a connection knows of it is learnt again: no change is refused for that."""
    store = make_store(own_redis)
    session = new_session(store)
    store.save(session)
    (connection,) = store.server._client._pool._connections
    sock, ahead, until = connection._learnt
    connection._learnt = sock, ahead - 3600, until
    session["a"] = 1
    store.save(session)
    assert store.get(session.sid)["a"] == 1


def connections_of(store):
    return store.server._client._pool._connections


@pytest.mark.parametrize("change", ["save", "create", "touch", "rotate softly"])
def test_what_a_paused_machine_stores_lives_on(own_redis, make_store, new_session, change):
    """It knows Redis' clock as it was; what it stores is not idle from the beginning."""
    store, other = (make_store(own_redis, prefix="odoo", lifetime_of=lambda _s: 900) for _ in "12")
    session = new_session(store, uid=None)
    store.save(session)
    session = store.get(session.sid)
    other.get(session.sid)
    other.server.check(durable=False)
    store.server._client.clock._ahead -= 1200
    for connection in connections_of(store):
        sock, ahead, until_then = connection._learnt
        connection._learnt = sock, ahead - 1200, until_then
    if change == "create":
        session = new_session(store)
        store.save(session)
    elif change == "save":
        session["cart"] = 7
        store.save(session)
    elif change == "touch":
        assert store.touch(session)
    else:
        store.rotate(session, None, True)
    assert not other.get(session.sid).is_new
    assert not store.get(session.sid).is_new


def test_a_clock_that_is_not_redis_own_ends_nothing(own_redis, make_store, new_session):
    """A primary that was ahead has been replaced; this process has not asked the new one yet."""
    store, other = (make_store(own_redis, prefix="odoo", lifetime_of=lambda _s: 900) for _ in "12")
    session = new_session(other)
    other.save(session)
    store.server.check(durable=False)
    store.server._client.clock._ahead += 1200
    store.server.disconnect()
    assert not store.get(session.sid).is_new
    assert not other.get(session.sid).is_new


def test_a_refusal_is_logged_now_and_then(own_redis, make_store, new_session, caplog):
    """Not for each request."""
    caplog.set_level(logging.INFO, "odoo.addons.redis_session_ormcache")
    store = make_store(own_redis)
    own_redis.cli("CONFIG", "SET", "maxmemory", "1")
    for _time in range(20):
        with pytest.raises(SessionStoreUnavailable):
            store.save(new_session(store))
    assert [record.levelno for record in caplog.records] == [logging.WARNING]


def test_tidying_up_can_wait(own_redis, make_store, new_session):
    """A request that only reads is served by a read-only Redis, though siblings are due to go."""
    store = make_store(own_redis)
    session = new_session(store, gc_previous_sessions=True, create_time=0)
    store.save(session)
    session = store.get(session.sid)
    own_redis.cli("REPLICAOF", "127.0.0.1", "1")
    store.delete_old_sessions(session)
    assert session["gc_previous_sessions"]
    assert not session.is_dirty
    own_redis.cli("REPLICAOF", "NO", "ONE")
    store.delete_old_sessions(session)
    assert "gc_previous_sessions" not in store.get(session.sid)


def test_a_wrong_password_is_no_empty_session(tmp_path, make_store):
    """A password changed on the server is an outage; at start it is a wrong setting."""
    with Redis(tmp_path, password="right") as redis:
        store = make_store(SimpleNamespace(url=redis.url.replace("right", "wrong")))
        with pytest.raises(SessionStoreUnavailable):
            store.get("A" * 84)
        with pytest.raises(ConfigurationError, match="refuses the user or password"):
            store.server.check(durable=True)


# -- a node --------------------------------------------------------------------------------------


def assert_unavailable(response):
    assert response.status_code == 503
    assert int(response.headers["Retry-After"]) > 0
    assert "Set-Cookie" not in response.headers
    assert "Traceback" not in response.text
    assert response.elapsed.total_seconds() < TIMEOUT + 2 * MARGIN


def test_a_node_without_redis(fault, make_node, database):
    """Requests that need a session get 503 in time and keep their cookie; what needs none is
    served; afterwards the same cookie works, and websockets come back."""
    node = make_node(fault)
    browser = Browser(database)
    uid = browser.login(node)
    sid = browser.sid
    connection = browser.websocket(node)
    time.sleep(0.5)  # subscribed

    fault.begin()
    assert_unavailable(browser.get(node, "/odoo"))
    assert_unavailable(browser.post(node, "/web/session/get_session_info"))
    for path in ("/web/health", "/web/static/img/favicon.ico"):
        response = browser.get(node, path)
        assert response.status_code == 200
        assert "Set-Cookie" not in response.headers
    connection.send(SUBSCRIBE)
    assert close_code(connection) == 1013  # CloseCode.TRY_LATER: the browser connects again
    assert_unavailable(browser.get(node, "/odoo"))

    fault.end()
    until(lambda: browser.get(node, "/odoo").status_code == 200, "a page", 10)
    assert browser.sid == sid
    assert browser.uid(node) == uid
    assert is_served(browser.websocket(node))
    assert "Traceback" not in node.log.read_text()


@pytest.mark.parametrize("fault", ["paused"], indirect=True)
def test_the_websockets_of_an_evented_process(fault, make_node, database):
    """Many ask at once while Redis hangs: each is told in time to come again. Its loop does not
    wait for that: who asks nothing is served. All come back."""
    node = make_node(fault, workers=1)
    browser = Browser(database)
    browser.login(node)
    idle, *asking = (browser.websocket(node) for _number in range(2 * MAX_CALLS))
    assert all(map(is_served, [idle, *asking]))

    fault.begin()
    start = time.monotonic()
    for connection in asking:
        connection.send(SUBSCRIBE)
    assert is_served(idle)
    assert Counter(map(close_code, asking)) == {1013: len(asking)}
    assert time.monotonic() - start < TIMEOUT + 2 * MARGIN
    with pytest.raises(WebSocketBadStatusException) as refused:
        browser.websocket(node)
    assert refused.value.status_code == 503
    assert is_served(idle)

    fault.end()
    until(lambda: comes_back(browser, node), "a return", 10)
    assert all(is_served(browser.websocket(node)) for _connection in asking)
    idle.send(SUBSCRIBE)
    assert is_served(idle)
    assert "Traceback" not in node.log.read_text()


def comes_back(browser, node):
    with contextlib.suppress(WebSocketBadStatusException):
        return is_served(browser.websocket(node))
    return False


def test_a_login_that_cannot_be_saved_did_not_happen(own_redis, make_node, database, postgres):
    """When the session cannot be saved the transaction is rolled back, without a cookie. A logout
    is done all the same."""
    node = make_node(own_redis)
    logged_in, leaving = Browser(database), Browser(database)
    uid = logged_in.login(node)
    leaving.login(node)
    left = leaving.sid
    logged_in.call(node, "/web/session/check")  # the first one notes the device
    count = "SELECT count(*) FROM res_users_log"
    before = postgres.sql(database, count)
    own_redis.cli("CONFIG", "SET", "maxmemory", "1")
    response = Browser(database).post(
        node, "/web/session/authenticate", db=database, login="admin", password="admin"
    )
    assert_unavailable(response)
    assert postgres.sql(database, count) == before
    assert logged_in.call(node, "/web/session/check") is None  # reading needs no memory
    answer = leaving.get(node, "/web/session/logout")
    assert answer.status_code == 303
    leaving.sid = left
    assert not leaving.is_logged_in(node)
    own_redis.cli("CONFIG", "SET", "maxmemory", "0")
    assert logged_in.uid(node) == uid


def test_a_node_starts_without_redis(tmp_path, make_node, database):
    """A Redis that is down does not stop a node: it answers 503, and recovers."""
    with Redis(tmp_path / "redis") as redis:
        pass
    node = make_node(redis)
    browser = Browser(database)
    browser.sid = "A" * 84
    assert_unavailable(browser.get(node, "/odoo"))
    with redis:
        until(lambda: browser.get(node, "/odoo").status_code != 503, "an answer", 10)
        assert browser.login(node)


def test_an_emptied_redis_asks_to_log_in_again(own_redis, make_node, database):
    """After a restart without its data users see the login page, not an error."""
    node = make_node(own_redis)
    browser = Browser(database)
    browser.login(node)
    own_redis.kill()
    own_redis.start()
    until(lambda: browser.get(node, "/web/health").status_code == 200, "health", 10)
    response = browser.get(node, "/odoo")
    assert response.status_code == 303
    assert "/web/login" in response.headers["Location"]
    assert browser.login(node)


@pytest.mark.parametrize(
    "act",
    [
        lambda store, session: store.save(session),
        lambda store, session: store.rotate(session, None, soft=True),
    ],
    ids=["save", "rotate"],
)
def test_a_rule_that_forbids_reading_ends_no_session(
    own_redis, make_store, new_session, raw_own, act
):
    """An error that tells nothing of a session is not taken for one that is not there."""
    store = make_store(own_redis)
    session = new_session(store)
    store.save(session)
    session["mark"] = "changed"
    raw_own.execute_command("ACL", "SETUSER", "default", "-hget")
    with pytest.raises(SessionStoreUnavailable):
        act(store, session)
    raw_own.execute_command("ACL", "SETUSER", "default", "+hget")
    assert not store.get(session.sid).is_new


@pytest.fixture
def raw_own(own_redis):
    """A plain client of the Redis that a test may break."""
    import redis as driver

    with driver.Redis.from_url(own_redis.url) as client:
        yield client
