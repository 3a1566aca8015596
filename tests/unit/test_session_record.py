"""The bytes of a stored session, and the secrets that seal it."""

import os
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from odoo.addons.redis_session_ormcache.codec import session as codec
from odoo.addons.redis_session_ormcache.codec.session import seal, unseal
from odoo.addons.redis_session_ormcache.exceptions import (
    CorruptRecordError,
    NewerRecordError,
    SecretUnavailableError,
)
from odoo.addons.redis_session_ormcache.keys import session_place
from odoo.addons.redis_session_ormcache.sessions import secrets as module_of_secrets
from odoo.addons.redis_session_ormcache.sessions.secrets import ServerSecrets

SIDS = st.text(string.ascii_letters + string.digits + "-_", min_size=84, max_size=84)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)
CONTENT = st.fixed_dictionaries(
    {"db": st.none() | st.text(max_size=20), "uid": st.none() | st.booleans() | st.integers()},
    optional={"next_sid": SIDS, "cart": JSON},
)
PLACE = session_place("odoo", "s" * 84)


def sealed(data=None, secret="secret", place=PLACE):
    return seal(place, secret, data or {"db": "prod", "uid": 2}, seen=1.5, ttl=60)


@given(SIDS, CONTENT, st.text(min_size=1))
def test_a_record_gives_back_what_was_sealed(sid, data, secret):
    """Whatever a session holds, with its times, its state and its database."""
    place = session_place("odoo", sid)
    raw = seal(place, secret, data, seen=1767225600.25, ttl=604800)
    record = unseal(place, raw, {data["db"]: secret}.__getitem__)
    assert (record.data, record.seen, record.ttl, record.raw) == (data, 1767225600.25, 604800, raw)
    assert record.superseded == ("next_sid" in data)
    assert record.has_user == bool(data["uid"])


@given(st.text(), st.text(min_size=1))
def test_no_other_secret_opens_a_record(other, secret):
    """The sid alone is not enough, nor is the secret of another database."""
    if other != secret:
        with pytest.raises(CorruptRecordError):
            unseal(PLACE, sealed(secret=secret), lambda _db: other)


def test_no_other_sid_opens_a_record():
    """The secret of the servers alone is not enough."""
    with pytest.raises(CorruptRecordError):
        unseal(session_place("odoo", "t" * 84), sealed(), lambda _db: "secret")


@pytest.mark.parametrize("header", ["mine", None])
def test_a_record_is_of_the_database_that_it_names(header, monkeypatch):
    """The administrator of one database seals nothing for another one."""
    with monkeypatch.context() as forger:
        forger.setattr(codec, "database_of", lambda data: header)
        raw = sealed({"db": "victim", "uid": 2}, secret="mine")
    with pytest.raises(CorruptRecordError, match="another database"):
        unseal(PLACE, raw, {header: "mine"}.__getitem__)


@given(st.binary(max_size=80) | st.text(max_size=80).map(str.encode))
def test_other_bytes_are_no_record(raw):
    """A record is told from what others write before a secret is looked for."""
    if not raw[:1].isdigit():
        with pytest.raises(CorruptRecordError, match="no record"):
            unseal(PLACE, raw, pytest.fail)


@pytest.mark.parametrize("answer", [None, 5, [], [b"1 live", 2], "1 live 1 1 - null"])
def test_what_is_no_text_is_no_record(answer):
    """Redis gives bytes."""
    with pytest.raises(CorruptRecordError):
        unseal(PLACE, answer, pytest.fail)


@pytest.mark.parametrize(
    "name", ['"a', "5", '["a"]', '""x', "", '"a\tb"', f'"{"x" * 401}"', r'"\u12"', "NaN"]
)
def test_a_name_that_is_none_is_refused(name):
    """Whoever writes to Redis may write anything in the clear line."""
    raw = b"1 live 1500 60 2 " + name.encode() + b"\n" + os.urandom(40)
    with pytest.raises(CorruptRecordError):
        unseal(PLACE, raw, pytest.fail)


@pytest.mark.parametrize("name", [r'"\ud800"', r'"\u0000"', f'"{"x" * 64}"', f'"{"é" * 32}"'])
def test_a_name_that_no_database_has_is_not_asked_for(name):
    """PostgreSQL is not given it."""
    raw = b"1 live 1500 60 2 " + name.encode() + b"\n" + os.urandom(40)
    secrets = ServerSecrets("of the node", read=pytest.fail)
    with pytest.raises(CorruptRecordError, match="does not open"):
        unseal(PLACE, raw, secrets.to_open)


