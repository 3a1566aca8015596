"""Former stores of sessions: the very classes that wrote them, where a package has them."""

import contextlib
import json
import sys
import uuid
from types import SimpleNamespace

import odoo.addons
import redis as driver
from odoo import http
from odoo.tools._vendor.sessions import SessionStore

from stack.provision import environment

DAY = 24 * 3600  # seconds
PREFIX = "main"  # of those in Redis


class CamptocampStore(SessionStore):
    """Writes what camptocamp's ``session_redis`` for Odoo 19 does; no package registry has it.

    As its source reads: a string of JSON, then an expiry of a week, or of three hours where nobody
    is logged in.
    """

    generate_key = http.FilesystemSessionStore.generate_key
    is_valid_key = http.FilesystemSessionStore.is_valid_key
    rotate = http.FilesystemSessionStore.rotate

    def __init__(self, client, prefix):
        super().__init__(http.Session)
        self.redis, self.prefix = client, f"session::{prefix}:"

    def save(self, session):
        key = self.prefix + session.sid
        self.redis.set(key, json.dumps(dict(session)).encode())
        self.redis.expire(key, 7 * DAY if session.uid else 3 * 3600)

    def delete(self, session):
        self.redis.delete(self.prefix + session.sid)

    def get(self, sid):
        saved = self.redis.get(self.prefix + sid)
        return self.session_class(json.loads(saved), sid, False) if saved else self.new()


def files(folder):
    """Odoo's own."""
    folder.mkdir(parents=True, exist_ok=True)
    store = http.FilesystemSessionStore(str(folder), session_class=http.Session, renew_missing=True)
    return SimpleNamespace(kind="file", url=f"file://{folder}", store=store, folder=folder)


def camptocamp(server):
    """In a Redis."""
    store = CamptocampStore(driver.Redis.from_url(server.url), PREFIX)
    url = f"camptocamp+{server.url}?prefix={PREFIX}"
    return SimpleNamespace(kind="camptocamp", url=url, store=store, server=server)


def mangono(server):
    """Of mangono-addon-redis-session-store, in a Redis."""
    with _field_addons():
        from odoo.addons.redis_session_store.redis_session import RedisSessionStore
    config = SimpleNamespace(
        connect=lambda: driver.Redis.from_url(server.url), expiration=3 * DAY, anon_expiration=120,
        timeout_on_inactivity=True, ignored_urls=[], prefix=PREFIX,
    )  # fmt: skip
    store = RedisSessionStore(config, http.Session)
    url = f"mangono+{server.url}?prefix={PREFIX}"
    return SimpleNamespace(kind="mangono", url=url, store=store, server=server)


def session_db(postgres):
    """Of odoo-addon-session-db, in a database of its own."""
    patched = http.Application.session_store
    with _field_addons():
        try:
            from odoo.addons.session_db.pg_session_store import PGSessionStore
        finally:  # its import replaces that
            http.Application.session_store = patched
            vars(http.root).pop("session_store", None)
    name = f"sessions_{uuid.uuid4().hex[:8]}"
    postgres.sql("postgres", f'CREATE DATABASE "{name}"')
    uri = session_db_uri(postgres, name)
    return SimpleNamespace(
        kind="session_db", url=f"session_db+{uri}", database=name,
        store=PGSessionStore(uri, session_class=http.Session),
    )  # fmt: skip


def session_db_uri(postgres, database):
    return f"postgresql://{postgres.user}@{postgres.host}:{postgres.port}/{database}"


@contextlib.contextmanager
def _field_addons():
    """Have addons of others importable; they may need packages that are with them."""
    folder = str(environment.field_addons())
    if folder not in sys.path:
        sys.path.append(folder)
    addons = f"{folder}/odoo/addons"
    if addons not in odoo.addons.__path__:
        odoo.addons.__path__.append(addons)
    yield
