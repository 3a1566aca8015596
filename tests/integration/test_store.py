"""Where our store does better than Odoo's: outages, revocation, rotation, timeouts, secrecy."""

import json
import logging
import os
import random
import re
import threading
import time
from pathlib import Path

import pytest
from freezegun import freeze_time
from hypothesis import given, settings
from hypothesis import strategies as st
from odoo.http import SESSION_DELETION_TIMER, STORED_SESSION_BYTES

from odoo.addons.redis_session_ormcache.connection.clock import ServerClock
from odoo.addons.redis_session_ormcache.keys import session_place
from odoo.addons.redis_session_ormcache.sessions import SessionStoreUnavailable
from odoo.addons.redis_session_ormcache.tests.support.cookies import SID, texts
from odoo.addons.redis_session_ormcache.tests.support.dose import dose

WEEK = 7 * 24 * 3600


@pytest.fixture(autouse=True)
def _logged(caplog):
    caplog.set_level(logging.INFO, "odoo.addons.redis_session_ormcache")


def key_of(store, session):
    return session_place(store._prefix, session.sid).key


def saved(store, new_session, **values):
    """A session that is stored, as a request would read it."""
    session = new_session(store, **values)
    store.save(session)
    return store.get(session.sid)


# -- revocation and rotation ---------------------------------------------------------------------


def test_a_revoked_session_does_not_come_back(redis_store, new_session, raw):
    """A request that began before its session was revoked does not save it again."""
    session = saved(redis_store, new_session)
    redis_store.delete_from_identifiers([session.sid[:STORED_SESSION_BYTES]])
    session["late"] = True
    redis_store.save(session)
    assert not session.is_dirty  # or Odoo would send the dead sid as a cookie
    redis_store.touch(session)
    sid = session.sid
    session["late"] = False
    redis_store.rotate(session, None, True)
    assert session.sid == sid
    assert not session.is_dirty
    session["gc_previous_sessions"] = True
    session["create_time"] = 0
    redis_store.delete_old_sessions(session)
    assert redis_store.get(sid).is_new
    assert not raw.exists(key_of(redis_store, session))


def test_a_superseded_sid_does_not_become_live_again(redis_store, new_session):
    """A late save under the old sid is dropped; both sids still lead to the successor."""
    session = saved(redis_store, new_session)
    late = redis_store.get(session.sid)
    redis_store.rotate(session, None, True)
    late["late"] = True
    redis_store.save(late)
    assert not late.is_dirty
    assert redis_store.get(late.sid)["next_sid"] == session.sid
    redis_store.rotate(late, None, True)
    assert late.sid == session.sid


def test_cleaning_up_under_a_superseded_sid_keeps_the_successor(redis_store, new_session):
    """Of three generations, the middle one's late clean-up does not end the newest."""
    session = saved(redis_store, new_session)
    redis_store.rotate(session, None, True)
    before = redis_store.get(session.sid)
    redis_store.rotate(session, None, True)
    after = redis_store.get(before.sid)
    assert after["gc_previous_sessions"]
    for middle in (before, after):
        middle["create_time"] -= SESSION_DELETION_TIMER + 1
        redis_store.delete_old_sessions(middle)
        assert not redis_store.get(session.sid).is_new


def test_logout_ends_the_superseded_sid_too(redis_store, new_session):
    """The sid from before a soft rotation is no way back in after a logout."""
    session = saved(redis_store, new_session)
    old = session.sid
    redis_store.rotate(session, None, True)
    redis_store.rotate(session, None)  # as Session.logout makes it
    assert redis_store.get(old).is_new
    assert not redis_store.get(session.sid).is_new


def test_logout_during_a_rotation_ends_the_successor(redis_store, new_session):
    """A logout that began before another request rotated the session ends it all the same."""
    session = saved(redis_store, new_session)
    leaving = redis_store.get(session.sid)
    redis_store.rotate(session, None, True)
    redis_store.rotate(leaving, None)
    assert redis_store.get(session.sid).is_new
    assert not redis_store.get(leaving.sid).is_new


