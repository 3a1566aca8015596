"""The sessions of all databases, in Redis.

One HASH per session identifier; one field of it per sid of that soft-rotated family; each value
sealed with a key that takes the sid and a secret of the servers (see ``codec.session``). Every
change is one script on one key. A Redis that does not answer, or not as Redis would, raises: it
never looks like a session that is not there. Times are by Redis' clock, because nodes may disagree.
"""

import logging
import math
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from secrets import token_hex
from typing import Any, NamedTuple

from odoo import http
from odoo.http import FilesystemSessionStore
from odoo.service import security
from odoo.tools._vendor.sessions import SessionStore
from psycopg2.pool import PoolError
from werkzeug.exceptions import ServiceUnavailable
from werkzeug.wrappers import Response

from ..codec.session import SessionRecord, database_of, newer, seal, unseal
from ..connection import DEADLINE, RedisServer
from ..exceptions import (
    CorruptRecordError,
    Error,
    NewerRecordError,
    OldStoreUnavailableError,
    RedisRefusedError,
    RedisUnavailableError,
    SecretUnavailableError,
    WrongTypeError,
)
from ..keys import (
    IDENTIFIER_LENGTH,
    SessionPlace,
    identifier_key,
    is_valid_identifier,
    is_valid_sid,
    moved_key,
    session_place,
)
from ..migration import OldSession, OldStore, Refused
from . import scripts
from .activity import ActivityFile
from .counters import SESSION_COUNTERS
from .secrets import ServerSecrets
from .session import content_of, copy_session, read_session, session_class

_logger = logging.getLogger(__name__)

