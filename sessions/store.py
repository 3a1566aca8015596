"""The sessions of all databases, in Redis.

One HASH per session identifier; one field of it per sid of that soft-rotated family; each value
sealed with a key that only the sid gives (see ``codec.session``). Every change is one script on one
key. A Redis that does not answer raises: it never looks like a session that is not there.
"""

import logging
import math
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from odoo import http
from odoo.http import FilesystemSessionStore
from odoo.service import security
from odoo.tools._vendor.sessions import SessionStore
from psycopg2.pool import PoolError
from werkzeug.exceptions import ServiceUnavailable
from werkzeug.wrappers import Response

from ..codec.session import SessionRecord, seal, unseal
from ..connection import DEADLINE, RedisServer
from ..exceptions import (
    CorruptRecordError,
    RedisRefusedError,
    RedisUnavailableError,
    WrongTypeError,
)
from ..keys import (
    IDENTIFIER_LENGTH,
    SessionPlace,
    identifier_key,
    is_valid_identifier,
    is_valid_sid,
    session_place,
)
from . import scripts
from .activity import ActivityFile
from .session import RedisSession

_logger = logging.getLogger(__name__)

RETRY_AFTER = 2  # seconds, what a client is told to wait after a 503
ROTATION_ATTEMPTS = 10
REFUSALS_LOGGED = 10.0  # seconds between two lines in the log
MAX_LIFETIME = 10**9  # seconds; Redis refuses an expiry that overflows
# Activity is written down once per 1/60 of the timeout at most, and once a minute at most: an idle
# session ends that much early at the worst, and never late.
ACTIVITY_FRACTION = 60
ACTIVITY_INTERVAL = 60  # seconds
TOUCHED_INTERVAL = 1  # seconds, where an addon ends sessions by a timeout of its own


class SessionStoreUnavailable(RedisUnavailableError, ServiceUnavailable, PoolError):
    """HTTP 503: whether the session exists is not known, so nothing is done with it.

    ``error_response`` is what Odoo answers with, whichever dispatcher handles the request; it has
    no ``Set-Cookie``, so the browser keeps the cookie it has. A ``PoolError``, because that is what
    ``bus/websocket.py`` closes a websocket for with TRY_LATER: the browser connects again.
    """

    def __init__(
        self, message: str = "The session server does not answer. Please try again in a moment."
    ) -> None:
        ServiceUnavailable.__init__(self, message, retry_after=RETRY_AFTER)
        self.args = (message,)
        self.error_response = Response(
            message + "\n",
            status=503,
            headers={"Retry-After": str(RETRY_AFTER), "Cache-Control": "no-store"},
        )


NO_FILES = "redis_session_ormcache: sessions are in Redis, not in files: {} cannot be had"
_OF_FILES = {"path", "filename_template", "mode"}


class _Lifetime(NamedTuple):
    seconds: int
    since: float  # when it was learnt, seconds since the epoch


