"""The session stores that are compared, each with a fast way to fill it."""

from __future__ import annotations

import importlib.metadata
import io
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import redis
from odoo import http
from odoo.modules.module import initialize_sys_path
from odoo.tools import config

from stack.provision import environment
from stack.provision.apt import SetupError
from stack.provision.parts import part, run
from stack.servers import PostgreSQL

SESSION_DB = "odoo-addon-session_db"
LIFETIME = 7 * 24 * 3600  # seconds
FILL_LENGTH = 1000  # commands a round trip


def session_content() -> dict[str, Any]:
    """What the session of somebody who logged in holds: about 450 bytes of JSON."""
    now = time.time()
    trace = {
        "platform": "linux",
        "browser": "chrome",
        "ip_address": "203.0.113.7",
        "first_activity": int(now) - 5000,
        "last_activity": int(now),
    }
    return {
        **http.get_default_session(),
        "db": "production",
        "uid": 2,
        "login": "admin@example.com",
        "context": {"lang": "en_US", "tz": "Europe/Brussels", "uid": 2},
        "session_token": "3f" * 32,
        "create_time": now,
        "_trace": [trace],
    }


def load_addons(folder: Path, redis_url: str, session_db: Path | None) -> None:
    """Make the addon, and session_db where there is one, importable as Odoo would."""
    paths = environment.addons_path() + (f",{session_db / 'odoo/addons'}" if session_db else "")
    os.environ["ODOO_REDIS_URL"] = redis_url
    load = f"base,rpc,web,{environment.ADDON}"
    # Prefork: session_db needs no lock there.
    words = ["--addons-path", paths, "--load", load, "--data-dir", str(folder), "--workers", "2"]
    config.parse_config([*words, "--http-interface", "127.0.0.1"], setup_logging=False)
    initialize_sys_path()


class Ours:
    """`redis_session_ormcache`, installed as on a node."""

    name = "this addon"

    def __init__(self, client: redis.Redis) -> None:
        from odoo.addons.redis_session_ormcache import post_load

        post_load()
        self.store, self._client = http.root.session_store, client
        if not type(self.store).__module__.startswith("odoo.addons.redis_session_ormcache."):
            raise RuntimeError(f"sessions are in {self.store}")
        # As a node has read it with its first session of a database.
        self.store._secrets._known[session_content()["db"]] = "of the database"
        sample = self.store.new()
        sample.update(session_content())
        self.store.save(sample)
        keys: Any = client.keys(f"*{sample.sid[:42]}*")
        [self._key] = [key.decode() for key in keys]
        self._identifier, self._dump = sample.sid[:42], client.dump(self._key) or b""

    def fill(self, sids: list[str]) -> None:
        """Copies of one real record: same size and lifetime, though these sids don't open them."""
        for start in range(0, len(sids), FILL_LENGTH):
            with self._client.pipeline(transaction=False) as pipeline:
                for sid in sids[start : start + FILL_LENGTH]:
                    key = self._key.replace(self._identifier, sid[:42])
                    pipeline.restore(key, LIFETIME * 1000, self._dump, replace=True)
                pipeline.execute()


class Files:
    """Odoo's own `FilesystemSessionStore`."""

    name = "Odoo's files"

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.store = http.FilesystemSessionStore(
            str(folder), session_class=http.Session, renew_missing=True
        )
        self._payload = json.dumps(session_content())

    def fill(self, sids: list[str]) -> None:
        for sid in sids:
            path = Path(self.store.get_session_filename(sid))
            path.parent.mkdir(exist_ok=True)
            path.write_text(self._payload)


class SessionDb:
    """OCA's session_db.

    :param collation: of its database: the cluster's, or `C`, with which PostgreSQL can use the
        index for session_db's `LIKE 'identifier%'`
    """

    def __init__(self, postgres: PostgreSQL, collation: str | None) -> None:
        module = _session_db_module()
        self.name = "OCA session_db" + (f", LC_COLLATE={collation}" if collation else "")
        database = "sessions" + (f"_{collation}" if collation else "").lower()
        collate = f"LC_COLLATE '{collation}'" if collation else ""
        postgres.sql("postgres", f'CREATE DATABASE "{database}" TEMPLATE template0 {collate}')
        uri = f"postgresql://{postgres.user}@{postgres.host}:{postgres.port}/{database}"
        self.store = module.PGSessionStore(uri, session_class=http.Session)
        self._payload = json.dumps(session_content())

    def fill(self, sids: list[str]) -> None:
        now = time.strftime("%F %T", time.gmtime())
        rows = io.StringIO("".join(f"{sid}\t{now}\t{self._payload}\n" for sid in sids))
        cursor = self.store._cr
        cursor.copy_from(rows, "http_sessions", columns=("sid", "write_date", "payload"))
        if len(sids) >= 1000:
            cursor.execute("VACUUM ANALYZE http_sessions")


def _session_db_module() -> Any:
    """The module, without what its import does to Odoo."""
    patched = http.Application.session_store
    try:
        from odoo.addons.session_db import pg_session_store
    finally:
        http.Application.session_store = patched
    return pg_session_store


def install_session_db() -> tuple[Path | None, str]:
    """The folder session_db is in, installed in the private folder once; or None and why not."""

    def make(folder: Path) -> None:
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
        argv = [*pip, "--no-deps", "--target", str(folder / "result"), SESSION_DB]
        run(f"install {SESSION_DB}", argv, folder)

    try:
        folder = part("session_db", SESSION_DB, environment.home() / "bench", make)
    except SetupError as error:
        return None, f"{SESSION_DB} could not be installed: {error}"
    [found] = importlib.metadata.distributions(name=SESSION_DB, path=[str(folder)])
    return folder, f"{SESSION_DB} {found.version}"
