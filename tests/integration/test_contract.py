"""What Odoo's callers rely on: the same calls on Odoo's store and on ours, the same results."""

import time
from unittest.mock import patch

import pytest
from freezegun import freeze_time
from odoo.http import SESSION_DELETION_TIMER, STORED_SESSION_BYTES

from odoo.addons.redis_session_ormcache.tests.support.topologies import TOPOLOGIES

UNKNOWN = "A" * 84

# Odoo's own store, then ours, on one Redis after the other.
pytestmark = pytest.mark.parametrize("store", ["filesystem", "redis", *TOPOLOGIES], indirect=True)


def identifier(session):
    return session.sid[:STORED_SESSION_BYTES]


def test_new_is_new_and_falsy(store):
    """A new session has a valid sid, is new, and is empty (bus takes empty for «expired»)."""
    session = store.new()
    assert store.is_valid_key(session.sid)
    assert session.is_new
    assert not session


def test_keys_differ(store):
    """Two generated keys are never the same, and valid."""
    keys = {store.generate_key() for _ in range(1000)}
    assert len(keys) == 1000
    assert all(map(store.is_valid_key, keys))


def test_get_of_missing_is_new_with_another_sid(store):
    """A missing session is a new one, under a sid that the browser did not choose."""
    session = store.get(UNKNOWN)
    assert session.is_new
    assert not session
    assert session.sid != UNKNOWN


def test_get_gives_what_was_saved(store, new_session):
    """All JSON types come back as they went in, and the session is clean and not new."""
    values = {
        "text": "é\n☃\U0001f600",
        "numbers": [0, -1, 2**70, 1.5, float("inf")],
        "nested": {"list": [True, False, None], "empty": {}},
    }
    session = new_session(store, **values)
    store.save(session)
    found = store.get(session.sid)
    assert dict(found) == dict(session)
    assert found.sid == session.sid
    assert not found.is_new
    assert not found.is_dirty
    assert found.can_save
    assert not found.should_rotate


def test_nested_changes_are_saved(store, new_session):
    """A change inside a value, which no setter sees, is saved; keys become strings."""
    session = new_session(store, cart={"lines": []})
    store.save(session)
    session["cart"]["lines"].append({1: (2, 3)})
    store.save(session)
    assert store.get(session.sid)["cart"] == {"lines": [{"1": [2, 3]}]}


def test_reading_twice_gives_two_objects(store, new_session):
    """What one request does to its session is not seen by another before it is saved."""
    session = new_session(store, cart=[])
    store.save(session)
    one, two = store.get(session.sid), store.get(session.sid)
    one["cart"].append("x")
    one["new"] = 1
    assert two["cart"] == []
    assert "new" not in store.get(session.sid)


def test_save_of_what_is_not_json_raises(store, new_session):
    """A value that is not JSON is refused, and what was saved before remains."""
    session = new_session(store, cart=[])
    store.save(session)
    session["cart"].append(object())
    with pytest.raises(TypeError):
        store.save(session)
    assert store.get(session.sid)["cart"] == []


@pytest.mark.parametrize("method", ["save", "delete"])
def test_invalid_sid_is_refused(store, new_session, method):
    """A session whose sid is not one is neither saved nor deleted."""
    session = new_session(store)
    session.sid = "../../etc/passwd"
    with pytest.raises(ValueError, match="nvalid session id"):
        getattr(store, method)(session)


def test_last_save_wins(store, new_session):
    """Of two saves of one session the second is kept."""
    session = new_session(store)
    store.save(session)
    one, two = store.get(session.sid), store.get(session.sid)
    one["a"], two["b"] = 1, 2
    store.save(one)
    store.save(two)
    found = store.get(session.sid)
    assert "a" not in found
    assert found["b"] == 2


def test_delete(store, new_session):
    """A deleted session is missing; deleting it again does nothing."""
    session, other = new_session(store), new_session(store)
    store.save(session)
    store.save(other)
    store.delete(session)
    store.delete(session)
    assert store.get(session.sid).is_new
    assert not store.get(other.sid).is_new


def test_hard_rotation(store, new_session):
    """A hard rotation changes the whole sid, and the old one is missing."""
    session = new_session(store)
    store.save(session)
    old, mark = session.sid, session["mark"]
    session.should_rotate = True
    before = time.time()
    store.rotate(session, None)
    assert session.sid[:STORED_SESSION_BYTES] != old[:STORED_SESSION_BYTES]
    assert not session.should_rotate
    assert store.get(old).is_new
    found = store.get(session.sid)
    assert found["mark"] == mark
    assert found["create_time"] >= before


def test_soft_rotation(store, new_session):
    """A soft rotation keeps the identifier, and the old sid leads to the next."""
    session = new_session(store)
    store.save(session)
    old = session.sid
    session = store.get(old)
    store.rotate(session, None, True)
    assert session.sid != old
    assert session.sid[:STORED_SESSION_BYTES] == old[:STORED_SESSION_BYTES]
    assert session["gc_previous_sessions"] is True
    assert not {"next_sid", "deletion_time"} & set(session)
    assert dict(store.get(session.sid)) == dict(session)
    previous = store.get(old)
    assert previous["next_sid"] == session.sid
    assert previous["mark"] == session["mark"]
    left = previous["deletion_time"] - time.time()
    assert SESSION_DELETION_TIMER - 5 < left <= SESSION_DELETION_TIMER


