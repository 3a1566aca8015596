"""Odoo's session, with a memory of what was read."""

from typing import Any

from odoo.http import Session

from ..codec.session import SessionRecord
from .activity import ActivityFile


class RedisSession(Session):
    """An ``odoo.http.Session`` that remembers the record it was read from or saved to.

    :ivar record: None until it was read or saved
    :ivar activity: None until an addon asks for its file
    """

    __slots__ = ("activity", "record")

    def __init__(self, data: dict[str, Any], sid: str, new: bool = False) -> None:
        super().__init__(data, sid, new)
        self.record: SessionRecord | None = None
        self.activity: ActivityFile | None = None

    @classmethod
    def from_record(cls, record: SessionRecord, sid: str) -> "RedisSession":
        """The session that was stored.

        Mirrors ``Session.__init__``, which takes each item through JSON: these came from there.
        """
        session = cls.__new__(cls)
        session.can_save = True
        session._Session__data = record.data
        session.is_dirty = False
        session.is_new = False
        session.should_rotate = False
        session.sid = sid
        session.record = record
        session.activity = None
        return session
