"""Requests at work: one that takes long is activity of its session from its beginning to its end.

A session's timeout starts again when a request ends. It would be over in the middle of a request
that takes longer than what is left of it: the changes of the request would have no session to go
to, and its user be logged out. So one thread per process notes activity for requests that are still
at work when half of their session's timeout is over.

Most requests end long before that. They are put in a set and taken out again, and wake nobody.
"""

import logging
import math
import os
import threading
import time
from typing import Any

from ..codec.session import SessionRecord
from .store import RedisSessionStore, SessionStoreUnavailable

_logger = logging.getLogger(__name__)

# Seconds: a session that was idle for more than half of its timeout is not attended to before.
# Most requests have noted activity themselves by then.
PATIENCE = 1.0
RETRY = 0.5  # seconds until a Redis that has not answered is asked again
_NOTHING = object()


class _Entry:
    """A request at work.

    :ivar read: the record that its session was read from
    :ivar sid: where the session is now: a soft rotation may have replaced that of the request
    :ivar record: what is stored there, as far as is known
    :ivar due: when activity is to be noted, by ``time.monotonic``
    :ivar latest: the last moment for it; a thread that looks by then need not be woken for this one
    """

    __slots__ = ("due", "latest", "read", "record", "session", "sid")

    def __init__(self, session: Any, record: SessionRecord, now: float) -> None:
        self.session, self.read = session, record
        self.put(session.sid, record, now)

    def put(self, sid: str, record: SessionRecord, now: float) -> None:
        """Take note of what is stored.

        :param now: seconds since the epoch by Redis' clock
        """
        self.sid, self.record = sid, record
        left = record.ttl - (now - record.seen)
        wait = max(left - record.ttl / 2, min(PATIENCE, left / 2))
        self.due = time.monotonic() + wait
        self.latest = self.due + wait / 8

    @property
    def is_activity(self) -> bool:
        """Whether the request is one that extends its session, as far as it got; see ``touch``."""
        file = self.session.redis_activity
        return self.session.can_save and (file is None or file.is_touched())


def _is_over(session: Any, record: SessionRecord) -> bool:
    """Whether a sid was superseded too long ago to be of use: it keeps no successor alive."""
    return record.superseded and session.get("deletion_time", 0) <= time.time()


class _Here(threading.local):
    """What this thread has at work: None outside of an application, then an entry or nothing."""

    entry: Any = None


class RequestsAtWork:
    """Keeps the sessions of this process's requests as long as they are at work.

    :param store: where the sessions are
    """

    def __init__(self, store: RedisSessionStore) -> None:
        self._store = store
        self._here = _Here()
        self._forget()
        os.register_at_fork(after_in_child=self._forget)  # threads do not live on there

    def _forget(self) -> None:
        self._entries: set[Any] = set()
        self._wake_at = math.inf  # when the thread looks again, by time.monotonic
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None

    def __len__(self) -> int:
        return len(self._entries)

    # -- what requests call ------------------------------------------------------------------------

    def enter(self) -> Any:
        """A request is about to begin in this thread.

        :return: for :meth:`leave`, which is to be called whatever happens
        """
        outer, self._here.entry = self._here.entry, _NOTHING
        return outer

    def leave(self, outer: Any) -> None:
        """The request has ended."""
        self._entries.discard(self._here.entry)
        self._here.entry = outer

    def begin(self, session: Any) -> None:
        """The request of this thread has read its session; a retried one has read it again."""
        here = self._here
        if here.entry is None:  # nobody would call ``leave``
            return
        self._entries.discard(here.entry)
        record = getattr(session, "redis_record", None)
        if record is None or not session.can_save or _is_over(session, record):
            here.entry = _NOTHING
            return
        here.entry = entry = _Entry(session, record, self._store.now())
        # The thread sets _wake_at before it looks at the entries: it sees this one, or is woken.
        self._entries.add(entry)
        if entry.latest < self._wake_at:
            self._wake(entry.due)

    def adopt(self, session: Any) -> None:
        """Have the session of this thread's request know what was noted for it meanwhile.

        Only the request's own thread changes its session.
        """
        entry = self._here.entry
        if not isinstance(entry, _Entry) or entry.session is not session:
            return
        if session.redis_record is entry.read:
            sid, record = entry.sid, entry.record
            if sid == session.sid:
                session.redis_record = record

    # -- the thread --------------------------------------------------------------------------------

    def _wake(self, due: float) -> None:
        with self._changed:
            if due >= self._wake_at:
                return
            self._wake_at = due
            self._changed.notify()
            if self._thread is None:
                thread = threading.Thread(target=self._run, name="redis-at-work", daemon=True)
                try:
                    thread.start()
                except RuntimeError as error:  # out of threads or memory: the next one tries
                    self._wake_at = math.inf
                    _logger.warning("Sessions of long requests are not kept: %s", error)
                else:
                    self._thread = thread

    def _run(self) -> None:
        while True:
            with self._changed:
                self._wake_at = math.inf
                self._wake_at = min((entry.due for entry in list(self._entries)), default=math.inf)
                wait = self._wake_at - time.monotonic()
                if wait > 0:
                    self._changed.wait(None if wait == math.inf else wait)
            for entry in list(self._entries):
                if entry.due <= time.monotonic():
                    self._renew(entry)

    def _renew(self, entry: _Entry) -> None:
        """Note activity; of what is no activity, and of what has ended, no more is kept."""
        try:
            found = self._store.renew(entry.sid, entry.record) if entry.is_activity else None
        except SessionStoreUnavailable:
            entry.due = time.monotonic() + RETRY
            return
        except Exception:  # the other requests go on
            _logger.exception("The session of a request at work is not kept")
            found = None
        if found is None:
            self._entries.discard(entry)
        else:
            entry.put(*found, self._store.now())