def test_logout_under_the_old_sid_ends_the_successor(redis_store, new_session):
    """A logout sent with the cookie from before a rotation ends what the rotation made."""
    session = saved(redis_store, new_session)
    old = session.sid
    redis_store.rotate(session, None, True)
    leaving = redis_store.get(old)
    leaving.clear()  # as Session.logout does
    redis_store.rotate(leaving, None)
    assert redis_store.get(session.sid).is_new


def test_the_late_end_of_an_old_sid_logs_nobody_out(redis_store, new_session):
    """Ending a superseded sid whose time ran out leaves the successor."""
    session = saved(redis_store, new_session)
    old = session.sid
    redis_store.rotate(session, None, True)
    with freeze_time() as clock:
        clock.tick(SESSION_DELETION_TIMER + 1)
        late = redis_store.get(old)
        late.clear()
        redis_store.rotate(late, None)
    assert redis_store.get(old).is_new
    assert not redis_store.get(session.sid).is_new


@pytest.mark.parametrize("act", ["save", "log in", "rotate softly"])
def test_who_knows_only_the_identifier_touches_nobody(make_store, redis, new_session, raw, act):
    """As with an old cookie, whose sid was tidied up: he gets a session of his own. That of the
    others lives as long as before, and does not end with his."""
    store = make_store(redis, anonymous_ttl=60)
    owner = saved(store, new_session, uid=2)
    key = key_of(store, owner)
    before = raw.hgetall(key)
    stranger = store.new()  # as Odoo makes it of a cookie that it does not know
    stranger.sid = owner.sid[:42] + "x" * 42
    stranger["cart"] = 7
    if act == "rotate softly":
        store.rotate(stranger, None, soft=True)
    else:
        store.save(stranger)
    assert stranger.sid[:42] != owner.sid[:42]
    if act == "log in":
        store.rotate(stranger, None)
    assert store.get(stranger.sid)["cart"] == 7
    store.delete(stranger)
    assert raw.hgetall(key) == before
    assert raw.ttl(key) > WEEK - 5
    assert not store.get(owner.sid).is_new


def test_a_hard_rotation_that_fails_leaves_the_session(redis_store, new_session, monkeypatch):
    """The new session is stored before the old one goes: there is always one."""
    from odoo.addons.redis_session_ormcache.sessions import scripts

    session = saved(redis_store, new_session)
    old = session.sid

    run = redis_store._run

    def failing(script, *arguments, **options):
        if script is scripts.END:
            raise RuntimeError
        return run(script, *arguments, **options)

    monkeypatch.setattr(redis_store, "_run", failing)
    with pytest.raises(RuntimeError):
        redis_store.rotate(session, None)
    assert not redis_store.get(old).is_new
    assert not redis_store.get(session.sid).is_new


def test_a_busy_session_is_rotated_later(redis_store, new_session, monkeypatch):
    """When others keep changing the record, the session keeps its sid rather than lose a change."""
    session = saved(redis_store, new_session)
    monkeypatch.setattr(redis_store, "_exchange", lambda *_args, **_options: False)
    before = session.sid, dict(session)
    redis_store.rotate(session, None, True)
    assert (session.sid, dict(session)) == before


def test_a_sid_whose_successor_was_never_presented_leads_to_it(redis_store, new_session, raw):
    """The answer of a rotation may be lost: the old sid adopts the issued one, until a browser
    presents that one."""
    old = saved(redis_store, new_session)
    rotated = redis_store.get(old.sid)
    redis_store.rotate(rotated, None, True)
    for _request in range(2):
        assert redis_store.presented(redis_store.get(old.sid)) == rotated.sid
    adopted = redis_store.get(rotated.sid)
    adopted.redis_is_awaited = True
    adopted["create_time"] = 0
    redis_store.delete_old_sessions(adopted)
    adopted["cart"] = 1
    redis_store.save(adopted)
    assert redis_store.presented(redis_store.get(old.sid)) == rotated.sid
    successor = redis_store.get(rotated.sid)
    assert successor["cart"] == 1
    assert redis_store.presented(successor) is None
    assert redis_store.presented(redis_store.get(old.sid)) is None
    successor["create_time"] = 0
    redis_store.delete_old_sessions(successor)
    assert raw.hlen(key_of(redis_store, successor)) == 1


