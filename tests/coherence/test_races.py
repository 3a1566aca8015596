"""Races between nodes: real processes, let loose at the same moment by a barrier."""

import multiprocessing
import traceback

import pytest
from odoo.http import SESSION_DELETION_TIMER, STORED_SESSION_BYTES

from odoo.addons.redis_session_ormcache.keys import session_place
from odoo.addons.redis_session_ormcache.tests.support.dose import dose

ROUNDS = dose(200, 2_000)
PROCESSES = 8

# What a process does with the session it has read, once all of them are let go.


def rotate(store, session):
    store.rotate(session, None, True)
    return session.sid


def save(store, session):
    session["saved"] = multiprocessing.current_process().name
    store.save(session)


def clean_up(store, session):
    session["create_time"] -= SESSION_DELETION_TIMER + 1
    store.delete_old_sessions(session)


def revoke(store, session):
    store.delete_from_identifiers([session.sid[:STORED_SESSION_BYTES]])


def touch(store, session):
    session.redis_record = session.redis_record._replace(seen=0.0)  # due
    store.touch(session)


def look(store, session):
    """Whether the session was there, each of 20 times."""
    return [not store.get(session.sid).is_new for _ in range(20)]


ACTIONS = {f.__name__: f for f in (rotate, save, clean_up, revoke, touch, look)}


def _process(make_store, redis, prefix, barrier, orders, results):
    store = make_store(redis, prefix=prefix, timeout=10)
    while order := orders.recv():
        name, sid = order
        try:
            session = store.get(sid)
            barrier.wait(30)
            results.send((name, ACTIONS[name](store, session)))
        except Exception:
            results.send(("failed", traceback.format_exc()))


@pytest.fixture
def crew(make_store, redis):
    """Make processes act at once: ``crew(sid, "rotate", "save", ...)`` gives their results."""
    context = multiprocessing.get_context("fork")
    barrier = context.Barrier(PROCESSES)
    prefix = f"race-{id(barrier)}"
    store = make_store(redis, prefix=prefix)
    members = []
    for _number in range(PROCESSES):
        (orders, order), (result, results) = context.Pipe(False), context.Pipe(False)
        process = context.Process(
            target=_process,
            args=(make_store, redis, prefix, barrier, orders, results),
            daemon=True,
        )
        process.start()
        members.append((process, order, result))

    def act(sid, *names):
        for (_process, order, _result), name in zip(members, names, strict=True):
            order.send((name, sid))
        outcome = [result.recv() for _process, _order, result in members]
        failed = [text for name, text in outcome if name == "failed"]
        assert not failed, failed[0]
        return outcome

    act.store = store
    yield act
    for process, order, _result in members:
        order.send(None)
        process.join(10)


def start(crew, new_session):
    session = new_session(crew.store)
    crew.store.save(session)
    return session


def test_soft_rotations_at_once_give_one_successor(crew, new_session, raw):
    """Of 8 processes rotating the same sid one wins, all adopt its sid, and no session is lost."""
    for _round in range(ROUNDS):
        session = start(crew, new_session)
        sids = {sid for _name, sid in crew(session.sid, *["rotate"] * PROCESSES)}
        assert len(sids) == 1
        (successor,) = sids
        assert successor != session.sid
        assert crew.store.get(session.sid)["next_sid"] == successor
        assert crew.store.get(successor)["mark"] == session["mark"]
        old, new = (session_place(crew.store._prefix, sid) for sid in (session.sid, successor))
        assert old.key == new.key
        assert set(raw.hkeys(new.key)) == {old.field.encode(), new.field.encode(), b"issued"}


def test_rotations_against_saves_and_activity(crew, new_session):
    """Saves and activity under the old sid neither undo a rotation nor split it."""
    for _round in range(ROUNDS):
        session = start(crew, new_session)
        outcome = crew(session.sid, *["rotate"] * 4, "save", "save", "touch", "touch")
        sids = {sid for name, sid in outcome if name == "rotate"}
        assert len(sids) == 1
        (successor,) = sids
        assert crew.store.get(session.sid)["next_sid"] == successor
        assert not crew.store.get(successor).is_new


def test_saves_against_delete_old_sessions(crew, new_session):
    """While siblings are dropped the live session is never absent, and its old sid goes."""
    for _round in range(ROUNDS):
        session = start(crew, new_session)
        old = session.sid
        crew.store.rotate(session, None, True)
        outcome = crew(session.sid, *["clean_up"] * 3, *["save"] * 3, "look", "look")
        assert all(all(seen) for name, seen in outcome if name == "look")
        assert crew.store.get(old).is_new
        assert crew.store.get(session.sid)["mark"] == session["mark"]


def test_revocation_against_saves(crew, new_session, raw):
    """Whatever is saved, rotated or noted at that moment, a revoked session does not come back."""
    for _round in range(ROUNDS):
        session = start(crew, new_session)
        crew(session.sid, "revoke", "save", "save", "rotate", "rotate", "clean_up", "touch", "save")
        key = f"{crew.store._prefix}:session:{session.sid[:STORED_SESSION_BYTES]}"
        assert not raw.exists(key)
