"""Where a session is in Redis, derived from its sid. Pure: no Odoo, no Redis.

An Odoo 19 sid is 84 characters of URL-safe base64. The first 42 identify the session (Odoo keeps
them in ``res.device.log`` and they survive a soft rotation); the whole sid authenticates it.

>>> sid = "abc-DEF_" * 10 + "wxyz"
>>> place = session_place("odoo", sid)
>>> place.key
'odoo:session:abc-DEF_abc-DEF_abc-DEF_abc-DEF_abc-DEF_ab'
>>> len(place.field), len(place.secret)
(32, 32)
>>> sid[42:] in repr(place)
False
"""

import re
from functools import lru_cache
from hashlib import blake2b
from typing import NamedTuple

IDENTIFIER_LENGTH = 42  # odoo.http.STORED_SESSION_BYTES
REMEMBERED_SIDS = 1024  # per process

_is_sid = re.compile(r"[A-Za-z0-9_-]{84}").fullmatch
_is_identifier = re.compile(r"[A-Za-z0-9_-]{42}").fullmatch


class SessionPlace(NamedTuple):
    """Where one sid's record lives, and its part of what opens it.

    :param key: the Redis key of the hash, shared by the sids of one soft-rotated family
    :param field: the field of that hash, a digest that leads nobody back to the sid
    :param secret: 32 bytes, the sid's part of the record's key; never sent to Redis
    """

    key: str
    field: str
    secret: bytes

    def __repr__(self) -> str:
        return f"SessionPlace({self.key!r}, {self.field!r}, secret=***)"


def is_valid_sid(sid: object) -> bool:
    """Whether ``sid`` has the shape that ``FilesystemSessionStore.generate_key`` gives.

    Stricter than ``FilesystemSessionStore.is_valid_key``, which lets a final newline through.

    >>> is_valid_sid("A" * 84), is_valid_sid("A" * 84 + chr(10)), is_valid_sid(None)
    (True, False, False)
    """
    return isinstance(sid, str) and _is_sid(sid) is not None


def is_valid_identifier(identifier: object) -> bool:
    """Whether ``identifier`` has the shape of a sid's first 42 characters."""
    return isinstance(identifier, str) and _is_identifier(identifier) is not None


def identifier_key(prefix: str, identifier: str) -> str:
    """The Redis key of all the sids that start with ``identifier``."""
    return f"{prefix}:session:{identifier}"


def moved_key(key: str) -> str:
    """The Redis key that remembers which sids of a session were moved from another store.

    In a Cluster it is in the slot of the session's own key, by which that slot is found: one
    script may change both.

    >>> moved_key("odoo:session:abc")
    'odoo:moved:{odoo:session:abc}'
    """
    prefix = key.rpartition(":session:")[0]
    return f"{prefix}:moved:{{{key}}}"


@lru_cache(maxsize=REMEMBERED_SIDS)
def session_place(prefix: str, sid: str) -> SessionPlace:
    """Where the record of ``sid`` lives. Remembered: a process sees the same sids again and again.

    :raises ValueError: when it has not the shape of a sid

    A sid has 500 random bits, so a plain hash needs no stretching, and of its digest one part tells
    nothing about the other.
    """
    if not is_valid_sid(sid):
        raise ValueError("Invalid session id")
    digest = blake2b(sid.encode("ascii"), digest_size=48, person=b"odoo session").digest()
    return SessionPlace(
        identifier_key(prefix, sid[:IDENTIFIER_LENGTH]), digest[:16].hex(), digest[16:]
    )
