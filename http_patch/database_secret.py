"""``database.secret`` of any database, for the sessions that are sealed with it."""

import psycopg2
from odoo.http import _request_stack
from odoo.sql_db import db_connect

from ..exceptions import SecretUnavailableError

_QUERY = "SELECT value FROM ir_config_parameter WHERE key = 'database.secret'"
_MAINTENANCE = "postgres"  # where odoo.service.db.list_dbs asks too


def read(db: str) -> str | None:
    """The secret that is committed; None where there is no such database, or it has no secret.

    :param db: a name that came from Redis perhaps; nothing but a name is connected to
    :raises SecretUnavailableError: when PostgreSQL does not say
    """
    try:
        with db_connect(db).cursor() as cursor:
            cursor.execute(_QUERY, log_exceptions=False)
            row = cursor.fetchone()
            return row[0] if row else None
    except (psycopg2.ProgrammingError, ValueError):  # no table of Odoo's; no name of a database
        return None
    except psycopg2.Error as error:
        if _is_missing(db):
            return None
        raise SecretUnavailableError(f"The secret of database {db!r}: {error}") from error


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
        with db_connect(_MAINTENANCE).cursor() as cursor:
            cursor.execute("SELECT FROM pg_database WHERE datname = %s", [db])
            return not cursor.rowcount
    except psycopg2.Error:
        return False
