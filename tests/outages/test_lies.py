"""Answers that are well formed and wrong, as of a proxy that is not what it seems."""

import pytest

from odoo.addons.redis_session_ormcache.sessions import SessionStoreUnavailable, scripts
from stack.servers import LyingProxy

LIES = {
    "an integer": b":5\r\n",
    "nothing": b"$-1\r\n",
    "an empty text": b"$0\r\n\r\n",
    "OK": b"+OK\r\n",
    "an empty array": b"*0\r\n",
    "an array": b"*2\r\n:1\r\n:2\r\n",
    "another array": b"*2\r\n$5\r\nproof\r\n$-1\r\n",
    "taken": b"$5\r\ntaken\r\n",
    "WRONGTYPE": b"-WRONGTYPE Operation against a key holding the wrong kind of value\r\n",
    "NOSCRIPT": b"-NOSCRIPT No matching script. Please use EVAL.\r\n",
    "an error": b"-ERR unknown\r\n",
    "no permission": b"-NOPERM this user has no permissions\r\n",
}
SCRIPTS = {
    name: value for name, value in vars(scripts).items() if isinstance(value, scripts.Script)
}
ABOUT = ["HGET", "TIME", "EXISTS", "EVAL", *SCRIPTS]


@pytest.fixture(scope="module")
def lying(redis):
    """A proxy that does not pass on the commands about which it lies."""
    with LyingProxy(redis.port, forwards=False) as proxy:
        yield proxy


@pytest.mark.parametrize("lie", LIES)
@pytest.mark.parametrize("about", ABOUT)
def test_a_wrong_answer_is_no_answer(about, lie, lying, redis, make_store, new_session):
    """No session is taken for missing, or replaced by another one; what was not done is not said to
    be done; nothing is raised but what is answered by 503."""
    honest = make_store(redis)
    store = make_store(lying, prefix=honest._prefix)
    name = SCRIPTS[about].sha if about in SCRIPTS else about

    def is_done(call, *arguments):
        store.server.disconnect()  # a new connection asks for the time again
        lying.lies[name] = LIES[lie]
        try:
            call(*arguments)
        except SessionStoreUnavailable:
            return False
        finally:
            lying.lies.clear()
            store.server.disconnect()
        return True

    def stored(**values):
        session = new_session(honest, **values)
        honest.save(session)
        return store.get(session.sid)

    def cart(sid):
        session = honest.get(sid)
        return None if session.is_new else session["cart"]

    session, found = stored(cart=1), []
    if is_done(lambda: found.append(store.get(session.sid))):
        assert found[0]["cart"] == 1
    sid = session.sid
    session["cart"] = 2
    done = is_done(store.save, session)
    assert cart(sid) == (2 if done else 1)

    for soft in (True, False):
        session = stored(cart=1, uid=None)
        old = session.sid
        if is_done(store.rotate, session, None, soft):
            assert cart(session.sid) == 1
        else:
            assert cart(old) == 1

    session = stored(cart=1, uid=2)
    old = session.sid
    session.clear()
    done = is_done(store.rotate, session, None)  # a logout
    assert cart(old) == (None if done else 1)

    session = stored(cart=1)
    done = is_done(store.delete, session)
    assert cart(session.sid) == (None if done else 1)

    session, found = stored(cart=1), []
    identifiers = [session.sid[:42]]
    if is_done(lambda: found.append(store.get_missing_session_identifiers(identifiers))):
        assert found == [set()]
    done = is_done(store.delete_from_identifiers, identifiers)
    assert cart(session.sid) == (None if done else 1)
