"""``database.secret`` as it is read for sessions: from any database, of any name, in any state."""

import contextlib
import socket
import time
import uuid

import psycopg2
import pytest

from odoo.addons.redis_session_ormcache.exceptions import SecretUnavailableError
from odoo.addons.redis_session_ormcache.http_patch import database_secret
from stack.servers import ServerError


def connect(postgres, db):
    """A connection that stays open for a block."""
    where = {"host": postgres.host, "port": postgres.port, "user": postgres.user}
    return contextlib.closing(psycopg2.connect(dbname=db, **where))


def test_it_is_the_one_that_is_committed(postgres, lone_database):
    """As the table has it."""
    query = "SELECT value FROM ir_config_parameter WHERE key = 'database.secret'"
    assert database_secret.read(lone_database) == postgres.sql(lone_database, query)


@pytest.mark.parametrize(
    "name",
    [
        "postgresql://", "postgresql://[", "postgres://a/b", "dbname=postgres", "x host=127.0.0.9",
        "service=x", "a\ud800", "'", "\\", " ", "no such database", "postgres",
    ],
)  # fmt: skip
def test_a_name_that_is_no_database_of_odoos_has_no_secret(postgres, name):
    """Whoever can write to Redis chooses it; it is never taken for more than a name."""
    assert database_secret.read(name) is None


def test_no_connection_is_left(postgres, make_database):
    """A database may be dropped after one of its sessions came to a node that does not serve it."""
    name = make_database()
    assert database_secret.read(name)
    postgres.sql("postgres", f"DROP DATABASE {name}")
    assert database_secret.read(name) is None


@pytest.mark.parametrize(
    "closing",
    [
        "ALTER DATABASE {db} ALLOW_CONNECTIONS false",
        "REVOKE CONNECT ON DATABASE {db} FROM PUBLIC, {user}",
        "ALTER DATABASE {db} RENAME TO {db}_archived",
    ],
)
def test_a_database_that_cannot_be_used_has_no_secret(
    postgres, make_database, database, monkeypatch, closing
):
    """Its sessions begin anew, as on a stock node, also where nobody may connect to «postgres»."""
    from odoo.tools import config

    db, user = make_database(), f"odoo_{uuid.uuid4().hex[:8]}"
    postgres.sql("postgres", f"CREATE ROLE {user} LOGIN")
    postgres.sql(db, f"GRANT SELECT ON ir_config_parameter TO {user}")
    monkeypatch.setitem(config.options, "db_user", user)
    assert database_secret.read(db)
    postgres.sql("postgres", closing.format(db=db, user=user))
    try:
        assert database_secret.read(db) is None
        monkeypatch.setattr(database_secret, "_MAINTENANCE", "no such database")
        monkeypatch.setitem(config.options, "db_name", [database])
        assert database_secret.read(db) is None
        monkeypatch.setitem(config.options, "db_name", [])
        with pytest.raises(SecretUnavailableError):
            database_secret.read(db)
    finally:
        postgres.sql("postgres", f"DROP DATABASE IF EXISTS {db}_archived")
        with contextlib.suppress(ServerError):
            postgres.sql("postgres", f"ALTER DATABASE {db} ALLOW_CONNECTIONS true")


def test_a_table_that_is_locked_is_not_waited_for(postgres, lone_database):
    """An upgrade of a module may lock it for minutes."""
    with connect(postgres, lone_database) as locking, locking.cursor() as cursor:
        cursor.execute("LOCK TABLE ir_config_parameter")
        began = time.monotonic()
        with pytest.raises(SecretUnavailableError, match=r"within|statement timeout"):
            database_secret.read(lone_database)
        assert time.monotonic() - began < database_secret.WAIT + 1


def test_a_postgresql_that_hangs_is_not_waited_for(postgres, monkeypatch):
    """Nothing is known of the secret then."""
    from odoo.tools import config

    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setitem(config, "db_port", silent.getsockname()[1])
        began = time.monotonic()
        with pytest.raises(SecretUnavailableError):
            database_secret.read("any")
        assert time.monotonic() - began < database_secret.WAIT + 1
