"""A PostgreSQL server, and databases that are made once and copied."""

from __future__ import annotations

import contextlib
import fcntl
import functools
import hashlib
import os
import pwd
import shutil
import signal
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ..provision import environment
from .process import LOOPBACK, Server, ServerError, alive, free_port


class PostgreSQL(Server):
    """A cluster whose superuser `odoo` needs no password on loopback. Fast, not durable.

    Started as root it runs as `postgres` or `nobody`, and its data is in `environment.public()`.
    """

    host, user = LOOPBACK, "odoo"
    stop_signal = signal.SIGINT  # "fast": SIGTERM would wait for the clients to leave

    def __init__(
        self,
        folder: Path | str,
        *,
        port: int | None = None,
        config: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__("postgresql", folder)
        self.port, self.config = port or free_port(), dict(config or {})
        self._account = _postgres_account()
        self.data = self.folder / "data"
        if self._account:
            self.data = environment.public() / f"postgresql-{digest(str(self.folder))}"
            _drop_orphans(environment.public())
            self.data.with_suffix(".folder").write_text(str(self.folder))

    def command(self) -> list[str]:
        if not (self.data / "PG_VERSION").exists():
            self._initdb()
        settings = {
            "listen_addresses": LOOPBACK,
            "port": str(self.port),
            "unix_socket_directories": "",
            "max_connections": "300",
            "shared_buffers": "256MB",
            "fsync": "off",
            "synchronous_commit": "off",
            "full_page_writes": "off",
            "autovacuum_naptime": "1h",
            "jit": "off",
            "dynamic_shared_memory_type": "mmap",  # so that kill() leaves nothing in /dev/shm
            **self.config,
        }
        options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        return [str(environment.postgres_bin() / "postgres"), "-D", str(self.data), *options]

    def environment(self) -> dict[str, str]:
        variables = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
        return {
            **variables,
            **environment.library_path(environment.postgres_bin()),
            "LC_ALL": "C.UTF-8",
        }

    def options(self) -> dict[str, Any]:
        return {"cwd": self.data, **self._account}

    def ready(self) -> bool:
        return self._psql("postgres", "SELECT 1").returncode == 0

    def sql(self, database: str, statement: str) -> str:
        """Run SQL in a database; its rows as text, columns separated by `|`."""
        done = self._psql(database, statement)
        if done.returncode:
            raise ServerError(f"{statement}\n{done.stderr.strip()}")
        return done.stdout.strip()

    def createdb(self, name: str, template: str | None = None) -> None:
        """Make a database, empty or a copy of `template`, to which nobody may be connected."""
        self.sql("postgres", f'CREATE DATABASE "{name}" TEMPLATE "{template or "template0"}"')

    def dropdb(self, name: str) -> None:
        """Drop a database if it is there, whoever is connected to it."""
        self.sql("postgres", f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')

    def template(self, name: str, build: Callable[[str], None]) -> str:
        """A database to copy; it is kept. `build` makes it, the first time, under another name."""
        with (self.folder / f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # another process may be making it
            if name not in self.sql("postgres", "SELECT datname FROM pg_database").split():
                building = f"{name}_building"
                self.dropdb(building)
                build(building)
                self.sql("postgres", f'ALTER DATABASE "{building}" RENAME TO "{name}"')
        return name

    def dump(self, name: str, path: Path) -> Path:
        """Write a database to a file, for `restore`."""
        self._tool("pg_dump", "-Fc", "-f", str(path), name)
        return path

    def restore(self, name: str, path: Path) -> None:
        """Make a database from what `dump` wrote, maybe on another server."""
        self.createdb(name)
        self._tool("pg_restore", "--no-owner", "-d", name, str(path))

    def remove(self) -> None:
        """Stop, and delete the data."""
        self.stop()
        shutil.rmtree(self.data, ignore_errors=True)
        if self._account:
            self.data.with_suffix(".folder").unlink(missing_ok=True)

    def _psql(self, database: str, statement: str) -> subprocess.CompletedProcess[str]:
        where = ["-h", self.host, "-p", str(self.port), "-U", self.user, "-d", database]
        argv = [str(environment.postgres_bin() / "psql"), "-XAtq", *where, "-c", statement]
        env = self.environment()
        return subprocess.run(argv, env=env, capture_output=True, text=True, check=False)

    def _tool(self, program: str, *words: str) -> None:
        where = ["-h", self.host, "-p", str(self.port), "-U", self.user]
        argv = [str(environment.postgres_bin() / program), *where, *words]
        done = subprocess.run(
            argv, env=self.environment(), capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise ServerError(f"{program} failed: {done.stderr.strip()}")

    def _initdb(self) -> None:
        """Make the cluster aside, then put it in place."""
        new = self.data.with_suffix(".new")
        for folder in (self.data, new):
            if folder.exists():
                shutil.rmtree(folder)
        new.mkdir(mode=0o700)
        if self._account:
            os.chown(new, self._account["user"], self._account["group"])
        program, *words = self._making(new)
        argv = [str(environment.postgres_bin() / program), *words]
        options = {"env": self.environment(), "cwd": new, **self._account}
        with self.log.open("ab") as log:
            done = subprocess.run(argv, stdout=log, stderr=log, check=False, **options)
        if done.returncode:
            raise ServerError(f"{program} failed.{self.tail()}")
        new.replace(self.data)

    def _making(self, data: Path) -> list[str]:
        """The command that makes a cluster in an empty folder."""
        encoding = ["--auth=trust", "--encoding=UTF8", "--locale=C.UTF-8"]
        return ["initdb", "-D", str(data), "-U", self.user, "--no-sync", *encoding]


class Standby(PostgreSQL):
    """A physical replica of a server that runs: it follows, and only reads."""

    def __init__(self, folder: Path | str, primary: PostgreSQL) -> None:
        super().__init__(folder)
        self.primary = primary

    def _making(self, data: Path) -> list[str]:
        server = ["-h", self.primary.host, "-p", str(self.primary.port), "-U", self.primary.user]
        return ["pg_basebackup", "-D", str(data), *server, "-R", "-X", "stream", "-c", "fast"]


@functools.cache
def _postgres_account() -> dict[str, Any]:
    """Arguments of `subprocess` that run PostgreSQL as somebody else when this is root."""
    if os.geteuid() != 0:
        return {}
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            account = pwd.getpwnam(name)
            return {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
    raise ServerError("PostgreSQL refuses to run as root and there is no user postgres or nobody")


def _drop_orphans(public: Path) -> None:
    """Delete the data of root's stopped clusters whose folder is gone (a test's temporary one)."""
    for record in public.glob("postgresql-*.folder"):
        pid = record.with_suffix("") / "postmaster.pid"
        with contextlib.suppress(OSError, IndexError, ValueError):  # another process does the same
            running = pid.exists() and alive(int(pid.read_text().split()[0]))
            if not running and not Path(record.read_text()).exists():
                shutil.rmtree(record.with_suffix(""), ignore_errors=True)
                record.unlink(missing_ok=True)


def digest(*words: str) -> str:
    """Twelve digits that stand for these words."""
    return hashlib.sha256("\0".join(words).encode()).hexdigest()[:12]
