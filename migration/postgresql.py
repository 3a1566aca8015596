"""The table ``http_sessions`` of OCA's ``session_db``: sid, time of the last save, JSON."""

from collections.abc import Collection, Sequence
from contextlib import closing
from typing import Any

import psycopg2

from ..exceptions import ConfigurationError, OldStoreUnavailableError
from ..keys import IDENTIFIER_LENGTH, is_valid_sid
from ..old_url import OldURL
from ..patience import TookTooLongError, within
from .session import BROKEN, OldSession, Refused, content

_LIST = "SELECT sid FROM http_sessions"
_READ = """
    SELECT sid, payload, extract(epoch FROM now() AT TIME ZONE 'UTC' - write_date)::float8
    FROM http_sessions WHERE sid = ANY(%s)
"""
_DELETE = f"DELETE FROM http_sessions WHERE left(sid, {IDENTIFIER_LENGTH}) = ANY(%s)"
_SCAN_SECONDS = 60.0  # for what reads the whole table


class PostgreSQLSessions:
    """One table, asked over a connection for each question: a session is moved once."""

    def __init__(self, url: OldURL, timeout: float) -> None:
        self._address, self._shown, self._timeout = url.address, url.shown, timeout

    def check(self) -> None:
        try:
            self._ask(_READ, [""])
        except OldStoreUnavailableError as error:
            # There is no such table, it must not be read, or the URL is none.
            if isinstance(error.__cause__, psycopg2.ProgrammingError):
                raise ConfigurationError(f"old_sessions: {error}") from error
            raise

    def names(self) -> list[str]:
        rows = self._ask(_LIST, seconds=_SCAN_SECONDS)
        return [sid for (sid,) in rows if is_valid_sid(sid)]

    def fetch(self, names: Sequence[str]) -> list[OldSession | Refused | None]:
        found: dict[str, OldSession | Refused] = {}
        for sid, payload, idle in self._ask(_READ, list(names)):
            data = content(payload)
            found[sid] = (
                Refused(sid, BROKEN) if data is None else OldSession(sid, data, idle=max(0.0, idle))
            )
        return [found.get(name) for name in names]

    def delete(self, identifiers: Collection[str]) -> None:
        self._ask(_DELETE, list(identifiers), seconds=_SCAN_SECONDS)

    def close(self) -> None:
        """Nothing stays open."""

    def _ask(self, query: str, *parameters: list[str], seconds: float = 0.0) -> list[Any]:
        """The rows; none where it deletes."""
        seconds = seconds or self._timeout

        def ask() -> list[Any]:
            # A second more than the caller waits, because libpq takes no part of one.
            with closing(
                psycopg2.connect(self._address, connect_timeout=int(seconds) + 1)
            ) as connection:
                connection.set_session(readonly=query != _DELETE)
                with connection, connection.cursor() as cursor:
                    cursor.execute(f"SET LOCAL statement_timeout = '{int(seconds) + 1}s'")
                    cursor.execute(query, parameters)
                    return cursor.fetchall() if cursor.description else []

        try:
            return within(seconds, ask, thread="redis-old-sessions")
        except (psycopg2.Error, TookTooLongError) as error:
            told = " ".join(str(error).split())
            if isinstance(error, psycopg2.ProgrammingError) and error.pgcode is None:
                told = "libpq does not understand this URL"  # and says what it is, password too
            raise OldStoreUnavailableError(f"{self._shown}: {told}") from error
