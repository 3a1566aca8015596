"""Whether values in tier 1 still are what they were when they came there.

Odoo hands out the object that tier 1 holds, and who gets it may edit it. In core what comes of that
stays in its process. A value that was computed from an edited one is not for others.
"""

from collections.abc import Iterable, Mapping, MutableSet
from hashlib import blake2b
from typing import Any

from ..codec.value import encode
from ..exceptions import NotShareableError

_MAY_HOLD_MUTABLES = (list, tuple, dict, set, bytearray, MutableSet)
_FIRST_TIDYING = 4096  # digests

Digest = bytes | None
EDITED: Digest = None  # the digest of what was computed from an edited value


def digest(value: Any, data: bytes | None = None) -> bytes:
    """What tells a value from what it was before an edit; empty: it cannot be told.

    It cannot of what has no encoding, as functions have none; nor need it of what cannot be edited.

    :param data: the value as this very object was just encoded; None: it was not
    """
    if not isinstance(value, _MAY_HOLD_MUTABLES):
        return b""
    try:
        data = data or encode(value)
    except NotShareableError:
        return b""
    # An empty list, dict or set, which every one begins as; or a text with such a byte in it.
    if b"]" in data or b"}" in data or b"\x8f" in data:
        return blake2b(data, digest_size=16).digest()
    return b""


class Originals:
    """Digests of the values in one registry's tier 1 that can be edited."""

    def __init__(self) -> None:
        self._digests: dict[Any, tuple[Mapping[Any, Any], Digest]] = {}
        self._tidy_at = _FIRST_TIDYING

    def keep(self, lru: Mapping[Any, Any], key: Any, value_digest: Digest) -> None:
        """Take note of a value that was put in tier 1.

        :param key: as ``ormcache.key`` makes it: it names the method, and so the ``lru``
        :param value_digest: from before anybody else could get the value; or EDITED
        """
        if value_digest == b"":
            self._digests.pop(key, None)
            return
        self._digests[key] = lru, value_digest
        if len(self._digests) >= self._tidy_at:
            left = {key: kept for key, kept in list(self._digests.items()) if key in kept[0]}
            self._digests = left
            self._tidy_at = max(_FIRST_TIDYING, 2 * len(left))

    def any_edited(self, keys: Iterable[Any]) -> bool:
        """Whether one of these values, or what it was computed from, was edited.

        A value that left tier 1 meanwhile cannot be told, and counts as edited.
        """
        for key in keys:
            kept = self._digests.get(key)
            if kept is None:
                continue
            lru, before = kept
            try:
                if before is EDITED or digest(lru[key]) != before:
                    return True
            except KeyError:
                return True
        return False
