"""Version 2 of a stored session, which has in common with version 1 how it begins.

::

    2 live {"db":"production","seen":1767225600.0,"ttl":604800,"uid":2}\\n<nonce><sealed>

The payload is compressed JSON, sealed with ChaCha20-Poly1305 by another key than version 1's.
"""

import json
import os
import zlib
from hashlib import blake2b

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

_BEGIN = b"2 "
_NONCE_LENGTH = 12


def put_into(codec, *, written):
    """Have the codec read both versions.

    :param codec: the module ``codec.session``
    :param written: the version to write
    """
    seal_1, unseal_1 = codec.seal, codec.unseal

    class SessionRecord(codec.SessionRecord):
        """Of either version."""

        @property
        def has_user(self):
            if self.raw.startswith(_BEGIN):
                return _line_of(self.raw)["uid"] is not None
            return super().has_user

    def seal(place, secret, data, *, seen, ttl):
        if written == 1:
            return seal_1(place, secret, data, seen=seen, ttl=ttl)
        state = "superseded" if "next_sid" in data else "live"
        line = {"db": data.get("db"), "seen": seen, "ttl": ttl, "uid": data.get("uid") or None}
        header = f"2 {state} {json.dumps(line, separators=(',', ':'))}\n".encode()
        nonce, payload = os.urandom(_NONCE_LENGTH), zlib.compress(json.dumps(data).encode())
        return (
            header + nonce + _cipher(place, secret).encrypt(nonce, payload, _bound(place, header))
        )

    def unseal(place, raw, secret_of):
        if not raw.startswith(_BEGIN):
            return SessionRecord(*unseal_1(place, raw, secret_of))
        header, newline, rest = raw.partition(b"\n")
        nonce, sealed = rest[:_NONCE_LENGTH], rest[_NONCE_LENGTH:]
        try:
            line = _line_of(raw)
            payload = _cipher(place, secret_of(line["db"])).decrypt(
                nonce, sealed, _bound(place, header + newline)
            )
        except (InvalidTag, IndexError, KeyError, TypeError, ValueError) as error:
            raise codec.CorruptRecordError("it does not open") from error
        return SessionRecord(json.loads(zlib.decompress(payload)), line["seen"], line["ttl"], raw)

    codec.WRITTEN, codec.NEWEST, codec.SessionRecord = written, 2, SessionRecord
    codec.seal, codec.unseal = seal, unseal


def _line_of(raw):
    return json.loads(raw.partition(b"\n")[0].split(b" ", 2)[2])


def _cipher(place, secret):
    key = blake2b(secret.encode(), key=place.secret, digest_size=32, person=b"version 2")
    return ChaCha20Poly1305(key.digest())


def _bound(place, header):
    return place.key.encode() + b"\0" + header
