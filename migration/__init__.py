"""Where sessions were kept before: read, never written, but for deletions that follow a revocation.

A module for each kind of store, with the same few methods (:class:`OldStore`).
"""

from collections.abc import Callable
from typing import Any

from ..old_url import FILES, SESSION_DB, parse
from .files import FileSessions
from .postgresql import PostgreSQLSessions
from .redis_strings import RedisSessions
from .session import BEING_WRITTEN, BROKEN, UNREADABLE, OldSession, OldStore, Refused

__all__ = [
    "BEING_WRITTEN",
    "BROKEN",
    "UNREADABLE",
    "OldSession",
    "OldStore",
    "Refused",
    "open_old_store",
]


def open_old_store(
    url: str, *, timeout: float, request: Callable[[], Any] = lambda: None
) -> OldStore:
    """The store that a URL names; it is not asked for anything.

    :param url: as ``old_url.parse`` understands it
    :param timeout: seconds that a request may wait for one answer
    :param request: gives the request at hand, or None
    """
    parsed = parse(url)
    if parsed.kind == FILES:
        return FileSessions(parsed)
    if parsed.kind == SESSION_DB:
        return PostgreSQLSessions(parsed, timeout)
    return RedisSessions(parsed, timeout, request)