RETRY_AFTER = 2  # seconds, what a client is told to wait after a 503
ROTATION_ATTEMPTS = 10
LOST_ROTATIONS = 10  # in a row, whose answers no browser got
REFUSALS_LOGGED = 10.0  # seconds between two lines in the log
CLOCK_WAS_SET = 10.0  # seconds; a call takes less
MAX_LIFETIME = 10**9  # seconds; Redis refuses an expiry that overflows
# Activity is written down once per 1/60 of the timeout at most, and once a minute at most: an idle
# session ends that much early at the worst, and never late.
ACTIVITY_FRACTION = 60
ACTIVITY_INTERVAL = 60  # seconds
MOST_SEEN = 10_000  # sessions that are remembered for the books until they are asked for
# How long it is remembered which sessions came from another store, or were ended there: longer than
# that store may go on holding them, also if its nodes still serve while the others are restarted.
REVOKED_FOR = 365 * 24 * 3600  # seconds; so long a cookie lives
MOVED_FOR = 2  # times the longer of both lifetimes
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
    * a sid whose successor never reached the browser leads to it, see :meth:`presented`;
    * the timeout runs from the last activity, see :meth:`touch`.

    :param server: where the sessions are; kept
    :param prefix: what their keys start with
    :param secrets: of the servers; without one of them no content is accepted
    :param anonymous_ttl: seconds for sessions without a user; None: as the others
    :param lifetime_of: gives ``sessions.max_inactivity_seconds`` of a session's database, or None
        where it cannot be known now
    :param session_at_hand: gives the session of the request that this thread serves, or None
    :param old: where sessions were kept before: those that are only there are moved when they are
        asked for
    :param read_lifetime: gives the same as ``lifetime_of`` for a database, for sessions that are
        moved; None where it has none
    :ivar now: gives seconds since the epoch by Redis' clock, by which all times of records are
    """

    renew_missing = True  # a sid under which there is nothing is not taken over

    def __init__(
        self,
        server: RedisServer,
        *,
        prefix: str,
        secrets: ServerSecrets,
        anonymous_ttl: int | None = None,
        lifetime_of: Callable[[Any], int | None] = lambda session: None,
        session_at_hand: Callable[[], Any] = lambda: None,
        old: OldStore | None = None,
        read_lifetime: Callable[[str], int | None] = lambda db: None,
    ) -> None:
        super().__init__(session_class(http.Session))
        self.server = server
        self.now = server.clock.now
        self._prefix = prefix
        self._secrets = secrets
        self._anonymous_ttl = anonymous_ttl
        self._lifetime_of = lifetime_of
        self._session_at_hand = session_at_hand
        self.old = old
        self._read_lifetime = read_lifetime
        self._lifetimes: dict[str | None, _Lifetime] = {}
        self._seen: dict[str, tuple[str, int, float]] = {}  # see `seen`
        self._refused = -REFUSALS_LOGGED  # when it was logged
        self._last_refused: tuple[str, Any] = "", None  # field and value

    def disconnect(self) -> None:
        """Close this process's connections; the next call opens one."""
        self.server.disconnect()
        if self.old:
            self.old.close()

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
            text, key, field = scripts.DELETE.text, place.key, place.field
            self._execute("EVAL", text, 1, key, field, b"", 0, DEADLINE)
            identifiers = [session.sid[:IDENTIFIER_LENGTH]]
            self._missing_here(identifiers)
            self._end_here(identifiers)
            self._read(place)
            if self.old:
                self._execute("UNLINK", moved_key(place.key))
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
        if record is None and self.old:
            record = self._moved_here(sid, place)
        if record is None:
            return self.new()
        now = self.now()
        end = self._end_of(record, now)
        if end <= now and self._delete_after(end, place, record):
            return self.new()
        SESSION_COUNTERS[record.data.get("db") or ""].read += 1
        self._see(sid, record, now)
        if record.superseded:
            self._shift_deletion(record.data, -self._skew())
        return read_session(self.session_class, record, sid)

    def presented(self, session: Any) -> str | None:
        """Take note that a browser has sent the sid of this session, which was read with it.

        A soft rotation issues another sid. If its answer is lost the browser goes on with the old
        one, which Odoo refuses after ``SESSION_DELETION_TIMER`` seconds. So as long as nobody has
        presented the issued sid, the old one leads to it.

        :return: the issued sid, whose session is to be served instead; or None
        """
        record = getattr(session, "redis_record", None)
        if record is None or not (record.superseded or "gc_previous_sessions" in session):
            return None
        place = self._place_of(session.sid)
        try:
            issued = self._execute("HGET", place.key, scripts.ISSUED)
            if issued == place.field.encode():
                self._run(scripts.PRESENTED, place, DEADLINE)
            elif isinstance(issued, bytes):
                return self._issued_after(session, issued.decode(errors="replace"))
        except (SessionStoreUnavailable, WrongTypeError) as error:
            _logger.debug("Whether a sid was presented is not known: %s", error)
        return None

    def _issued_after(self, session: Any, field: str) -> str | None:
        """The sid with that field, if the rotations of this session end there."""
        for _rotation in range(LOST_ROTATIONS):
            next_sid = session.get("next_sid")
            if not is_valid_sid(next_sid):
                return None
            if self._place_of(next_sid).field == field:
                return str(next_sid)
            session = self.get(next_sid)
        return None

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
        self._delete(self._place_of(session.sid), getattr(session, "redis_record", None))

    def touch(self, session: Any) -> int | None:
        """Note activity on a session: its timeout starts again.

        Coalesced, and without rewriting its content: a concurrent ``save`` is never undone. A
        Redis that does not answer is passed over: the next activity will be noted. Where an addon
        has asked for the session's file, its request is activity if it has set the file's time.

        :return: the timeout in seconds if it was due, and noted now
        """
        record = getattr(session, "redis_record", None)
        if record is None or record.superseded:
            return None
        interval = min(record.ttl / ACTIVITY_FRACTION, ACTIVITY_INTERVAL)
        if session.redis_activity is not None:
            if not session.redis_activity.is_touched():
                return None
            interval = min(interval, TOUCHED_INTERVAL)
        if abs(self.now() - record.seen) < interval:
            return None
        place = self._place_of(session.sid)
        try:
            ttl = self._ttl(session)
            return ttl if self._note_activity(place, record, ttl) else None
        except (CorruptRecordError, SessionStoreUnavailable) as error:
            _logger.debug("Activity not noted: %s", error)
            return None

    def renew(self, sid: str, record: SessionRecord) -> tuple[str, SessionRecord] | None:
        """Note activity of a request that is still at work; as :meth:`touch`, beside the request.

        :param record: what was stored under the sid when it was looked at last
        :return: what is stored now, and under which sid: another request may have saved or rotated
            it, which is activity; None where the session has ended. Where the record given is that
            of a superseded sid, nothing is noted yet
        :raises SessionStoreUnavailable: when Redis does not say
        """
        place = self._place_of(sid)
        if not record.superseded:
            try:
                noted = self._note_activity(place, record, record.ttl)
            except CorruptRecordError:  # the secret of its database was changed
                return None
            if noted is not None:
                return sid, noted
        current = self._read(place)
        while current is not None and current.superseded:
            sid = current.data["next_sid"]
            current = self._read(self._place_of(sid))
        return None if current is None else (sid, current)

    def _note_activity(
        self, place: SessionPlace, record: SessionRecord, ttl: int
    ) -> SessionRecord | None:
        """Have a record seen now, unless another one is stored by now; the new one, or None.

        :raises CorruptRecordError: when it does not open any more
        """
        # record.data may be the session's own, changed since: what was stored is in the bytes.
        data = self._opened(place, record.raw).data
        for _attempt in range(2):
            noted = self._sealed(place, data, ttl)
            if not self._exchange(place, record, ttl, (place, noted)):
                return None
            if not self._was_sealed_long_ago(noted):
                break
            record = noted
        return noted

    def is_stored(self, sid: str) -> bool:
        """Whether there is a session under a sid; also where Redis does not say."""
        try:
            return self._read(self._place_of(sid)) is not None
        except SessionStoreUnavailable:
            return True

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
        if getattr(session, "redis_is_awaited", False):  # its browser still has one of these
            return
        if session["create_time"] + http.SESSION_DELETION_TIMER >= self.now():
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
        """Those of ``identifiers`` under which there is no session.

        One that is only in the old store still is there, unless one of its sids was moved or ended.
        """
        missing = self._missing_here(identifiers)
        if self.old and missing:
            try:
                names = self.old.names()
            except OldStoreUnavailableError as error:
                raise self._unavailable(error) from error
            there = list(missing & {name[:IDENTIFIER_LENGTH] for name in names})
            known = self._run_many(there, "EXISTS", key_of=moved_key)
            missing -= {
                identifier
                for identifier, is_known in zip(there, known, strict=True)
                if not is_known
            }
        return missing

    def _missing_here(self, identifiers: Iterable[str]) -> set[str]:
        asked = list(dict.fromkeys(identifiers))
        valid = [identifier for identifier in asked if is_valid_identifier(identifier)]
        found = self._run_many(valid, "EXISTS")
        return set(asked).difference(
            identifier for identifier, exists in zip(valid, found, strict=True) if exists
        )

    def delete_from_identifiers(self, identifiers: Sequence[str]) -> None:
        """Forget all sessions of these identifiers, in the old store too.

        :raises SessionStoreUnavailable: when one of both did not do it; if that was the old store,
            they are ended for all nodes that have this one
        :raises ValueError: when one is malformed; nothing is deleted then
        """
        if not all(map(is_valid_identifier, identifiers)):
            raise ValueError(
                "Identifier format incorrect, did you pass in a string instead of a list?"
            )
        self._end_here(identifiers)
        if self.old and identifiers:
            try:
                self.old.delete(identifiers)
            except OldStoreUnavailableError as error:
                raise self._unavailable(error) from error

    def _end_here(self, identifiers: Sequence[str]) -> None:
        if self.old:
            keys = [identifier_key(self._prefix, identifier) for identifier in identifiers]
            self._run_for_keys(
                scripts.REVOKE,
                [(key, moved_key(key), REVOKED_FOR * 1000, b"", DEADLINE) for key in keys],
            )
            return
        # The text, because a server may not know the script, and all are sent at once.
        self._run_many(identifiers, "EVAL", scripts.END.text, 1, last=DEADLINE)

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
        self._lifetimes[db] = _Lifetime(seconds, self.now())

    def seen(self) -> dict[str, tuple[str, int, float]]:
        """Sessions of users that this process has had since it was asked last.

        :return: database, uid and last activity by identifier
        """
        seen, self._seen = self._seen, {}
        return seen

    def _see(self, sid: str, record: SessionRecord, now: float) -> None:
        database, uid = record.data.get("db"), record.data.get("uid")
        if database and uid and len(self._seen) < MOST_SEEN:
            self._seen[sid[:IDENTIFIER_LENGTH]] = database, uid, now

    # -- from another store ------------------------------------------------------------------------

    def adopt(self, found: Sequence[OldSession], *, ask: bool = False) -> list[bytes | None]:
        """Store sessions of the old store under their sids, each with what is left of its time.

        Nothing that is here is changed. A sid that was moved before is not moved again, because its
        session may have ended here since; nor one of an identifier whose sessions were ended.

        :param ask: store nothing, be told only
        :return: for each ``MOVED``, ``HERE`` or ``ENDED``; None: its time is over
        :raises SessionStoreUnavailable: when Redis, or PostgreSQL, does not say
        """
        outcomes: list[bytes | None] = [None] * len(found)
        numbers, calls = [], []
        for number, session in enumerate(found):
            place, data = self._place_of(session.sid), session.data
            lifetime = self._lifetime_in(data.get("db"))
            ttl = lifetime if data.get("uid") else self._anonymous_ttl or lifetime
            left = ttl - (session.idle or 0.0)
            if session.left is not None:
                left = min(left, session.left)
            if left <= 0 or self._is_superseded_for_good(data):
                continue
            record = self._sealed(place, data, ttl, idle=ttl - left)
            known = MOVED_FOR * max(lifetime, session.left or 0.0)
            numbers.append(number)
            calls.append(
                (
                    *(place.key, moved_key(place.key), place.field, record.raw),
                    *(math.ceil(left * 1000), math.ceil(known * 1000)),
                    *(scripts.ASK if ask else scripts.MOVE, DEADLINE),
                )
            )
        answers = self._run_for_keys(scripts.ADOPT, calls, among=scripts.MOVES)
        for number, answer in zip(numbers, answers, strict=True):
            outcomes[number] = answer
        return outcomes

    def _moved_here(self, sid: str, place: SessionPlace) -> SessionRecord | None:
        """The old store's session of a sid that is not here, moved; None where there is none.

        Of two nodes that move it at once, one does so, and the other finds it here.
        """
        assert self.old
        try:
            [found] = self.old.fetch([sid])
        except OldStoreUnavailableError as error:
            raise self._unavailable(error) from error
        if found is None:
            return None
        if isinstance(found, Refused):
            _logger.warning("Session %s… of the old store is %s", sid[:8], found.reason)
            return None
        [outcome] = self.adopt([found])
        if outcome == scripts.ENDED or outcome is None:
            return None
        return self._read(place)

    def _end_in_old(self, place: SessionPlace) -> None:
        """A session ends that may have come from the old store: there too."""
        assert self.old
        ended = place.key, moved_key(place.key), REVOKED_FOR * 1000, b"known", DEADLINE
        [was_moved] = self._run_for_keys(scripts.REVOKE, [ended])
        if was_moved:
            try:
                self.old.delete([place.key[-IDENTIFIER_LENGTH:]])
            except OldStoreUnavailableError as error:  # here it has ended for good
                _logger.warning("A session ended, and is still in the old store: %s", error)

    def _lifetime_in(self, db: str | None) -> int:
        """Seconds that sessions of a database live without activity."""
        if db and db not in self._lifetimes:
            try:
                found = self._read_lifetime(db)
            except SecretUnavailableError as error:
                raise self._unavailable(error) from error
            self.learn(db, int(http.SESSION_LIFETIME) if found is None else found)
        return self._lifetimes[db].seconds if db in self._lifetimes else int(http.SESSION_LIFETIME)

    @staticmethod
    def _is_superseded_for_good(data: dict[str, Any]) -> bool:
        """Whether Odoo takes a sid for none because a soft rotation replaced it a while ago."""
        moment = data.get("deletion_time")
        return isinstance(moment, (int, float)) and moment <= time.time()

    # -- for addons that know of files ------------------------------------------------------------

    def get_session_filename(self, sid: str) -> str:
        """A file with the time of the last activity of the request's session, for the request.

        :raises NotImplementedError: for any other session: what would be done with its file, or
            read from it, would not be the session's
        """
        session = self._session_at_hand()
        if not hasattr(session, "redis_activity") or session.sid != sid:
            raise NotImplementedError(NO_FILES.format("get_session_filename of another session"))
        if session.redis_activity is None:
            record = session.redis_record
            idle = self.now() - record.seen if record else 0.0
            session.redis_activity = ActivityFile(time.time() - idle)
        path: str = session.redis_activity.path
        return path

    def __getattr__(self, name: str) -> Any:
        """Say why, where an addon asks for what only a store of files has."""
        if name in _OF_FILES:
            raise AttributeError(NO_FILES.format(name), name=name, obj=self)
        raise AttributeError(f"{type(self).__name__} has no attribute {name}", name=name, obj=self)

    # -- steps -------------------------------------------------------------------------------------

    def _save(self, session: Any, how: bytes) -> None:
        outcome = self._write(session, how)
        if outcome == scripts.TAKEN:  # an old sid, or one that was made up
            session.sid = self.generate_key()
            outcome = self._write(session, how)
        if outcome == scripts.NEWER:
            raise self._unavailable(newer())
        if outcome == scripts.TAKEN:
            raise self._wrong_answer(outcome)
        if outcome != scripts.SAVED:
            self._leave(session, f"was {outcome.decode()} meanwhile, not saved")

    def _write(self, session: Any, how: bytes) -> bytes:
        """Store a session under its sid; one of the outcomes of ``SAVE``."""
        place = self._place_of(session.sid)
        outcome = b""
        for _attempt in range(2):
            record = self._sealed(place, content_of(session), self._ttl(session))
            arguments = record.raw, record.ttl * 1000, how, DEADLINE
            outcome = self._run(scripts.SAVE, place, *arguments, among=scripts.OUTCOMES)
            if outcome != scripts.SAVED:
                break
            self._remember(session, record)
            if not self._was_sealed_long_ago(record):
                break
            how = scripts.KEEP
        if outcome == scripts.SAVED:
            SESSION_COUNTERS[session.db or ""].saved += 1
            self._see(session.sid, record, record.seen)
        return outcome

    def _rotate_hard(self, session: Any, env: Any) -> None:
        """Two steps, because the sessions have two keys; the end of one needs no memory in Redis.

        A logout ends the session first, and is done whatever becomes of its successor, which has
        nobody logged in. Otherwise the successor comes first, because the user goes on with it:
        if either step fails, the former session is as it was.
        """
        old, record_of_old = self._place_of(session.sid), getattr(session, "redis_record", None)
        is_logout = record_of_old is not None and record_of_old.has_user and not session.uid
        session.sid = self.generate_key()
        self._renew(session, env)
        if is_logout:
            self._delete(old, record_of_old)
            try:
                self._create(session)
            except SessionStoreUnavailable as error:
                session.is_dirty = False
                _logger.info("Nobody is logged in any more, in a session not stored: %s", error)
        else:
            self._create(session)
            self._delete(old, record_of_old)

    def _create(self, session: Any) -> None:
        outcome = self._write(session, scripts.CREATE)
        if outcome != scripts.SAVED:  # nobody has that sid
            raise self._wrong_answer(outcome)

    def _rotate_softly(self, session: Any, env: Any) -> None:
        old = self._place_of(session.sid)
        next_sid = session.sid[:IDENTIFIER_LENGTH] + self.generate_key()[IDENTIFIER_LENGTH:]
        successor = copy_session(session)
        successor.sid = next_sid
        successor["gc_previous_sessions"] = True
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
            if self._exchange(old, current, ttl, (old, left), (new, record), issued=new.field):
                session.sid = next_sid
                session._Session__data = successor._Session__data
                session.is_dirty, session.should_rotate = True, False
                self._remember(session, record)
                if self._was_sealed_long_ago(record):
                    self._write(session, scripts.KEEP)
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
        session["create_time"] = self.now()

    def _read(self, place: SessionPlace) -> SessionRecord | None:
        """What is stored there; whatever does not open counts as nothing, and is logged.

        That nothing opens is asked twice: it is believed of a server that takes changes, and that
        answers as the script does.
        """
        raw, refusal = None, ""
        try:
            raw = self._execute("HGET", place.key, place.field)
            if raw is not None:
                return self._opened(place, raw)
        except (CorruptRecordError, WrongTypeError) as error:
            refusal = str(error)
        proof = token_hex(8)
        answer = self._run(scripts.FIND, place, proof)
        if not isinstance(answer, list) or len(answer) != 2 or answer[0] != proof.encode():
            raise self._wrong_answer(answer)
        found = answer[1]
        if found is None:
            return None
        try:
            if found != raw:  # it was changed meanwhile
                return self._opened(place, found)
        except CorruptRecordError as error:
            refusal = str(error)
        if self._last_refused != (place.field, found):  # a page asks for many files
            self._last_refused = place.field, found
            _logger.warning("What is stored under %s is refused: %s", place.key, refusal)
        return None

    def _opened(self, place: SessionPlace, raw: Any) -> SessionRecord:
        """The record of these bytes.

        :raises CorruptRecordError: when no server that knows the secret of its database sealed it
        :raises SessionStoreUnavailable: when it is not known whether one did
        """
        try:
            try:
                return unseal(place, raw, self._secrets.to_open)
            except CorruptRecordError as error:
                if not self._secrets.may_be_another(error.database):
                    raise
                return unseal(place, raw, self._secrets.read_again)
        except (NewerRecordError, SecretUnavailableError) as error:
            raise self._unavailable(error) from error

    def _exchange(
        self,
        place: SessionPlace,
        expected: SessionRecord | None,
        ttl: int,
        *written: tuple[SessionPlace, SessionRecord],
        issued: str | None = None,
    ) -> bool:
        """Write records of one hash if ``place`` still holds what is expected; whether it did.

        :param issued: the field of a sid that a browser is to present
        """
        values = [text for where, record in written for text in (where.field, record.raw)]
        if issued:
            values += [scripts.ISSUED, issued]
        raw = expected.raw if expected else b""
        done = self._run(
            scripts.EXCHANGE, place, raw, ttl * 1000, *values, DEADLINE, among=scripts.COUNTS
        )
        return bool(done)

    def _delete(self, place: SessionPlace, record: SessionRecord | None) -> None:
        """Delete what was valid when it was read with all its family; decide there otherwise."""
        if record is not None and self._is_valid(place, record):
            if self.old:
                self._end_in_old(place)
            else:
                self._run(scripts.END, place, DEADLINE, among=scripts.COUNTS)
        else:
            self._run(scripts.DELETE, place, b"", 0, DEADLINE, among=scripts.COUNTS)

    def _delete_after(self, end: float, place: SessionPlace, record: SessionRecord) -> bool:
        """Delete a session whose time is over, unless Redis itself knows that it is not yet.

        This process knows Redis' clock as it was a minute ago at most, perhaps that of a server
        from which another has taken over since.
        """
        moment = math.ceil((end - self.server.clock.moved()) * 1000)
        among = {*scripts.COUNTS, scripts.EARLY}
        outcome = self._run(scripts.DELETE, place, record.raw, moment, DEADLINE, among=among)
        return bool(outcome != scripts.EARLY)

    def _is_valid(self, place: SessionPlace, record: SessionRecord) -> bool:
        """Whether it authenticates: live, or superseded a moment ago."""
        if not record.superseded:
            return True
        try:
            return bool(self._opened(place, record.raw).data["deletion_time"] > self.now())
        except (CorruptRecordError, KeyError):
            return False

    def _place_of(self, sid: Any) -> SessionPlace:
        return session_place(self._prefix, sid)

    def _sealed(
        self, place: SessionPlace, data: dict[str, Any], ttl: int, *, idle: float = 0.0
    ) -> SessionRecord:
        now = self.now() - idle
        if "next_sid" in data:
            data = dict(data)
            self._shift_deletion(data, self._skew())
        try:
            secret = self._secrets.to_seal(database_of(data))
        except SecretUnavailableError as error:
            raise self._unavailable(error) from error
        raw = seal(place, secret, data, seen=now, ttl=ttl)
        return SessionRecord(data, now, ttl, raw)

    def _was_sealed_long_ago(self, record: SessionRecord) -> bool:
        """Whether Redis' clock turned out to be another one when a record was stored: its times are
        wrong then, and it might end at once."""
        return self.now() - record.seen > CLOCK_WAS_SET

    def _shift_deletion(self, data: dict[str, Any], seconds: float) -> None:
        """Between Redis' clock, by which records are, and this node's, which Odoo looks at."""
        if isinstance(moment := data.get("deletion_time"), (int, float)):
            data["deletion_time"] = moment + seconds

    def _skew(self) -> float:
        """Seconds that Redis' clock is ahead of this node's; 0.0 where they agree."""
        return round(self.now() - time.time(), 1)

    def _remember(self, session: Any, record: SessionRecord | None) -> None:
        session.is_dirty = False  # or Odoo would send a cookie that the browser has
        if hasattr(session, "redis_record"):
            session.redis_record = record

    # -- timeouts ----------------------------------------------------------------------------------

    def _ttl(self, session: Any) -> int:
        """Seconds of inactivity that this session may outlive."""
        current = self._lifetime_of(session)
        if current is not None:
            self.learn(session.db, current)
        data = content_of(session)
        if self._anonymous_ttl is not None and not data.get("uid"):
            return self._anonymous_ttl
        db, default = data.get("db"), int(http.SESSION_LIFETIME)
        if not db:  # what a vacuum says of these is for those that are idle by then
            return default
        learnt, record = self._lifetimes.get(db), getattr(session, "redis_record", None)
        if current is None and record and (learnt is None or learnt.since < record.seen):
            # Another process may have written it, which knew of a change since.
            return record.ttl  # type: ignore[no-any-return]
        return learnt.seconds if learnt else default

    def _end_of(self, record: SessionRecord, now: float) -> float:
        """When a record is idle too long, in seconds since the epoch.

        Redis drops it by its own; but it may have been idle too long already when a lower timeout
        of its database was learnt. What came of the timeout since is not known. And an old record
        may have been put back.
        """
        if self._anonymous_ttl is None or record.data.get("uid"):
            learnt = self._lifetimes.get(record.data.get("db"))
            # The clock may have been set back since it was learnt.
            if learnt and min(learnt.since, now) - record.seen >= learnt.seconds:
                return record.seen + learnt.seconds
        return record.seen + record.ttl

    # -- Redis -------------------------------------------------------------------------------------

    def _execute(self, *command: Any) -> Any:
        try:
            return self.server.execute(*command)
        except RedisUnavailableError as error:
            raise self._unavailable(error) from error

    def _run(
        self, script: Any, place: SessionPlace, *arguments: Any, among: set[Any] | None = None
    ) -> Any:
        """Run a script for the field of a place.

        :param among: the answers that it may give
        """
        try:
            answer = self.server.evaluate(script, place.key, place.field, *arguments)
        except (RedisUnavailableError, WrongTypeError) as error:
            raise self._unavailable(error) from error
        if among is not None and (not isinstance(answer, (bytes, int)) or answer not in among):
            raise self._wrong_answer(answer)
        return answer

    def _run_many(
        self,
        identifiers: Sequence[str],
        *command: Any,
        last: Any = None,
        key_of: Callable[[str], str] = str,
    ) -> Sequence[int]:
        """One ``command`` for the key of each identifier; it answers with a number.

        :param last: an argument after the key
        :param key_of: gives another key for that key
        """
        end = () if last is None else (last,)
        keys = [key_of(identifier_key(self._prefix, identifier)) for identifier in identifiers]
        try:
            answers = self.server.execute_many([(*command, key, *end) for key in keys])
        except (RedisUnavailableError, WrongTypeError) as error:
            raise self._unavailable(error) from error
        for answer in answers:
            if not isinstance(answer, int) or answer not in scripts.COUNTS:
                raise self._wrong_answer(answer)
        return answers

    def _run_for_keys(
        self, script: Any, calls: Sequence[tuple[Any, ...]], among: set[Any] = scripts.COUNTS
    ) -> list[Any]:
        """A script for many keys.

        :param calls: their keys and arguments
        :param among: the answers that it may give
        """
        try:
            answers = self.server.evaluate_many(script, calls)
        except (RedisUnavailableError, WrongTypeError) as error:
            raise self._unavailable(error) from error
        for answer in answers:
            if not isinstance(answer, (bytes, int)) or answer not in among:
                raise self._wrong_answer(answer)
        return answers

    def _wrong_answer(self, answer: Any) -> SessionStoreUnavailable:
        """Of something between that answers for Redis, and not as Redis does."""
        told = f"Redis at {self.server.shown_url} gave an answer of another kind: {answer!r:.40}"
        return self._unavailable(RedisRefusedError(told))

    def _unavailable(self, error: Error) -> SessionStoreUnavailable:
        SESSION_COUNTERS[""].unavailable += 1
        now = time.monotonic()
        is_silence = type(error) is RedisUnavailableError  # which the server logs itself
        if not is_silence and now - self._refused >= REFUSALS_LOGGED:
            self._refused = now
            is_redis = isinstance(error, RedisRefusedError)
            _logger.warning("%s: %s", "Refused" if is_redis else "HTTP 503", error)
        return SessionStoreUnavailable()

    # Last in the class, where the name means this.
    def list(self) -> Sequence[str]:
        """As Odoo's store: it looks for files of a former name, and finds none."""
        return []