def test_several_rotations_may_be_lost(redis_store, new_session):
    """A sid leads to the last of the sids that were issued and never presented; then a logout ends
    them all."""
    first = saved(redis_store, new_session)
    current = redis_store.get(first.sid)
    for _rotation in range(3):
        redis_store.rotate(current, None, True)
        current = redis_store.get(current.sid)
    assert redis_store.presented(redis_store.get(first.sid)) == current.sid
    redis_store.rotate(current, None, False)
    assert redis_store.get(first.sid).is_new


def test_a_sid_never_leads_to_another_familys(redis_store, new_session, raw):
    """A field that was written by others names nothing that a record does not lead to."""
    old = saved(redis_store, new_session)
    redis_store.rotate(redis_store.get(old.sid), None, True)
    other = saved(redis_store, new_session)
    place = session_place(redis_store._prefix, other.sid)
    for field in (place.field, "", "x" * 32, b"\xff" * 32):
        raw.hset(key_of(redis_store, old), "issued", field)
        assert redis_store.presented(redis_store.get(old.sid)) is None


def test_a_newer_record_is_neither_overwritten_nor_missing(
    redis_store, new_session, raw, monkeypatch, caplog
):
    """During a rolling update a node answers 503 for what only the next release can read."""
    from odoo.addons.redis_session_ormcache.codec import session as codec
    from odoo.addons.redis_session_ormcache.connection import Script
    from odoo.addons.redis_session_ormcache.sessions import scripts

    read_before, session = saved(redis_store, new_session), None
    with monkeypatch.context() as release:
        release.setattr(codec, "WRITTEN", 2)
        release.setattr(codec, "NEWEST", 2)
        script = Script("save", scripts.SAVE.text.replace("> 1 then", "> 2 then"))
        release.setattr(scripts, "SAVE", script)
        session = redis_store.get(read_before.sid)
        session["cart"] = 7
        redis_store.save(session)
        before = raw.hgetall(key_of(redis_store, session))
    for call in (
        lambda: redis_store.get(session.sid),
        lambda: redis_store.save(read_before),
        lambda: redis_store.rotate(read_before, None, True),
    ):
        with pytest.raises(SessionStoreUnavailable):
            call()
    assert "version 2" in caplog.text
    read_before.redis_record = read_before.redis_record._replace(seen=0.0)
    assert redis_store.touch(read_before) is None
    assert raw.hgetall(key_of(redis_store, session)) == before
    assert redis_store.get_missing_session_identifiers([session.sid[:42]]) == set()
    redis_store.delete_from_identifiers([session.sid[:42]])
    assert redis_store.get(session.sid).is_new


# -- timeouts ------------------------------------------------------------------------------------


def test_every_key_has_a_ttl(redis_store, new_session, raw):
    """Whatever a session goes through, its key expires."""

    def check():
        for key in raw.scan_iter(f"{redis_store._prefix}:*"):
            assert 0 < raw.pttl(key) <= WEEK * 1000, key

    session = saved(redis_store, new_session)
    check()
    redis_store.rotate(session, None, True)
    check()
    with freeze_time() as clock:
        clock.tick(3600)
        redis_store.touch(redis_store.get(session.sid))
        check()
    session["create_time"] = 0
    redis_store.delete_old_sessions(session)
    check()
    redis_store.rotate(session, None)
    check()
    assert list(raw.scan_iter(f"{redis_store._prefix}:*"))


def test_the_timeout_is_the_databases_own(make_store, redis, new_session, raw):
    """Sessions of two databases live as long as each of them says."""
    lifetimes = {"a": 100, "b": 2000}
    store = make_store(redis, lifetime_of=lambda session: lifetimes.get(session.db))
    for db, lifetime in lifetimes.items():
        session = saved(store, new_session, db=db)
        assert lifetime - 5 <= raw.ttl(key_of(store, session)) <= lifetime


def test_a_vacuum_of_one_database_leaves_the_others(redis_store, new_session, monkeypatch):
    """Odoo runs it per database, with that database's timeout."""
    monkeypatch.setattr(threading.current_thread(), "dbname", "a", raising=False)
    with freeze_time() as clock:
        one, two = (saved(redis_store, new_session, db=db) for db in "ab")
        clock.tick(100)
        redis_store.vacuum(60)
        assert redis_store.get(one.sid).is_new
        assert not redis_store.get(two.sid).is_new


