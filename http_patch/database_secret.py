"""``database.secret`` of any database, for the sessions that are sealed with it.

It is read over a connection of its own. Odoo's pool would keep it, to a database perhaps that this
node does not serve, and ``DROP DATABASE`` would be refused as long; it may be full; and it waits
for PostgreSQL without an end, static files and ``/web/health`` with it.
"""

from contextlib import closing
from typing import Any

import psycopg2
from odoo.http import _request_stack
from odoo.sql_db import connection_info_for

from ..exceptions import SecretUnavailableError

_QUERY = "SELECT value FROM ir_config_parameter WHERE key = 'database.secret'"
_MAINTENANCE = "postgres"  # where odoo.service.db.list_dbs asks too
_URIS = ("postgresql://", "postgres://")  # which connection_info_for takes for one
WAIT = 2  # seconds for a connection, then for an answer; libpq has no shorter time


def read(db: str) -> str | None:
    """The secret that is committed; None where there is no such database, or it has no secret.

    :param db: a name that came from Redis perhaps; nothing but a name is connected to
    :raises SecretUnavailableError: when PostgreSQL does not say
    """
    if db.startswith(_URIS):
        return None
    try:
        row = _ask(db, _QUERY)
        return row[0] if row else None
    except (psycopg2.ProgrammingError, ValueError):  # no table of Odoo's; no name of a database
        return None
    except psycopg2.Error as error:
        if _is_missing(db):
            return None
        told = " ".join(str(error).split())
        raise SecretUnavailableError(f"The secret of database {db!r}: {told}") from error


def at_hand(db: str) -> str | None:
    """The secret as the request at hand knows it; None where it serves another database, or none.

    Mirrors ``res.users._compute_session_token``, which makes a user's token with it: as long as
    this process keeps the former one in its cache, it does so for both.
    """
    request = _request_stack.top
    env = request.env if request else None
    if not env or env.cr._closed or env.cr.dbname != db:
        return None
    try:
        return env["ir.config_parameter"].sudo().get_param("database.secret") or None
    except psycopg2.Error:  # a transaction that failed already
        return None


def _is_missing(db: str) -> bool:
    """Whether PostgreSQL answers, and has no such database."""
    try:
        return _ask(_MAINTENANCE, "SELECT FROM pg_database WHERE datname = %s", db) is None
    except psycopg2.Error:
        return False


def _ask(db: str, query: str, *parameters: str) -> Any:
    """The first row, or None.

    :raises psycopg2.Error: also when it takes too long
    """
    with (
        closing(psycopg2.connect(**connection_info_for(db)[1], connect_timeout=WAIT)) as connection,
        connection.cursor() as cursor,
    ):
        cursor.execute(f"SET LOCAL statement_timeout = {WAIT * 1000}")
        cursor.execute(query, parameters)
        return cursor.fetchone()
