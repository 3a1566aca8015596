"""Secrets that only the servers know; a session that was sealed without one does not open.

All nodes that serve a database can read its ``database.secret``, Redis never sees it, and stock
Odoo logs the database's users out when it changes, because ``session_token`` is made with it. So a
session with a database is sealed with that. The others have nobody logged in, and are sealed with a
secret of the node.
"""

from collections.abc import Callable
from typing import NamedTuple

from ..connection.clock import monotonic
from ..exceptions import SecretUnavailableError

LONGEST_NAME = 63  # bytes of a database's name in PostgreSQL
REMEMBERED = 1.0  # seconds that an answer of PostgreSQL is taken for the next one too
MOST_REMEMBERED = 256  # answers; names of databases may come from whoever writes to Redis


class _Answer(NamedTuple):
    """What PostgreSQL said of a database, or why it did not."""

    at: float
    secret: str | None
    error: SecretUnavailableError | None

    @property
    def is_recent(self) -> bool:
        return monotonic() - self.at < REMEMBERED


class ServerSecrets:
    """The secret for each database.

    A process reads it when it meets a database for the first time, and when a record does not open.

    :param node: of sessions without a database, or with one that has no secret
    :param read: gives ``database.secret`` of a database, None where it has none; raises
        ``SecretUnavailableError`` when PostgreSQL does not say
    :param at_hand: gives the same as the request at hand knows it; None where that is not known
    """

    def __init__(
        self,
        node: str,
        *,
        read: Callable[[str], str | None],
        at_hand: Callable[[str], str | None] = lambda db: None,
    ) -> None:
        self._node, self._read, self._at_hand = node, read, at_hand
        self._known: dict[str, str] = {}
        self._answers: dict[str, _Answer] = {}

    def __repr__(self) -> str:
        return f"<ServerSecrets of {sorted(self._known)}>"

    def to_seal(self, db: str | None) -> str:
        """The secret as of now, as far as this process knows."""
        return (self._at_hand(db) if db else None) or self.to_open(db)

    def to_open(self, db: str | None) -> str:
        """The secret as this process read it last."""
        return (self._known.get(db) if db else self._node) or self.read_again(db)

    def may_be_another(self, db: str | None) -> bool:
        """Whether :meth:`read_again` may give another one than :meth:`to_open` did."""
        return db in self._known and not self._answers[db].is_recent if db else False

    def read_again(self, db: str | None) -> str:
        """The secret as PostgreSQL has it now: another one if the database was restored or copied.

        :param db: also a name that nobody vouches for
        """
        if not db or not _can_be_a_name(db):
            return self._node
        answer = self._answers.get(db)
        if answer is None or not answer.is_recent:
            if len(self._answers) >= MOST_REMEMBERED:
                self._answers, self._known = {}, {}
            answer = self._answers[db] = self._asked(db)
            if answer.secret:
                self._known[db] = answer.secret
            elif answer.error is None:
                self._known.pop(db, None)
        if answer.error is not None:
            raise answer.error
        return answer.secret or self._node

    def _asked(self, db: str) -> _Answer:
        try:
            return _Answer(monotonic(), self._read(db), None)
        except SecretUnavailableError as error:
            return _Answer(monotonic(), None, error)


def _can_be_a_name(db: str) -> bool:
    try:
        return len(db.encode()) <= LONGEST_NAME and "\0" not in db
    except UnicodeEncodeError:  # half of a character
        return False
