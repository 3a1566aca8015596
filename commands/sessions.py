"""List sessions of users who are logged in, and log some of them out.

A session is listed from the first request that a node with this addon serves for it, the one with
the latest activity first. Nobody is logged out without --revoke.
"""

from __future__ import annotations

import argparse
from typing import Any, NamedTuple

import psycopg2
from odoo import sql_db

from ..http_patch.device_log import new_sessions
from ..keys import is_valid_identifier
from ..operation.overview import live
from .context import Context, complain, duration, table

EXAMPLES = [
    "-d production",
    "-d production --user admin",
    "-d production --user admin --revoke --dry-run",
    "-d production --revoke --but qL0... --yes",
    "--identifier qL0... --revoke",
]
_LENGTH = 42


class _Session(NamedTuple):
    database: str
    identifier: str
    uid: int | None
    login: str
    activity: float | None


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-d", "--database", help="whose sessions")
    parser.add_argument("--user", help="of one user only: login, or id")
    parser.add_argument("--identifier", action="append", default=[], help="this one, as listed")
    parser.add_argument("--but", action="append", default=[], metavar="IDENTIFIER", help="not this")
    parser.add_argument("--revoke", action="store_true", help="log them out")
    parser.add_argument("--dry-run", action="store_true", help="say which ones only")
    parser.add_argument("--yes", action="store_true", help="do not ask")


def run(context: Context, options: argparse.Namespace) -> int:
    if wrong := _wrong(context, options):
        complain(wrong)
        return 2
    chosen = _chosen(context, options)
    now = context.books.now()
    rows: list[tuple[object, ...]] = [("identifier", "database", "user", "last activity")]
    for session in chosen:
        idle = "-" if session.activity is None else f"{duration(now - session.activity)} ago"
        who = session.login or ("-" if session.uid is None else f"#{session.uid}")
        rows.append((session.identifier, session.database, who, idle))
    found: dict[str, Any] = {"sessions": [session._asdict() for session in chosen]}
    lines = table(rows) if chosen else ["no session"]
    if not options.revoke or options.dry_run or not chosen:
        context.show(found, lines)
        return 0
    if not context.as_json:
        context.show(found, lines)
    if not context.agreed(f"Log out these {len(chosen)} sessions?", yes=options.yes):
        return 1
    assert context.sessions  # see `_wrong`
    context.sessions.delete_from_identifiers([session.identifier for session in chosen])
    found["revoked"] = len(chosen)
    context.show(found, [f"{len(chosen)} logged out"])
    return 0


def _wrong(context: Context, options: argparse.Namespace) -> str:
    """An error in the options; "" where there is none."""
    if context.sessions is None:
        return "session = false: sessions are not in Redis"
    if not (options.database or options.identifier):
        return "Say whose sessions: --database or --identifier."
    if options.user and not options.database:
        return "A user is one of a database: --database."
    for identifier in (*options.identifier, *options.but):
        if not is_valid_identifier(identifier):
            return f"{identifier} is no identifier: it has {_LENGTH} letters, digits, '-' and '_'."
    return ""


def _chosen(context: Context, options: argparse.Namespace) -> list[_Session]:
    assert context.sessions
    listed = _of_database(context, options.database) if options.database else []
    known = {session.identifier for session in listed}
    if options.identifier:
        wanted = set(options.identifier)
        listed = [session for session in listed if session.identifier in wanted]
        listed += [
            _Session(options.database or "", identifier, None, "", None)
            for identifier in options.identifier
            if identifier not in known
        ]
    if options.user:
        listed = [
            session for session in listed if options.user in (session.login, str(session.uid))
        ]
    listed = [session for session in listed if session.identifier not in options.but]
    return live(listed, context.sessions.get_missing_session_identifiers)


def _of_database(context: Context, database: str) -> list[_Session]:
    """Sessions in the books, and new ones that these may lack; the last active one first."""
    seen = context.books.sessions(database)
    logins: dict[int, str] = {}
    try:
        with sql_db.db_connect(database).cursor() as cursor:
            cursor.execute("SELECT id, login FROM res_users")
            logins = dict(cursor.fetchall())
            seen += new_sessions(cursor)
    except psycopg2.Error as error:
        complain(f"Users are shown by number: {error}".strip())
    seen.sort(key=lambda session: -session.activity)
    latest = {each.identifier: each for each in reversed(seen)}
    return [
        _Session(database, each.identifier, each.uid, logins.get(each.uid, ""), each.activity)
        for each in reversed(latest.values())
    ]