def test_a_vacuum_shortens_no_new_session(redis_store, new_session, raw):
    """Sessions without a database do not inherit the timeout of whichever database was vacuumed."""
    redis_store.vacuum(60)
    session = saved(redis_store, new_session, db=None)
    assert raw.ttl(key_of(redis_store, session)) > WEEK - 5


def test_anonymous_sessions_have_their_own_timeout(make_store, redis, new_session, raw):
    """Who did not log in may be forgotten sooner; who is waiting for a second factor has not."""
    store = make_store(redis, anonymous_ttl=50)
    anonymous = saved(store, new_session)
    waiting = saved(store, new_session, pre_uid=2)
    user = saved(store, new_session, uid=2)
    assert raw.ttl(key_of(store, anonymous)) <= 50
    assert raw.ttl(key_of(store, waiting)) <= 50
    assert raw.ttl(key_of(store, user)) > WEEK - 5


def test_activity_extends_a_session_without_touching_its_content(redis_store, new_session, raw):
    """Noting activity writes the TTL and the time, and undoes no concurrent save."""
    session = saved(redis_store, new_session)
    key = key_of(redis_store, session)
    raw.expire(key, 1000)
    with freeze_time() as clock:
        clock.tick(120)
        session["unsaved"] = True
        session["context"]["unsaved"] = True
        redis_store.touch(session)
        assert raw.ttl(key) > WEEK - 5
        found = redis_store.get(session.sid)
        assert "unsaved" not in found
        assert "unsaved" not in found["context"]

        clock.tick(120)
        other = redis_store.get(session.sid)
        other["cart"] = 7
        redis_store.save(other)
        redis_store.touch(found)
        assert redis_store.get(session.sid)["cart"] == 7


def test_activity_is_coalesced(redis_store, new_session, raw):
    """Many requests at once write once a minute, not once each."""
    with freeze_time() as clock:
        sid = saved(redis_store, new_session).sid
        writes = set()
        for _second in range(180):
            clock.tick(1)
            session = redis_store.get(sid)
            redis_store.touch(session)
            writes.add(raw.hgetall(key_of(redis_store, session)).popitem())
        assert len(writes) <= 4


def test_a_lowered_timeout_ends_idle_sessions(redis_store, new_session):
    """A database's new, shorter timeout applies to sessions that were idle before."""
    with freeze_time() as clock:
        idle = saved(redis_store, new_session)
        clock.tick(3600)
        redis_store.learn("prod", 600)
        assert redis_store.get(idle.sid).is_new


def test_an_old_memory_of_a_short_timeout_ends_nothing(redis_store, new_session):
    """What a process learnt before the timeout was raised counts against no newer activity."""
    with freeze_time() as clock:
        redis_store.learn("prod", 60)
        clock.tick(10)
        redis_store.learn("prod", WEEK)  # as another node knows by now
        session = saved(redis_store, new_session)
        redis_store.learn("prod", 60)  # as a request tells that began before it was raised
        clock.tick(600)
        assert not redis_store.get(session.sid).is_new


def test_a_clock_that_is_set_back_ends_nothing(redis_store, new_session):
    """What was learnt in a future that is none is as old as now."""
    with freeze_time() as clock:
        clock.tick(3600)
        redis_store.learn("prod", 600)
        clock.tick(-3600)
        session = saved(redis_store, new_session)
        assert not redis_store.get(session.sid).is_new


@pytest.mark.parametrize("lifetime", [0, -5, 0.4, 10**18])
def test_a_nonsensical_timeout_is_bounded(make_store, redis, new_session, raw, lifetime):
    """Redis would delete a key with such a TTL at once, or keep it without one."""
    store = make_store(redis, lifetime_of=lambda session: lifetime)
    session = saved(store, new_session)
    assert raw.pttl(key_of(store, session)) > 0


# -- what Redis holds opens no door --------------------------------------------------------------

SECRETS = {
    "login": "admin@secret.example",
    "session_token": "tok3n" * 12,
    "_csrf": "csrf-s3cret",
    "webauthn_challenge": "chall3nge",
}