def test_soft_rotation_of_a_superseded_sid_adopts(store, new_session):
    """Who rotates a sid that was rotated already gets the sid that was made then."""
    session = new_session(store)
    store.save(session)
    one, two = store.get(session.sid), store.get(session.sid)
    store.rotate(one, None, True)
    store.rotate(two, None, True)
    assert two.sid == one.sid
    three = store.get(session.sid)
    store.rotate(three, None, True)
    assert three.sid == one.sid


@pytest.mark.parametrize("soft", [False, True])
def test_rotation_renews_the_token(store, new_session, env, soft):
    """The session of a user gets the token of its new sid, which needs an environment."""
    uid = env.ref("base.user_admin").id
    session = new_session(store, uid=uid, db=env.cr.dbname)
    store.save(session)
    session = store.get(session.sid)
    store.rotate(session, env, soft)
    token = env["res.users"].browse(uid)._compute_session_token(session.sid)
    assert session.session_token == token
    assert store.get(session.sid).session_token == token
    with pytest.raises(AssertionError, match="requires an environment"):
        store.rotate(session, None, soft)


def test_delete_old_sessions_waits(store, new_session):
    """The sid that a soft rotation left is kept while requests may still use it."""
    session = new_session(store)
    store.save(session)
    old = session.sid
    store.rotate(session, None, True)
    store.delete_old_sessions(session)
    assert store.get(old)["next_sid"] == session.sid
    assert session["gc_previous_sessions"]


def test_delete_old_sessions(store, new_session):
    """Later it is dropped, and the live one stays."""
    session = new_session(store)
    store.save(session)
    old = session.sid
    store.rotate(session, None, True)
    session["create_time"] -= SESSION_DELETION_TIMER + 1
    store.delete_old_sessions(session)
    assert store.get(old).is_new
    found = store.get(session.sid)
    assert not found.is_new
    assert "gc_previous_sessions" not in found


def test_missing_identifiers(store, new_session):
    """Only identifiers without any session are missing; a soft-rotated pair counts once."""
    sessions = [new_session(store) for _ in range(3)]
    for session in sessions:
        store.save(session)
    store.rotate(sessions[0], None, True)
    store.delete(sessions[2])
    asked = {identifier(session) for session in sessions} | {"B" * 42, "", "x*"}
    assert store.get_missing_session_identifiers(asked) == {
        identifier(sessions[2]), "B" * 42, "", "x*",
    }  # fmt: skip
    assert store.get_missing_session_identifiers(iter(())) == set()


def test_delete_from_identifiers(store, new_session):
    """All sids of an identifier go, and no others."""
    session, other = new_session(store), new_session(store)
    store.save(session)
    store.save(other)
    old = session.sid
    store.rotate(session, None, True)
    store.delete_from_identifiers([identifier(session), "C" * 42])
    assert store.get(old).is_new
    assert store.get(session.sid).is_new
    assert not store.get(other.sid).is_new


@pytest.mark.parametrize("malformed", ["", "*" * 42, "A" * 41, "A" * 43, "../" * 14])
def test_malformed_identifiers_are_refused(store, new_session, malformed):
    """A malformed identifier, which a user may have written into a device log, deletes nothing."""
    session = new_session(store)
    store.save(session)
    with pytest.raises(ValueError, match="Identifier format incorrect"):
        store.delete_from_identifiers([malformed, identifier(session)])
    assert not store.get(session.sid).is_new


def test_an_identifier_instead_of_a_list_is_refused(store, new_session):
    """A string is a list of characters, none of which identifies a session."""
    with pytest.raises(ValueError, match="did you pass in a string"):
        store.delete_from_identifiers(identifier(new_session(store)))


@pytest.mark.parametrize("lifetime", [60, 7 * 24 * 3600])
def test_vacuum_ends_idle_sessions(store, new_session, lifetime):
    """After a vacuum a session not saved for the lifetime is missing, by Python's clock."""
    with freeze_time() as clock:
        idle = new_session(store, db=None)
        store.save(idle)
        clock.tick(lifetime - 1)
        store.vacuum(lifetime)
        assert not store.get(idle.sid).is_new
        clock.tick(2)
        store.vacuum(lifetime)
        assert store.get(idle.sid).is_new


def test_methods_can_be_patched_on_the_instance(store, new_session):
    """Odoo's tests replace single methods of the store."""
    with patch.object(store, "save") as save:
        store.rotate(new_session(store), None)
    assert hasattr(store, "save")
    assert store.save is not save


def test_a_listing_is_empty(store, new_session):
    """Both: Odoo's store looks for files of a name that it no longer gives them."""
    store.save(new_session(store))
    assert store.list() == []
    assert store.renew_missing
