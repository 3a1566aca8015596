"""A session as Redis holds it: a line in clear, then the payload sealed with AES-256-GCM.

::

    live 1767225600000 604800 2 "production"\\n<12 bytes nonce><sealed JSON>
    |    |             |      | database
    |    |             |      uid, or - when nobody is logged in
    |    |             seconds of inactivity it outlives
    |    last save or activity, milliseconds since the epoch
    live, or superseded by a soft rotation

The line is what operations need. It is authenticated together with the Redis key, so nothing of a
record can be changed, and none can be moved, without its refusal. The payload is JSON, as in
``odoo.tools._vendor.sessions.FilesystemSessionStore``, never pickle.
"""

import json
import os
from functools import lru_cache
from typing import Any, NamedTuple

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from ..exceptions import CorruptRecordError
from ..keys import REMEMBERED_SIDS, SessionPlace

_NONCE_LENGTH = 12
# What json.dumps makes anew at each call, a third of its time; it keeps nothing between calls.
_pieces = json.encoder.c_make_encoder(  # type: ignore[attr-defined]
    None, json.JSONEncoder().default, json.encoder.encode_basestring_ascii,
    None, ":", ",", False, False, True,
)  # fmt: skip
_cipher = lru_cache(maxsize=REMEMBERED_SIDS)(AESGCM)  # dearer to make than to use
_decode = json.JSONDecoder().raw_decode  # what is authenticated has no white space to look for


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
        return self.raw.startswith(b"superseded ")


def _encode(value: object) -> str:
    """``json.dumps`` without white space. Circular values end in a RecursionError."""
    return "".join(_pieces(value, 0))


def seal(place: SessionPlace, data: dict[str, Any], *, seen: float, ttl: int) -> bytes:
    """The bytes to store for a session.

    :raises TypeError: when the data are not JSON
    """
    state = "superseded" if "next_sid" in data else "live"
    uid = uid if isinstance(uid := data.get("uid"), int) and uid else "-"
    header = f"{state} {int(seen * 1000)} {ttl} {uid} {_encode(data.get('db'))}\n".encode()
    nonce = os.urandom(_NONCE_LENGTH)
    sealed = _cipher(place.secret).encrypt(nonce, _encode(data).encode(), _bound(place, header))
    return header + nonce + sealed


def unseal(place: SessionPlace, raw: bytes) -> SessionRecord:
    """The session that ``seal`` made these bytes of.

    :raises CorruptRecordError: when anything of it, or its place, is not as it was sealed
    """
    line, newline, rest = raw.partition(b"\n")
    try:
        payload = _cipher(place.secret).decrypt(
            rest[:_NONCE_LENGTH], rest[_NONCE_LENGTH:], _bound(place, line + newline)
        )
    except (InvalidTag, ValueError) as error:
        raise CorruptRecordError("it does not open") from error
    # Authenticated from here on: only a holder of the sid can have written it.
    _state, seen, ttl, _uid, _db = line.split(b" ", 4)
    return SessionRecord(_decode(payload.decode())[0], int(seen) / 1000, int(ttl), raw)


def _bound(place: SessionPlace, header: bytes) -> bytes:
    return place.key.encode() + b"\0" + header