def test_nothing_secret_is_readable(redis_store, new_session, raw):
    """A dump shows the database, the uid and times: no sid, no token, no login, no content."""
    session = saved(redis_store, new_session, uid=7, **SECRETS)
    old = session.sid
    successor_secret = "n" * 42
    session["next_sid"] = old[:STORED_SESSION_BYTES] + successor_secret
    redis_store.save(session)
    key = key_of(redis_store, session)
    dump = key.encode() + b"".join(sum(raw.hgetall(key).items(), ()))
    for secret in (*SECRETS.values(), old, old[STORED_SESSION_BYTES:], successor_secret):
        assert secret.encode() not in dump
        assert json.dumps(secret).encode() not in dump
    assert b' 7 "prod"\n' in dump


def test_a_record_moved_elsewhere_is_refused(redis_store, new_session, raw, caplog):
    """Neither another identifier nor another field of the same hash accepts a copied record."""
    mine, victim = saved(redis_store, new_session, uid=1), saved(redis_store, new_session, uid=2)
    places = [session_place(redis_store._prefix, session.sid) for session in (mine, victim)]
    value = raw.hget(places[1].key, places[1].field)
    raw.hset(places[0].key, places[0].field, value)
    assert redis_store.get(mine.sid).is_new
    assert "is refused" in caplog.text
    raw.rename(places[1].key, places[0].key)
    assert redis_store.get(mine.sid).is_new
    redis_store.rotate(old := saved(redis_store, new_session), None, True)
    assert not redis_store.get(old.sid).is_new


def test_mutated_hashes_are_refused(redis_store, new_session, raw, caplog, seed):
    """1,000 random changes of a stored session: missing and logged, or, if the change only took
    the field away, missing; never accepted, never an exception."""
    chance = random.Random(seed)
    session = saved(redis_store, new_session, uid=2)
    place = session_place(redis_store._prefix, session.sid)
    good = raw.hget(place.key, place.field)
    for _round in range(1000):
        value = bytearray(good)
        kind = chance.randrange(5)
        if kind == 0:
            value[chance.randrange(len(value))] ^= 1 << chance.randrange(8)
        elif kind == 1:
            del value[chance.randrange(len(value)) :]
        elif kind == 2:
            value.insert(chance.randrange(len(value) + 1), chance.randrange(256))
        elif kind == 3:
            value[:] = chance.randbytes(chance.randrange(200))
        else:
            start, end = sorted(chance.sample(range(len(value)), 2))
            value[start:end] = value[start:end][::-1]
        if bytes(value) == good:
            continue
        raw.hset(place.key, place.field, bytes(value))
        caplog.clear()
        redis_store._last_refused = "", None  # the same bytes are told once
        if re.match(rb"(?!1 )[1-9]\d{0,8} \w+ ", value):  # a newer release may know what it is
            with pytest.raises(SessionStoreUnavailable):
                redis_store.get(session.sid)
            continue
        assert redis_store.get(session.sid).is_new
        assert "is refused" in caplog.text
        assert session.sid not in caplog.text
    raw.hset(place.key, place.field, good)
    assert not redis_store.get(session.sid).is_new


@pytest.mark.parametrize("kind", ["set", "rpush", "sadd"])
def test_another_type_under_the_key_is_refused_and_replaced(
    redis_store, new_session, raw, caplog, kind
):
    """A key that holds no hash counts as no session, and a new one takes its place."""
    session = saved(redis_store, new_session)
    key = key_of(redis_store, session)
    raw.delete(key)
    getattr(raw, kind)(key, "x")
    assert redis_store.get(session.sid).is_new
    assert "is refused" in caplog.text
    fresh = redis_store.new()
    fresh.sid = session.sid
    fresh["a"] = 1
    redis_store.save(fresh)
    assert redis_store.get(session.sid)["a"] == 1
    raw.delete(key)
    getattr(raw, kind)(key, "x")
    redis_store.delete(fresh)
    assert not raw.exists(key)


# -- hostile cookies -----------------------------------------------------------------------------

HOSTILE = st.one_of(
    st.text(),
    texts("*?[]^-../\0\n\r %{}", 80, 90),
    texts(SID, 80, 90),
    texts(SID, 80, 90).map(lambda sid: sid + "\n"),
    texts(SID, 84, 84),
    st.sampled_from(["../" * 28, "A" * 84 + "\n", "A" * 83 + "\0", "é" * 84, "*" * 84, ""]),
)


