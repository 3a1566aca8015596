"""Which cached values are edited in place by those who got them."""

import sys
from collections.abc import Callable
from typing import Any

from .same import is_mutable

_EACH, _THEN = 20, 10  # a value's first hits are all looked at, and one in so many after that
_FRAMES = 6
_OWN = ("/ormcache_round_trip/", "/redis_session_ormcache/", "/odoo/tools/cache.py", "functools.py")

# encoding, hits, who looked it up last
_Seen = tuple[bytes, int, tuple[str, ...]]


class Edits:
    """Compares values with what they were when they were computed, whenever they are looked up.

    :param encode: bytes of a value, by method; raises NotShareableError
    :param found: told of the method, the key, and who looked the value up before and after
    """

    def __init__(
        self, encode: Callable[[Any, Any], bytes], found: Callable[[Any, str], None]
    ) -> None:
        self._encode, self._found = encode, found

    def computed(self, registry: Any, cache: Any, key: Any, value: Any) -> None:
        """Remember what a value is like."""
        known = _seen(registry)
        known.pop(key, None)
        if is_mutable(value) and (data := self._data(cache.method, value)) is not None:
            known[key] = data, 0, _callers()

    def looked_up(self, registry: Any, cache: Any, key: Any, value: Any) -> None:
        """Compare it, mostly."""
        known = _seen(registry)
        if (seen := known.get(key)) is None:
            return
        data, hits, callers = seen
        if hits < _EACH or not hits % _THEN:
            now = self._data(cache.method, value)
            if now != data:
                del known[key]
                self._found(cache.method, f"{key[2:]!r:.100}: {' < '.join(callers)}")
                return
        known[key] = data, hits + 1, _callers()

    def cleared(self, registry: Any) -> None:
        """Compare all, before they are forgotten."""
        known = _seen(registry)
        for key, (data, _hits, callers) in list(known.items()):
            for lru in registry._Registry__caches.values():
                if key in lru and self._data(key[1], lru[key]) != data:
                    self._found(key[1], f"{key[2:]!r:.100}: {' < '.join(callers)}")
        known.clear()

    def _data(self, method: Any, value: Any) -> bytes | None:
        from odoo.addons.redis_session_ormcache.exceptions import NotShareableError

        try:
            return self._encode(method, value)
        except NotShareableError:
            return None


def _seen(registry: Any) -> dict[Any, _Seen]:
    return vars(registry).setdefault("_round_trip_seen", {})  # type: ignore[no-any-return]


def _callers() -> tuple[str, ...]:
    """Of the lookup: the innermost first."""
    frame, found = sys._getframe(2), []
    while frame and len(found) < _FRAMES:
        code = frame.f_code
        if not any(part in code.co_filename for part in _OWN):
            path = code.co_filename.rpartition("/addons/")[2]
            found.append(f"{path}:{frame.f_lineno} {code.co_name}")
        frame = frame.f_back  # type: ignore[assignment]
    return tuple(found)
