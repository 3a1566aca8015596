"""A request at work is activity of its session from its beginning to its end."""

import os
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import requests
from odoo.http import STORED_SESSION_BYTES

from odoo.addons.redis_session_ormcache.sessions.at_work import RequestsAtWork
from odoo.addons.redis_session_ormcache.tests.support.browser import Browser, is_served
from stack.provision import environment
from stack.servers import LOAD, until

TIMEOUT = 4  # seconds
LONG = 5.5  # seconds, of a request
PATHS = {
    **dict.fromkeys(("alone", "with a tab", "revoked"), f"work?seconds={LONG}&value=7"),
    "not saved": f"not_saved?seconds={LONG}",
}


# -- in this process -------------------------------------------------------------------------------


@pytest.fixture
def store(make_store, own_redis):
    """Of sessions that live for a second."""
    return make_store(own_redis, lifetime_of=lambda session: 1)


@pytest.fixture
def at_work(store):
    return RequestsAtWork(store)


@pytest.fixture
def session(store, new_session):
    """As a request reads it."""
    made = new_session(store, uid=2)
    store.save(made)
    return store.get(made.sid)


@pytest.fixture
def request_of(at_work):
    """Begin a request of a session in this thread; a function that ends it."""

    def begin(session):
        outer = at_work.enter()
        at_work.begin(session)
        return lambda: at_work.leave(outer)

    return begin


def threads():
    return [thread for thread in threading.enumerate() if thread.name == "redis-at-work"]


def test_a_session_lives_as_long_as_its_request(store, session, request_of):
    """And ends a timeout later."""
    end = request_of(session)
    time.sleep(1.7)
    assert store.get(session.sid).uid == 2
    end()
    time.sleep(1.1)
    assert store.get(session.sid).is_new


def test_a_redis_that_was_away_is_asked_again(make_store, own_redis, new_session):
    """When activity was to be noted it did not answer."""
    store = make_store(own_redis, lifetime_of=lambda session: 4, timeout=0.2)
    session, at_work = new_session(store, uid=2), RequestsAtWork(store)
    store.save(session)
    outer = at_work.enter()
    at_work.begin(store.get(session.sid))
    time.sleep(1.8)
    own_redis.pause()
    time.sleep(0.7)
    own_redis.resume()
    time.sleep(1.8)
    at_work.leave(outer)
    assert store.get(session.sid).uid == 2


def test_a_session_that_was_idle_for_long_is_noted_before_its_time_is_over(
    store, session, request_of
):
    """A request that begins late in the timeout has less than half of it."""
    time.sleep(0.7)
    session = store.get(session.sid)
    end = request_of(session)
    time.sleep(0.6)
    end()
    assert store.get(session.sid).uid == 2


def test_a_revoked_session_stays_revoked(store, session, request_of, at_work):
    """Nothing more is kept for it."""
    end = request_of(session)
    store.delete_from_identifiers([session.sid[:STORED_SESSION_BYTES]])
    time.sleep(0.8)
    assert len(at_work) == 0
    assert store.get(session.sid).is_new
    end()


@pytest.mark.parametrize("rotated", ["before", "meanwhile"])
def test_a_session_that_was_rotated_is_kept_under_its_new_sid(
    store, new_session, request_of, env, rotated
):
    """By another request, after this one was sent."""
    session = new_session(store)
    store.save(session)
    read, other = store.get(session.sid), store.get(session.sid)
    if rotated == "before":
        store.rotate(other, env, soft=True)
        read = store.get(session.sid)
    end = request_of(read)
    if rotated == "meanwhile":
        store.rotate(other, env, soft=True)
    time.sleep(1.7)
    end()
    assert store.get(other.sid)["mark"] == session["mark"]


def test_a_sid_that_is_of_no_use_any_more_keeps_nothing(
    store, new_session, request_of, env, monkeypatch
):
    """It was superseded long ago."""
    monkeypatch.setattr("odoo.http.SESSION_DELETION_TIMER", -1)
    session = new_session(store)
    store.save(session)
    other = store.get(session.sid)
    store.rotate(other, env, soft=True)
    end = request_of(store.get(session.sid))
    time.sleep(1.2)
    end()
    assert store.get(other.sid).is_new


def test_what_another_request_saved_stays(store, session, request_of):
    """Activity is noted of what is stored by then."""
    end = request_of(session)
    other = store.get(session.sid)
    other["basket"] = 7
    store.save(other)
    time.sleep(1.7)
    end()
    assert store.get(session.sid)["basket"] == 7


def test_the_end_of_a_request_notes_activity_too(store, session, request_of, at_work):
    """It knows what was noted for it meanwhile."""
    read = session.redis_record
    end = request_of(session)
    time.sleep(0.7)
    assert session.redis_record is read  # another thread changes nothing of it
    at_work.adopt(session)
    noted = session.redis_record
    assert noted.seen > read.seen
    time.sleep(0.1)
    assert store.touch(session)
    assert store.get(session.sid).redis_record.seen > noted.seen
    end()


def test_a_request_that_saves_no_session_is_no_activity(store, session, request_of):
    """Nor is one whose addon has not set the time of its file."""
    session.can_save = False
    end = request_of(session)
    session.can_save = True  # of its route
    end_of_other = request_of(store.get(session.sid))
    store._session_at_hand = lambda: session
    store.get_session_filename(session.sid)
    end_of_other()
    time.sleep(1.1)
    end()
    assert store.get(session.sid).is_new


