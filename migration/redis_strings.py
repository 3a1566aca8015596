"""The sessions of camptocamp's ``session_redis`` and of mangono's ``redis_session_store``.

Both write JSON to Redis, as a string ``session:<sid>``, or ``session::<prefix>:<sid>``, which Redis
forgets after a time that depends on whether somebody is logged in. When a session was active
last is not known. (Both would mark dates in the JSON; a session of Odoo 19 cannot hold one.)
"""

import re
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from ..connection import RedisServer
from ..exceptions import OldStoreUnavailableError, RedisUnavailableError, WrongTypeError
from ..keys import IDENTIFIER_LENGTH, is_valid_sid
from ..old_url import OldURL
from .session import BROKEN, OldSession, Refused, content

_HALF = "old-sessions"  # as its connections are named


class RedisSessions:
    """The strings under one prefix."""

    def __init__(self, url: OldURL, timeout: float, request: Callable[[], Any]) -> None:
        self._prefix = f"session::{url.prefix}:" if url.prefix else "session:"
        self._server = RedisServer(url.address, half=_HALF, timeout=timeout, request=request)

    def check(self) -> None:
        with self._answering():
            self._server.try_out(lambda: self._server.execute("GET", self._prefix))

    def names(self) -> list[str]:
        return list(dict.fromkeys(self._sids()))

    def fetch(self, names: Sequence[str]) -> list[OldSession | Refused | None]:
        keys = [self._prefix + name for name in names]
        with self._answering():
            try:
                asked = [command for key in keys for command in (("GET", key), ("PTTL", key))]
                answers = self._server.execute_many(asked)
            except WrongTypeError:  # which is not said of which
                if len(names) == 1:
                    return [Refused(names[0], BROKEN)]
                return [found for name in names for found in self.fetch([name])]
        return [
            self._session(name, raw, left)
            for name, raw, left in zip(names, answers[::2], answers[1::2], strict=True)
        ]

    def delete(self, identifiers: Collection[str]) -> None:
        wanted = set(identifiers)
        found = [sid for sid in self._sids() if sid[:IDENTIFIER_LENGTH] in wanted]
        with self._answering():
            # One of Redis' first commands: the user of these addons may have few.
            self._server.execute_many([("DEL", self._prefix + sid) for sid in found])

    def close(self) -> None:
        self._server.disconnect()

    def _session(self, name: str, raw: Any, left: Any) -> OldSession | Refused | None:
        if raw is None:
            return None
        data = content(raw) if isinstance(raw, bytes) else None
        if data is None:
            return Refused(name, BROKEN)
        # -1: it has no end; -2: it ended a moment ago
        return OldSession(name, data, left=None if left == -1 else max(left, 0) / 1000)

    def _sids(self) -> Iterator[str]:
        pattern = re.sub(r"([*?[\]\\^-])", r"\\\1", self._prefix) + "*"
        with self._answering():
            for key in self._server.scan(pattern):
                sid = key.decode(errors="replace")[len(self._prefix) :]
                if is_valid_sid(sid):  # the others are of another prefix, or of another Odoo
                    yield sid

    @contextmanager
    def _answering(self) -> Iterator[None]:
        try:
            yield
        except RedisUnavailableError as error:
            raise OldStoreUnavailableError(str(error)) from error