@pytest.mark.parametrize("payload", [b"", b"[]", b"5", b'"db"', b"{", b"\xff"])
def test_a_payload_that_is_no_session_is_refused(payload, monkeypatch):
    """The administrator of a database knows its secret, and may seal anything."""
    with monkeypatch.context() as forger:
        forger.setattr(codec, "_encode", lambda value: payload.decode("latin-1"))
        forger.setattr(codec, "_encoded_name", lambda db: "null")
        raw = seal(PLACE, "secret", {}, seen=1.5, ttl=60)
    with pytest.raises(CorruptRecordError):
        unseal(PLACE, raw, lambda _db: "secret")


def test_a_later_version_is_told_from_damage(monkeypatch):
    """A node that cannot read a record knows whether another one can."""
    with monkeypatch.context() as release:
        release.setattr(codec, "WRITTEN", 2)
        raw = sealed()
    with pytest.raises(NewerRecordError, match="version 2"):
        unseal(PLACE, raw, pytest.fail)
    assert unseal(PLACE, sealed(), lambda _db: "secret").data["uid"] == 2


# -- secrets -------------------------------------------------------------------------------------


class Database:
    """Some databases, their secrets, and how often they were asked for."""

    def __init__(self, **secrets):
        self.secrets, self.at_hand, self.asked = secrets, {}, 0

    def read(self, db):
        self.asked += 1
        if db == "away":
            raise SecretUnavailableError(db)
        return self.secrets.get(db)


@pytest.fixture
def postgres():
    return Database(prod="one")


@pytest.fixture
def secrets(postgres, monkeypatch):
    monkeypatch.setattr(module_of_secrets, "REMEMBERED", 0.0)
    return ServerSecrets("of the node", read=postgres.read, at_hand=postgres.at_hand.get)


def test_a_secret_is_read_once(postgres, secrets):
    """PostgreSQL is not asked at each request."""
    assert [secrets.to_open("prod"), secrets.to_seal("prod")] == ["one", "one"]
    assert postgres.asked == 1
    postgres.secrets["prod"] = "two"
    assert secrets.to_open("prod") == "one"
    assert secrets.read_again("prod") == "two"
    assert secrets.to_seal("prod") == "two"


def test_a_request_knows_of_a_change(postgres, secrets):
    """A process seals with the secret that the request at hand sees."""
    assert secrets.to_seal("prod") == "one"
    postgres.at_hand["prod"] = "two"
    assert secrets.to_seal("prod") == "two"
    assert secrets.to_open("prod") == "one"  # what it wrote may never be committed
    assert secrets.may_be_another("prod")
    del postgres.at_hand["prod"]
    assert secrets.to_seal("prod") == "one"


@pytest.mark.parametrize("db", [None, "", "gone", "x" * 64, "a\0b", "\udce9" * 40])
def test_without_a_database_it_is_the_nodes(postgres, secrets, db):
    """A database that is not there, or is none, has no secret; it may be there later."""
    assert [secrets.to_open(db), secrets.to_seal(db), secrets.read_again(db)] == ["of the node"] * 3
    assert not secrets.may_be_another(db)
    postgres.secrets["gone"] = "found"
    assert secrets.to_open("gone") == "found"


def test_a_database_that_does_not_answer_is_not_one_without_a_secret(secrets):
    """Its sessions are not given up for that."""
    for ask in (secrets.to_open, secrets.to_seal, secrets.read_again):
        with pytest.raises(SecretUnavailableError):
            ask("away")


def test_an_answer_is_taken_for_the_next_ones(postgres, secrets, monkeypatch):
    """A page asks for many files at once; whoever writes to Redis may name any database."""
    monkeypatch.setattr(module_of_secrets, "REMEMBERED", 60.0)
    for _request in range(10):
        assert secrets.to_open("gone") == "of the node"
        with pytest.raises(SecretUnavailableError):
            secrets.to_open("away")
        assert secrets.to_open("prod") == "one"
        assert not secrets.may_be_another("prod")
    assert postgres.asked == 3
    for number in range(1000):
        secrets.to_open(f"made up {number}")
    assert len(secrets._answers) <= module_of_secrets.MOST_REMEMBERED


def test_secrets_are_not_shown(secrets):
    """A traceback may show the object."""
    secrets.to_open("prod")
    assert "one" not in repr(secrets)
    assert "of the node" not in repr(secrets)