@settings(max_examples=dose(2_000, 10_000), deadline=None)
@given(HOSTILE)
def test_hostile_sids_never_reach_redis(hostile):
    """What is not a sid gives a new session, and Redis is not asked."""
    from odoo.addons.redis_session_ormcache.sessions import RedisSessionStore, ServerSecrets

    class Watched:
        clock = ServerClock("none")

        def execute(self, *command):
            assert command[0] == "HGET"
            self.evaluate(None, *command[1:], "")

        def evaluate(self, _script, key, _field, proof):
            assert len(hostile) == 84
            assert set(hostile) <= set(SID)
            assert key == f"odoo:session:{hostile[:STORED_SESSION_BYTES]}"
            return [proof.encode(), None]

    store = RedisSessionStore(Watched(), prefix="odoo", secrets=ServerSecrets("", read=str))
    session = store.get(hostile)
    assert session.is_new
    assert session.sid != hostile


# -- addons that know of files -------------------------------------------------------------------


@pytest.fixture
def served(make_store, redis, new_session):
    """A store, and the session of the request at hand, which was active an hour ago."""
    at_hand = []
    store = make_store(redis, session_at_hand=lambda: at_hand[-1] if at_hand else None)
    with freeze_time() as clock:
        clock.tick(-3600)
        session = saved(store, new_session)
    at_hand.append(store.get(session.sid))
    return store, at_hand


def test_the_file_of_a_session_has_the_time_of_its_activity(served):
    """Of what all nodes know, not of a file of this node; and nothing of the session is in it."""
    store, (session,) = served
    path = store.get_session_filename(session.sid)
    assert store.get_session_filename(session.sid) == path
    assert os.path.getmtime(path) == pytest.approx(time.time() - 3600, abs=2)
    content = Path(path).read_text()
    assert "Redis" in content
    assert session.sid not in content
    assert session["db"] not in content
    session.redis_activity = None
    assert not os.path.exists(path)


def test_a_request_that_does_not_set_the_files_time_is_no_activity(served):
    """The addon has its reasons: a path that is asked again and again, by nobody."""
    store, at_hand = served
    seen = at_hand[0].redis_record.seen
    store.get_session_filename(at_hand[0].sid)
    assert store.touch(at_hand[0]) is None
    at_hand.append(store.get(at_hand[0].sid))
    assert at_hand[1].redis_record.seen == seen
    os.utime(store.get_session_filename(at_hand[1].sid))
    assert store.touch(at_hand[1])
    assert store.get(at_hand[0].sid).redis_record.seen > seen + 3000


def test_activity_is_noted_to_the_second_where_a_file_is_asked_for(served):
    """The addon's timeout may be shorter than what is left out otherwise."""
    store, at_hand = served
    store.touch(at_hand[0])
    with freeze_time() as clock:
        clock.tick(2)
        at_hand.append(store.get(at_hand[0].sid))
        os.utime(store.get_session_filename(at_hand[1].sid))
        assert store.touch(at_hand[1])
        assert not store.touch(store.get(at_hand[0].sid))


def test_a_file_that_is_removed_is_no_activity(served):
    """Nor an error at the end of the request."""
    store, (session,) = served
    os.unlink(store.get_session_filename(session.sid))
    assert store.touch(session) is None
    session.redis_activity = None


@pytest.mark.parametrize("ask", ["other", "outside"])
def test_another_sessions_file_is_refused(served, new_session, ask):
    """To unlink it, or to read it, would not be what the addon means."""
    store, at_hand = served
    sid = saved(store, new_session).sid if ask == "other" else at_hand.pop().sid
    with pytest.raises(NotImplementedError, match="sessions are in Redis, not in files"):
        store.get_session_filename(sid)


def test_what_only_files_have_is_refused_with_the_reason(redis_store):
    """As an attribute that is not there, for those who ask whether it is."""
    for name in ("path", "filename_template", "mode"):
        assert not hasattr(redis_store, name)
        with pytest.raises(AttributeError, match=f"in Redis, not in files: {name} cannot be had"):
            getattr(redis_store, name)
    with pytest.raises(AttributeError, match="no attribute nothing"):
        redis_store.nothing  # noqa: B018