def test_a_file_that_was_touched_is_activity(store, session, request_of):
    """Of the same kind of addon."""
    store._session_at_hand = lambda: session
    path = store.get_session_filename(session.sid)
    end = request_of(session)
    os.utime(path)
    time.sleep(1.7)
    end()
    assert store.get(session.sid).uid == 2


def test_short_requests_wake_nobody(make_store, redis, new_session, monkeypatch):
    """A thread waits for the first that takes long, and no process has two."""
    store = make_store(redis)
    made = new_session(store, uid=2)
    store.save(made)
    at_work, woken, before = RequestsAtWork(store), [], set(threads())
    monkeypatch.setattr(at_work, "_wake", lambda due, wake=at_work._wake: woken.append(wake(due)))
    for session in [store.get(made.sid) for _time in range(100)]:
        outer = at_work.enter()
        at_work.begin(session)
        at_work.leave(outer)
    assert len(woken) == 1
    assert len(set(threads()) - before) == 1
    assert len(at_work) == 0


def test_a_fork_has_nothing_at_work(store, session, request_of, at_work):
    """And a thread of its own when it needs one."""
    end = request_of(session)
    time.sleep(0.1)
    child = os.fork()
    if not child:  # pragma: no cover
        found = len(at_work), len(threads()), at_work._thread
        os._exit(0 if found == (0, 0, None) else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert len(at_work) == 1
    end()


# -- on nodes --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def redis(module_redis):
    return module_redis


@pytest.fixture(scope="module")
def nodes(make_node, redis):
    """A threaded and a prefork node."""
    config = {"addons_path": f"{environment.addons_path()},{environment.CHECKOUT}/dev/addons"}
    options = {"config": config, "load": f"{LOAD},request_probe"}
    made = [
        make_node(redis, workers=workers, start=False, **options).launch() for workers in (0, 3)
    ]
    return [node.wait() for node in made]


def test_a_long_request_keeps_its_session_and_its_changes(nodes, database, redis, make_store):
    """On a threaded and a prefork node; another tab is served meanwhile. What is idle, or is no
    activity, ends; what was revoked stays so."""
    store = make_store(redis, prefix="odoo", lifetime_of=lambda session: TIMEOUT)
    users = [
        (name, node, Browser(database))
        for name in ("alone", "with a tab", "idle", "revoked", "not saved")
        for node in nodes[: 1 if name in ("revoked", "not saved") else 2]
    ]
    by_name = {(name, node): browser for name, node, browser in users}
    with ThreadPoolExecutor(len(users)) as pool:
        list(pool.map(lambda user: user[2].login(user[1]), users))
        list(pool.map(lambda user: user[2].get(user[1], "/request/work"), users))
        for browser in by_name.values():  # the first requests may take longer than the timeout
            store.save(store.get(browser.sid))
        began = time.monotonic()
        answers = [
            pool.submit(browser.get, node, f"/request/{path}")
            for name, node, browser in users
            if (path := PATHS.get(name))
        ]
        time.sleep(1)
        revoked = by_name["revoked", nodes[0]].sid[:STORED_SESSION_BYTES]
        store.delete_from_identifiers([revoked])
        time.sleep(began + TIMEOUT + 0.5 - time.monotonic())
        for node in nodes:
            tab = Browser(database)
            tab.sid = by_name["with a tab", node].sid
            assert tab.is_logged_in(node)
            assert not by_name["idle", node].is_logged_in(node)
        assert {answer.result().text for answer in answers} == {"2", "2 None"}
    for node in nodes:
        for name in ("alone", "with a tab"):
            assert by_name[name, node].get(node, "/request/work").text == "2 7"
    assert not by_name["not saved", nodes[0]].is_logged_in(nodes[0])
    assert store.get_missing_session_identifiers([revoked])


ENDS = (
    *("well", "error", "denied", "abort", "missing", "expired", "exit", "retry", "broken"),
    *("redirect", "stream"),
)


def test_nothing_is_at_work_when_requests_have_ended(nodes, database):
    """However they did, and whether the client has waited for it; a websocket is not at work."""
    node = nodes[0]

    def end(number):
        browser = Browser(database)
        if number % 2:
            browser.login(node)
        else:
            browser.get(node, "/web/login")
        kind, how = ("end", "call")[number // 2 % 2], ENDS[number // 4]
        try:
            if kind == "end":
                browser.get(node, f"/request/end/{how}")
            else:
                browser.post(node, f"/request/call/{how}")
        except requests.RequestException:  # it was cut
            assert how in ("exit", "stream")

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(end, range(4 * len(ENDS))))
    browser = Browser(database)
    browser.login(node)
    with socket.create_connection(("127.0.0.1", node.port)) as client:
        head = f"GET /request/work?seconds=0.5 HTTP/1.1\r\nHost: {node.address}\r\n"
        client.sendall(f"{head}Cookie: session_id={browser.sid}\r\n\r\n".encode())
        time.sleep(0.3)
        assert Browser(database).get(node, "/request/at_work").text == "1 1"
    time.sleep(0.5)
    connection = browser.websocket(node)
    until(lambda: is_served(connection), "an answer to a ping")
    assert Browser(database).get(node, "/request/at_work").text == "0 1"
    connection.close()
