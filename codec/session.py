"""A session as Redis holds it: a line in clear, then the payload sealed with AES-256-GCM.

::

    1 live 1767225600000 604800 2 "production"\\n<12 bytes nonce><sealed JSON>
    | |    |             |      | database
    | |    |             |      uid, or - when nobody is logged in
    | |    |             seconds of inactivity it outlives
    | |    last save or activity, milliseconds since the epoch by Redis' clock
    | live, or superseded by a soft rotation
    version of this format

The line is what operations need. It is authenticated together with the Redis key, so nothing of a
record can be changed, and none can be moved, without its refusal. The key of the cipher is derived
from the sid, which only the browser has, and from a secret that only the servers have. The payload
is JSON, as in ``odoo.tools._vendor.sessions.FilesystemSessionStore``, never pickle.

All versions begin with the version and the state, because a node tells by these that another
version wrote a record. A release that changes the format reads both and writes the former one; the
next release writes the new one. So two neighbouring releases can run side by side.
"""

import json
import os
import re
from collections.abc import Callable
from functools import lru_cache
from hashlib import blake2b
from typing import Any, NamedTuple

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from ..exceptions import CorruptRecordError, NewerRecordError
from ..keys import REMEMBERED_SIDS, SessionPlace

WRITTEN = 1  # version of the records that this release writes
NEWEST = 1  # that it reads

_NONCE_LENGTH = 12
# What json.dumps makes anew at each call, a third of its time; it keeps nothing between calls.
_pieces = json.encoder.c_make_encoder(  # type: ignore[attr-defined]
    None, json.JSONEncoder().default, json.encoder.encode_basestring_ascii,
    None, ":", ",", False, False, True,
)  # fmt: skip
_decode = json.JSONDecoder().raw_decode  # what is authenticated has no white space to look for
_REMEMBERED_DATABASES = 64
_LONGEST_NAME = 402  # bytes: 63 in PostgreSQL, each of them six in JSON, and the quotes
_version_of = re.compile(rb"([1-9]\d{0,8}) \w+ ").match


class SessionRecord(NamedTuple):
    """What one sid's field held at one moment.

    :param data: the session's content at that moment
    :param seen: last save or activity, seconds since the epoch
    :param ttl: seconds of inactivity it outlives
    :param raw: the very bytes, to compare when replacing them
    """

    data: dict[str, Any]
    seen: float
    ttl: int
    raw: bytes

    @property
    def superseded(self) -> bool:
        """Whether a soft rotation replaced the sid."""
        return self.raw.find(b" superseded ", 0, 24) > 0  # after the version

    @property
    def has_user(self) -> bool:
        """Whether somebody was logged in, whatever became of the data since."""
        return self.raw.split(b" ", 5)[4] != b"-"


def _encode(value: object) -> str:
    """``json.dumps`` without white space. Circular values end in a RecursionError."""
    return "".join(_pieces(value, 0))


@lru_cache(maxsize=REMEMBERED_SIDS)  # dearer to make than to use
def _cipher(of_sid: bytes, of_servers: str) -> AESGCM:
    key = blake2b(of_servers.encode(), key=of_sid, digest_size=32, person=b"odoo session")
    return AESGCM(key.digest())


def seal(place: SessionPlace, secret: str, data: dict[str, Any], *, seen: float, ttl: int) -> bytes:
    """The bytes to store for a session.

    :param secret: what only the servers know, of the database that ``data`` names
    :raises TypeError: when the data are not JSON
    """
    state = "superseded" if "next_sid" in data else "live"
    uid = int(uid) if isinstance(uid := data.get("uid"), int) and uid else "-"
    name = _encoded_name(database_of(data))
    header = f"{WRITTEN} {state} {int(seen * 1000)} {ttl} {uid} {name}\n".encode()
    nonce = os.urandom(_NONCE_LENGTH)
    cipher = _cipher(place.secret, secret)
    return header + nonce + cipher.encrypt(nonce, _encode(data).encode(), _bound(place, header))


def newer(version: str = "a later version") -> NewerRecordError:
    """The error for a record that a later release wrote.

    :param version: of its format, as far as it is known
    """
    return NewerRecordError(
        f"a session was stored in {version} of its format, this release reads up to version "
        f"{NEWEST}: update redis_session_ormcache on this node"
    )


def unseal(
    place: SessionPlace, raw: object, secret_of: Callable[[str | None], str]
) -> SessionRecord:
    """The session that ``seal`` made these bytes of.

    :param secret_of: gives the secret of a database that the line names; nothing vouches for that
        name until the record is open
    :raises CorruptRecordError: when anything of it, or its place, is not as it was sealed; with the
        database, when its secret may be another one
    :raises NewerRecordError: when a later release wrote it
    """
    if not isinstance(raw, bytes):
        raise CorruptRecordError("it is no text")
    line, newline, sealed = raw.partition(b"\n")
    words = line.split(b" ", 5)
    if words[0] != b"1" or len(words) != 6 or len(words[5]) > _LONGEST_NAME:
        if (version := _version_of(raw)) and int(version[1]) > NEWEST:
            raise newer(f"version {version[1].decode()}")
        raise CorruptRecordError("it is no record")
    db = _decoded_name(words[5])
    cipher = _cipher(place.secret, secret_of(db))
    nonce, bound = sealed[:_NONCE_LENGTH], _bound(place, line + newline)
    try:
        payload = cipher.decrypt(nonce, sealed[_NONCE_LENGTH:], bound)
    except (InvalidTag, ValueError) as error:
        refused = CorruptRecordError("it does not open")
        refused.database = db
        raise refused from error
    # A server that knows the secret of the named database wrote it, or that one's administrator.
    try:
        data = _decode(payload.decode())[0]
    except ValueError as error:
        raise CorruptRecordError("it holds no JSON") from error
    if not isinstance(data, dict) or (data.get("db") != db and database_of(data) != db):
        raise CorruptRecordError("it is of another database than it says")
    return SessionRecord(data, int(words[2]) / 1000, int(words[3]), raw)


def database_of(data: dict[str, Any]) -> str | None:
    """The database of a session's content, if that names one."""
    db = data.get("db")
    return db if isinstance(db, str) else None


@lru_cache(maxsize=_REMEMBERED_DATABASES)
def _encoded_name(db: str | None) -> str:
    return _encode(db)


@lru_cache(maxsize=_REMEMBERED_DATABASES)
def _decoded_name(name: bytes) -> str | None:
    try:
        db = json.loads(name)
    except ValueError as error:
        raise CorruptRecordError("it names no database") from error
    if db is not None and not isinstance(db, str):
        raise CorruptRecordError("it names no database")
    return db


def _bound(place: SessionPlace, header: bytes) -> bytes:
    return place.key.encode() + b"\0" + header
