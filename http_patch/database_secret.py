"""``database.secret`` of any database, for the sessions that are sealed with it; and its timeout.

Odoo's pool is not used, because it keeps the connection, so that ``DROP DATABASE`` is refused; it
may be full; and it has no time limit, so that static files and ``/web/health`` would wait.
"""

from contextlib import closing
from typing import Any

import psycopg2
from odoo.sql_db import connection_info_for
from odoo.tools import config

from ..exceptions import SecretUnavailableError
from ..patience import TookTooLongError, within
from .generations import SECRET
from .request import environment_of

_MAY_BE_USED = """
    SELECT datallowconn AND has_database_privilege(datname, 'CONNECT') FROM pg_database
    WHERE datname = %s
"""
_LIFETIME = "SELECT value FROM ir_config_parameter WHERE key = 'sessions.max_inactivity_seconds'"
_MAINTENANCE = "postgres"  # where odoo.service.db.list_dbs asks too
_URIS = ("postgresql://", "postgres://")  # which connection_info_for takes for one
WAIT = 2  # seconds for an answer; libpq has no shorter time for a connection


class _TookTooLong(psycopg2.OperationalError):
    """PostgreSQL does not answer."""


def read(db: str) -> str | None:
    """The secret that is committed; None where no such database can be used, or it has no secret.

    :param db: a name that came from Redis perhaps; nothing but a name is connected to
    :raises SecretUnavailableError: when PostgreSQL does not say
    """
    value = _parameter(db, SECRET)
    return None if value is None else str(value)


def read_lifetime(db: str) -> int | None:
    """``sessions.max_inactivity_seconds`` in seconds, as Odoo's ``get_session_max_inactivity``.

    Only for sessions that were kept elsewhere: a request on a database knows it.

    :raises SecretUnavailableError: when PostgreSQL does not say
    """
    value = _parameter(db, _LIFETIME)
    try:
        return None if value is None else int(value)
    except ValueError:
        return None


def _parameter(db: str, query: str) -> Any:
    if db.startswith(_URIS):
        return None
    try:
        row = _ask(db, query)
        return row[0] if row else None
    except (psycopg2.ProgrammingError, ValueError):  # no table of Odoo's; no name of a database
        return None
    except psycopg2.Error as error:
        if error.pgcode is None and not isinstance(error, _TookTooLong) and _is_closed(db):
            return None
        told = " ".join(str(error).split())
        raise SecretUnavailableError(f"The secret of database {db!r}: {told}") from error


def at_hand(db: str) -> str | None:
    """The secret as the request at hand knows it; None where it serves another database, or none.

    Mirrors ``res.users._compute_session_token``, which makes a user's token with it: as long as
    this process keeps the former one in its cache, it does so for both.
    """
    env = environment_of(db)
    try:
        secret = env and env["ir.config_parameter"].sudo().get_param("database.secret")
        return secret or None
    except psycopg2.Error:  # a transaction that failed already
        return None


def _is_closed(db: str) -> bool:
    """Whether PostgreSQL answers, and has no such database, or none that Odoo may connect to."""
    for other in dict.fromkeys([*config["db_name"], _MAINTENANCE]):
        try:
            if other != db:
                row = _ask(other, _MAY_BE_USED, db)
                return row is None or not row[0]
        except _TookTooLong:
            break
        except psycopg2.Error:
            continue
    return False


def _ask(db: str, query: str, *parameters: str) -> Any:
    """The first row, or None.

    :raises psycopg2.Error: also when it takes too long
    """
    try:
        return within(WAIT, lambda: _first_row(db, query, parameters), thread="redis-secret")
    except TookTooLongError as error:
        raise _TookTooLong(str(error)) from error


def _first_row(db: str, query: str, parameters: tuple[str, ...]) -> Any:
    """Its time limits end the thread. They are longer than the caller's, because libpq's error does
    not tell a server that is silent from one that has no such database.
    """
    _, info = connection_info_for(db)
    with (
        closing(psycopg2.connect(**info, connect_timeout=WAIT + 1)) as connection,
        connection.cursor() as cursor,
    ):
        cursor.execute(f"SET LOCAL statement_timeout = '{WAIT + 1}s'")
        cursor.execute(query, parameters)
        return cursor.fetchone()