class RedisSessionStore(SessionStore):
    """Drop-in for ``odoo.http.FilesystemSessionStore``, shared by all nodes.

    It differs where the filesystem's store races or forgets:

    * Redis away: :class:`SessionStoreUnavailable` instead of an empty session;
    * ``save`` of a session that was revoked meanwhile does nothing (it would come back);
    * ``rotate(soft=True)`` on several nodes at once gives one successor;
    * ``delete`` of a live sid takes the sids it superseded along;
    * the timeout runs from the last activity, see :meth:`touch`.

    :param server: where the sessions are
    :param prefix: what their keys start with
    :param anonymous_ttl: seconds for sessions without a user; None: as the others
    :param lifetime_of: gives ``sessions.max_inactivity_seconds`` of a session's database, or None
        where it cannot be known now
    :param session_at_hand: gives the session of the request that this thread serves, or None
    """

    renew_missing = True  # a sid under which there is nothing is not taken over

    def __init__(
        self,
        server: RedisServer,
        *,
        prefix: str,
        anonymous_ttl: int | None = None,
        lifetime_of: Callable[[Any], int | None] = lambda session: None,
        session_at_hand: Callable[[], Any] = lambda: None,
    ) -> None:
        super().__init__(RedisSession)
        self._server = server
        self._prefix = prefix
        self._anonymous_ttl = anonymous_ttl
        self._lifetime_of = lifetime_of
        self._session_at_hand = session_at_hand
        self._lifetimes: dict[str | None, _Lifetime] = {}
        self._refused = -REFUSALS_LOGGED  # when it was logged

    def disconnect(self) -> None:
        """Close this process's connections; the next call opens one."""
        self._server.disconnect()

    def check(self) -> None:
        """Do once with a session of nobody's what is done with sessions.

        :raises RedisUnavailableError: when Redis does not do it
        """
        session = self.new()
        place = self._place_of(session.sid)
        try:
            self.save(session)
            self.rotate(self.get(session.sid), None, soft=True)
            # The text, where others would run what the server has already.
            self._execute("EVAL", scripts.DELETE.text, 1, place.key, place.field, b"")
            self.get_missing_session_identifiers([session.sid[:IDENTIFIER_LENGTH]])
            self.delete_from_identifiers([session.sid[:IDENTIFIER_LENGTH]])
            self.get(session.sid)
        except SessionStoreUnavailable as error:
            raise error.__cause__ or error from None

    # -- sids --------------------------------------------------------------------------------------

    generate_key = FilesystemSessionStore.generate_key

    def is_valid_key(self, key: Any) -> bool:
        return is_valid_sid(key)

    # -- one session -------------------------------------------------------------------------------

    def get(self, sid: Any) -> Any:
        """The session of ``sid``, or a new one (``is_new``) with another sid.

        :raises SessionStoreUnavailable: when Redis does not say whether there is one
        """
        try:
            place = self._place_of(sid)
        except ValueError:
            return self.new()
        record = self._read(place)
        if record is None:
            return self.new()
        if self._is_expired(record):
            self._run(scripts.DELETE, place.key, place.field, record.raw)
            return self.new()
        return RedisSession.from_record(record, sid)

    def save(self, session: Any) -> None:
        """Store a session, with its timeout; mirrors ``FilesystemSessionStore.save``.

        One that is not new must still be there: revoked or superseded meanwhile, it stays so. A new
        one gets another sid if its identifier is that of other sessions.

        :raises SessionStoreUnavailable: when Redis did not take it
        :raises ValueError: when its sid is not one
        """
        self._save(session, scripts.CREATE if session.is_new else scripts.KEEP)

    def delete(self, session: Any) -> None:
        """Forget a session: all its sids, or only this one if its time ran out after a rotation.

        So a logout leaves no way back in, not even by a rotation it did not know of, while the
        late end of a superseded sid logs nobody out.
        """
        self._delete(self._place_of(session.sid), getattr(session, "record", None))

    def touch(self, session: Any) -> int | None:
        """Note activity on a session: its timeout starts again.

        Coalesced, and without rewriting its content: a concurrent ``save`` is never undone. A
        Redis that does not answer is passed over: the next activity will be noted. Where an addon
        has asked for the session's file, its request is activity if it has set the file's time.

        :return: the timeout in seconds if it was due, and noted now
        """
        record = getattr(session, "record", None)
        if record is None or record.superseded:
            return None
        interval = min(record.ttl / ACTIVITY_FRACTION, ACTIVITY_INTERVAL)
        if session.activity is not None:
            if not session.activity.is_touched():
                return None
            interval = min(interval, TOUCHED_INTERVAL)
        if time.time() - record.seen < interval:
            return None
        place = self._place_of(session.sid)
        try:
            # record.data may be the session's own, changed since: what was stored is in the bytes.
            data = unseal(place, record.raw).data
            noted = self._sealed(place, data, self._ttl(session))
            return noted.ttl if self._exchange(place, record, noted.ttl, (place, noted)) else None
        except (CorruptRecordError, RedisUnavailableError) as error:
            _logger.debug("Activity not noted: %s", error)
            return None

    def rotate(self, session: Any, env: Any, soft: bool = False) -> None:
        """Give a session another sid; mirrors ``FilesystemSessionStore.rotate``.

        A soft rotation keeps the identifier and, for a while, the old sid. Of several at once on
        the same sid, one wins and the others adopt its ``next_sid``.
        """
        if soft:
            self._rotate_softly(session, env)
        else:
            self._rotate_hard(session, env)

    def delete_old_sessions(self, session: Any) -> None:
        """Drop the sids that this session's soft rotations left, once they may be.

        Mirrors ``FilesystemSessionStore.delete_old_sessions``; the live one is never absent.
        """
        if "gc_previous_sessions" not in session or "next_sid" in session:
            return
        if session["create_time"] + http.SESSION_DELETION_TIMER >= time.time():
            return
        was_dirty = session.is_dirty
        del session["gc_previous_sessions"]
        try:
            self._save(session, scripts.ALONE)
        except SessionStoreUnavailable:  # tidying up can wait
            session["gc_previous_sessions"] = True
            session.is_dirty = was_dirty

    # -- many sessions -----------------------------------------------------------------------------

    def get_missing_session_identifiers(self, identifiers: Iterable[str]) -> set[str]:
        """Those of ``identifiers`` under which there is no session."""
        asked = list(dict.fromkeys(identifiers))
        valid = [identifier for identifier in asked if is_valid_identifier(identifier)]
        found = self._run_many("EXISTS", valid)
        return set(asked).difference(
            identifier for identifier, exists in zip(valid, found, strict=True) if exists
        )

    def delete_from_identifiers(self, identifiers: Sequence[str]) -> None:
        """Forget all sessions of these identifiers.

        :raises ValueError: when one is malformed; nothing is deleted then
        """
        if not all(map(is_valid_identifier, identifiers)):
            raise ValueError(
                "Identifier format incorrect, did you pass in a string instead of a list?"
            )
        self._run_many("UNLINK", identifiers)

    def vacuum(self, max_lifetime: int = http.SESSION_LIFETIME) -> None:
        """Learn the timeout of the current database; there is nothing to search for.

        Redis expires what is idle. Where the timeout was lowered, a session of this database, or of
        none, that has been idle too long by now ends when it is read in this process.

        :param max_lifetime: seconds
        """
        self.learn(getattr(threading.current_thread(), "dbname", None), max_lifetime)
        self.learn(None, max_lifetime)

    def learn(self, db: str | None, max_inactivity: int) -> None:
        """Take note of a database's ``sessions.max_inactivity_seconds``, as of now."""
        seconds = min(max(1, math.ceil(max_inactivity)), MAX_LIFETIME)
        self._lifetimes[db] = _Lifetime(seconds, time.time())

    # -- for addons that know of files ------------------------------------------------------------

    def get_session_filename(self, sid: str) -> str:
        """A file with the time of the last activity of the request's session, for the request.

        :raises NotImplementedError: for any other session: what would be done with its file, or
            read from it, would not be the session's
        """
        session = self._session_at_hand()
        if not isinstance(session, RedisSession) or session.sid != sid:
            raise NotImplementedError(NO_FILES.format("get_session_filename of another session"))
        if session.activity is None:
            session.activity = ActivityFile(session.record.seen if session.record else time.time())
        return session.activity.path

    def __getattr__(self, name: str) -> Any:
        """Say why, where an addon asks for what only a store of files has."""
        if name in _OF_FILES:
            raise AttributeError(NO_FILES.format(name), name=name, obj=self)
        raise AttributeError(f"{type(self).__name__} has no attribute {name}", name=name, obj=self)

    # -- steps -------------------------------------------------------------------------------------

    def _save(self, session: Any, how: bytes) -> None:
        place = self._place_of(session.sid)
        record = self._sealed(place, session._Session__data, self._ttl(session))
        outcome = self._write(place, record, how)
        if outcome == b"saved":
            self._remember(session, record)
        elif outcome == b"taken":  # an old sid, or one that was made up
            session.sid = self.generate_key()
            self._save(session, how)
        else:
            self._leave(session, f"was {outcome.decode()} meanwhile, not saved")

    def _write(self, place: SessionPlace, record: SessionRecord, how: bytes) -> bytes:
        outcome: bytes = self._run(
            scripts.SAVE, place.key, place.field, record.raw, record.ttl * 1000, how, DEADLINE
        )
        return outcome

    def _rotate_hard(self, session: Any, env: Any) -> None:
        old, record_of_old = self._place_of(session.sid), getattr(session, "record", None)
        session.sid = self.generate_key()
        self._renew(session, env)
        place = self._place_of(session.sid)
        record = self._sealed(place, dict(session), self._ttl(session))
        self._write(place, record, scripts.CREATE)
        self._remember(session, record)
        # Last: whatever fails before leaves the old session as it was. So it is not done late.
        if record_of_old is not None and self._is_valid(old, record_of_old):
            self._run(scripts.LEAVE, old.key, DEADLINE)
        else:
            self._delete(old, None)

    def _rotate_softly(self, session: Any, env: Any) -> None:
        old = self._place_of(session.sid)
        next_sid = session.sid[:IDENTIFIER_LENGTH] + self.generate_key()[IDENTIFIER_LENGTH:]
        successor = RedisSession({**session, "gc_previous_sessions": True}, next_sid)
        self._renew(successor, env)
        new = self._place_of(next_sid)
        ttl = self._ttl(session)
        left = self._sealed(
            old,
            {
                **session,
                "next_sid": next_sid,
                "deletion_time": time.time() + http.SESSION_DELETION_TIMER,
            },
            ttl,
        )
        record = self._sealed(new, dict(successor), ttl)
        for _attempt in range(ROTATION_ATTEMPTS):
            current = self._read(old)
            if current is None and not session.is_new:
                self._leave(session, "was revoked meanwhile, not rotated")
                return
            if current is not None and "next_sid" in current.data:
                session.sid = current.data["next_sid"]
                self._remember(session, None)
                return
            if self._exchange(old, current, ttl, (old, left), (new, record)):
                session.sid = next_sid
                session.update(successor)
                session.should_rotate = False
                self._remember(session, record)
                return
        _logger.info("Session %s… is too busy, rotated later", session.sid[:8])
        self.save(session)

    def _leave(self, session: Any, why: str) -> None:
        """Do without storing a session. Clean, so that no cookie is sent for what is not there: it
        would overwrite the one that another request got for its successor."""
        session.is_dirty = False
        _logger.info("Session %s… %s", session.sid[:8], why)

    def _renew(self, session: Any, env: Any) -> None:
        """What makes a session valid under its new sid."""
        if session.uid:
            assert env, "saving this session requires an environment"
            session.session_token = security.compute_session_token(session, env)
        session.should_rotate = False
        session["create_time"] = time.time()

    def _read(self, place: SessionPlace) -> SessionRecord | None:
        """What is stored there; whatever does not open counts as nothing, and is logged.

        That there is nothing is asked twice: it is believed of a server that takes changes.
        """
        try:
            raw = self._execute("HGET", place.key, place.field)
            if raw is None:
                raw = self._run(scripts.FIND, place.key, place.field)
            return None if raw is None else unseal(place, raw)
        except (CorruptRecordError, WrongTypeError) as error:
            _logger.warning("What is stored under %s is refused: %s", place.key, error)
            return None

    def _exchange(
        self,
        place: SessionPlace,
        expected: SessionRecord | None,
        ttl: int,
        *written: tuple[SessionPlace, SessionRecord],
    ) -> bool:
        """Write records of one hash if ``place`` still holds what is expected; whether it did."""
        values = [text for where, record in written for text in (where.field, record.raw)]
        raw = expected.raw if expected else b""
        arguments = (place.field, raw, ttl * 1000, *values, DEADLINE)
        return bool(self._run(scripts.EXCHANGE, place.key, *arguments))

    def _delete(self, place: SessionPlace, record: SessionRecord | None) -> None:
        """Delete what was valid when it was read with all its family; decide there otherwise."""
        if record is not None and self._is_valid(place, record):
            self._execute("UNLINK", place.key)
        else:
            self._run(scripts.DELETE, place.key, place.field, b"")

    def _is_valid(self, place: SessionPlace, record: SessionRecord) -> bool:
        """Whether it authenticates: live, or superseded a moment ago."""
        if not record.superseded:
            return True
        try:
            return bool(unseal(place, record.raw).data["deletion_time"] > time.time())
        except (CorruptRecordError, KeyError):
            return False

    def _place_of(self, sid: Any) -> SessionPlace:
        return session_place(self._prefix, sid)

    def _sealed(self, place: SessionPlace, data: dict[str, Any], ttl: int) -> SessionRecord:
        now = time.time()
        return SessionRecord(data, now, ttl, seal(place, data, seen=now, ttl=ttl))

    def _remember(self, session: Any, record: SessionRecord | None) -> None:
        if isinstance(session, RedisSession):
            session.record = record

    # -- timeouts ----------------------------------------------------------------------------------

    def _ttl(self, session: Any) -> int:
        """Seconds of inactivity that this session may outlive."""
        current = self._lifetime_of(session)
        if current is not None:
            self.learn(session.db, current)
        data = session._Session__data
        if self._anonymous_ttl is not None and not data.get("uid"):
            return self._anonymous_ttl
        # What a vacuum says of sessions without a database is for those that are idle by then.
        db = data.get("db")
        learnt = self._lifetimes.get(db) if db else None
        return learnt.seconds if learnt else http.SESSION_LIFETIME

    def _is_expired(self, record: SessionRecord) -> bool:
        """Whether a record is idle too long by Python's clock.

        Redis drops it by its own; but it may have been idle too long already when a lower timeout
        of its database was learnt. What came of the timeout since is not known.
        """
        now = time.time()
        if self._anonymous_ttl is None or record.data.get("uid"):
            learnt = self._lifetimes.get(record.data.get("db"))
            # The clock may have been set back since it was learnt.
            if learnt and min(learnt.since, now) - record.seen >= learnt.seconds:
                return True
        return now - record.seen >= record.ttl

    # -- Redis -------------------------------------------------------------------------------------

    def _execute(self, *command: Any) -> Any:
        try:
            return self._server.execute(*command)
        except RedisUnavailableError as error:
            raise self._unavailable(error) from error

    def _run(self, script: Any, key: str, *arguments: Any) -> Any:
        try:
            return self._server.evaluate(script, key, *arguments)
        except RedisUnavailableError as error:
            raise self._unavailable(error) from error

    def _run_many(self, command: str, identifiers: Sequence[str]) -> Sequence[Any]:
        """One ``command`` for the key of each identifier."""
        try:
            return self._server.execute_many(
                [(command, identifier_key(self._prefix, i)) for i in identifiers]
            )
        except RedisUnavailableError as error:
            raise self._unavailable(error) from error

    def _unavailable(self, error: RedisUnavailableError) -> SessionStoreUnavailable:
        # Of silence the server tells itself.
        now = time.monotonic()
        if isinstance(error, RedisRefusedError) and now - self._refused >= REFUSALS_LOGGED:
            self._refused = now
            _logger.warning("Refused: %s", error)
        return SessionStoreUnavailable()

    # Last in the class, where the name means this.
    def list(self) -> Sequence[str]:
        """As Odoo's store: it looks for files of a former name, and finds none."""
        return []
