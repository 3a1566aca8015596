"""Odoo's session, with a memory of what was read.

Another addon may put a subclass of its own in the place of ``odoo.http.Session``. Sessions inherit
what stands there, so that they do what it does; what they have besides has names with ``redis_``,
which that subclass will not use.
"""

import functools
from collections.abc import Mapping
from typing import Any

from ..codec.session import SessionRecord
from .activity import ActivityFile

# Methods that fill a session with what was stored, and that give what is to be stored.
_USED = ("__init__", "__setitem__", "update", "keys", "__iter__", "__getitem__")
_ODOOS = ("odoo.http", "collections.abc")  # the modules where those of Odoo's Session are


def session_class(base: Any) -> Any:
    """The class of sessions that remember the record they were read from or saved to.

    :param base: what ``odoo.http.Session`` is now
    :raises TypeError: when it cannot be inherited from
    """
    functions = [getattr(getattr(base, name), "__globals__", {}) for name in _USED]
    is_odoos = all(names.get("__name__") in _ODOOS for names in functions)
    return _make(base, is_odoos and base.__new__ is object.__new__)


@functools.cache
def _make(base: Any, plain: bool) -> Any:
    class RedisSession(base):
        """An ``odoo.http.Session`` with a memory.

        :cvar redis_plain: whether it is filled and stored as one of Odoo's own class
        :ivar redis_record: None until it was read or saved
        :ivar redis_activity: None until an addon asks for its file
        :ivar redis_is_awaited: whether its sid was issued, and no browser has presented it yet
        """

        __slots__ = ("redis_activity", "redis_is_awaited", "redis_record")
        redis_plain = plain

        def __init__(self, data: Mapping[str, Any], sid: str, new: bool = False) -> None:
            super().__init__(data, sid, new)
            self.redis_record: SessionRecord | None = None
            self.redis_activity: ActivityFile | None = None
            self.redis_is_awaited = False

    return RedisSession


def read_session(cls: Any, record: SessionRecord, sid: str) -> Any:
    """The session that was stored.

    Mirrors ``Session.__init__``, which takes each item through JSON: these came from there, so only
    another addon's class is filled in that way.

    :param cls: what :func:`session_class` gave
    """
    if not cls.redis_plain:
        session = cls(record.data, sid)
    else:
        session = cls.__new__(cls)
        session.can_save = True
        session._Session__data = record.data
        session.is_dirty = False
        session.is_new = False
        session.should_rotate = False
        session.sid = sid
        session.redis_activity = None
        session.redis_is_awaited = False
    session.redis_record = record
    return session


def copy_session(session: Any) -> Any:
    """The same session with a content of its own; its class has no part in making it."""
    copied = object.__new__(type(session))
    state = session.__reduce_ex__(2)[2]
    for attributes in state if isinstance(state, tuple) else (state,):
        for name, value in (attributes or {}).items():
            setattr(copied, name, value)
    copied._Session__data = dict(session._Session__data)
    return copied


def content_of(session: Any) -> dict[str, Any]:
    """What is to be stored of a session, as ``FilesystemSessionStore.save`` takes it.

    Not a copy where the session is one of Odoo's own class.
    """
    if getattr(session, "redis_plain", False):
        return session._Session__data  # type: ignore[no-any-return]
    return dict(session)
