"""Have all processes forget the cached values of a database.

Each computes them anew when it needs them, as after a change that concerns all. Sessions stay: to
log users out there is «sessions --revoke».
"""

from __future__ import annotations

import argparse

import psycopg2
from odoo import sql_db
from odoo.modules.registry import _CACHES_BY_KEY
from psycopg2 import sql

from .context import Context, complain

EXAMPLES = ["-d production", "-d production -d test --yes"]


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-d", "--database", action="append", required=True, help="whose; repeat it")
    parser.add_argument("--yes", action="store_true", help="do not ask")


def run(context: Context, options: argparse.Namespace) -> int:
    names = ", ".join(options.database)
    if not context.agreed(f"Forget the cached values of {names}?", yes=options.yes):
        return 1
    failed = {}
    for database in options.database:
        try:
            purge(database)
        except psycopg2.Error as error:
            failed[database] = str(error).strip()
            complain(f"{database}: {failed[database]}")
    done = [database for database in options.database if database not in failed]
    told = [f"{database}: forgotten at the next request of each process" for database in done]
    context.show({"purged": done, "failed": failed}, told)
    return 1 if failed else 0


def purge(database: str) -> None:
    """Signal a change of every cache, as ``Registry.signal_changes`` does.

    :raises psycopg2.Error: where that database cannot be changed
    """
    with sql_db.db_connect(database).cursor() as cursor:
        for name in _CACHES_BY_KEY:
            table = sql.Identifier(f"orm_signaling_{name}")
            cursor.execute(sql.SQL("INSERT INTO {} DEFAULT VALUES").format(table))
