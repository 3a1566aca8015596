"""Real servers on free loopback ports, each in a folder of its own: Redis, PostgreSQL, nginx, Odoo.

All are context managers::

    with PostgreSQL(folder / "pg") as postgres, Redis(folder / "redis") as redis:
        init_database(postgres, "shop", ["web"])
        with Odoo("one", folder / "one", postgres, database="shop") as node:
            urllib.request.urlopen(node.url)
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import pwd
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from . import environment
from .process import (
    LOOPBACK,
    Server,
    ServerError,
    alive,
    answers_http,
    free_port,
    listens,
    start_all,
    stop_all,
)

__all__ = [
    "Nginx", "Odoo", "PostgreSQL", "Redis", "Server", "ServerError",
    "Worker", "free_port", "init_database", "start_all", "stop_all",
]  # fmt: skip


class Redis(Server):
    """redis-server, without persistence unless `config` says otherwise."""

    program = "redis-server"
    patience = 30.0  # seconds that `cli` waits for an answer

    def __init__(
        self,
        folder: Path | str,
        *,
        port: int | None = None,
        password: str | None = None,
        config: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__("redis", folder)
        self.port, self.password = port or free_port(), password
        self.config = {"save": '""', "appendonly": "no", **(config or {})}
        self.host = LOOPBACK
        self.cli_options: list[str] = []
        self.command_prefix: list[str] = []

    @property
    def url(self) -> str:
        """redis://[:password@]host:port/0"""
        secret = f":{quote(self.password, safe='')}@" if self.password else ""
        return f"redis://{secret}{self.host}:{self.port}/0"

    def command(self) -> list[str]:
        settings = {
            "bind": self.host,
            "port": str(self.port),
            "dir": f'"{self.folder}"',
            **self.config,
        }
        if self.password:
            settings["requirepass"] = f'"{self.password}"'
        conf = self.folder / "redis.conf"
        conf.write_text("".join(f"{name} {value}\n" for name, value in settings.items()))
        return [*self.command_prefix, *environment.runnable(self.program_path()), str(conf)]

    def program_path(self) -> Path:
        """The server's program."""
        return environment.binary(self.program)

    def environment(self) -> dict[str, str]:
        return {**os.environ, **environment.library_path(self.program_path())}

    def ready(self) -> bool:
        with contextlib.suppress(subprocess.CalledProcessError):
            return self.cli("PING").startswith(("PONG", "NOAUTH"))
        return False

    def cli(self, *words: str) -> str:
        """What `redis-cli` prints for a command."""
        program = environment.binary("redis-cli")
        env = {
            **os.environ,
            **environment.library_path(program),
            "REDISCLI_AUTH": self.password or "",
        }
        argv = [str(program), "-h", self.host, "-p", str(self.port), *self.cli_options, *words]
        return subprocess.run(
            argv, env=env, capture_output=True, text=True, check=True, timeout=self.patience
        ).stdout.strip()


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
            self.data = environment.public() / f"postgresql-{_digest(str(self.folder))}"
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

    def databases(self) -> list[str]:
        """The databases, without PostgreSQL's own."""
        names = self.sql(
            "postgres", "SELECT datname FROM pg_database ORDER BY datname"
        ).splitlines()
        return [name for name in names if name != "postgres" and not name.startswith("template")]

    def createdb(self, name: str, template: str | None = None) -> None:
        """Make a database, empty or a copy of `template`, to which nobody may be connected."""
        self.sql("postgres", f'CREATE DATABASE "{name}" TEMPLATE "{template or "template0"}"')

    def dropdb(self, name: str) -> None:
        """Drop a database if it is there, whoever is connected to it."""
        self.sql("postgres", f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')

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
        argv = [str(environment.postgres_bin() / "initdb"), "-D", str(new), "-U", self.user]
        argv += ["--no-sync", "--auth=trust", "--encoding=UTF8", "--locale=C.UTF-8"]
        options = {"env": self.environment(), "cwd": new, **self._account}
        with self.log.open("ab") as log:
            done = subprocess.run(argv, stdout=log, stderr=log, check=False, **options)
        if done.returncode:
            raise ServerError(f"initdb failed.{self.tail()}")
        new.replace(self.data)


class Nginx(Server):
    """A load balancer: round-robin over `nodes`, `/websocket` to the evented process (`host:port`).

    The header `X-Served-By` of a response names the node. A dead node is passed over.
    """

    stop_signal = signal.SIGTERM

    def __init__(
        self,
        folder: Path | str,
        *,
        nodes: list[str],
        websocket: str,
        port: int | None = None,
        read_timeout: int = 120,
    ) -> None:
        super().__init__("nginx", folder)
        self.nodes, self.websocket = nodes, websocket
        self.port, self.read_timeout = port or free_port(), read_timeout

    @property
    def url(self) -> str:
        """http://127.0.0.1:port"""
        return f"http://{LOOPBACK}:{self.port}"

    def command(self) -> list[str]:
        conf = self.folder / "nginx.conf"
        conf.write_text(self._conf())
        return [
            str(environment.binary("nginx")),
            "-p",
            str(self.folder),
            "-c",
            str(conf),
            "-e",
            "stderr",
        ]

    def environment(self) -> dict[str, str]:
        return {**os.environ, **environment.library_path(environment.binary("nginx"))}

    def ready(self) -> bool:
        return listens(self.port)

    def _conf(self) -> str:
        servers = "\n        ".join(
            f"server {node} max_fails=1 fail_timeout=1s;" for node in self.nodes
        )
        kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        temporary = "\n    ".join(f'{kind}_temp_path "{self.folder}/{kind}";' for kind in kinds)
        return f"""{"user root root;" if os.geteuid() == 0 else ""}
daemon off;
worker_processes 1;
pid "{self.folder}/nginx.pid";
error_log stderr warn;
events {{
    worker_connections 1024;
}}
http {{
    {temporary}
    access_log "{self.folder}/access.log";
    client_max_body_size 128m;
    upstream nodes {{
        {servers}
    }}
    upstream evented {{
        server {self.websocket} max_fails=0;
    }}
    map $http_upgrade $connection_upgrade {{
        default upgrade;
        "" "";
    }}
    # "a, b" when a was dead and b answered
    map $upstream_addr $served_by {{
        default $upstream_addr;
        "~(?<last>[^, ]+)$" $last;
    }}
    server {{
        listen {LOOPBACK}:{self.port};
        proxy_http_version 1.1;
        proxy_connect_timeout 2s;
        proxy_read_timeout {self.read_timeout}s;
        # No "non_idempotent": a POST goes to another node only if nothing of it was sent.
        proxy_next_upstream error timeout;
        proxy_set_header Host $http_host;
        proxy_set_header X-Forwarded-Host $http_host;
        proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
        proxy_set_header X-Forwarded-Proto $scheme;
        proxy_set_header X-Real-IP $remote_addr;
        proxy_set_header Upgrade $http_upgrade;
        proxy_set_header Connection $connection_upgrade;
        add_header X-Served-By $served_by always;
        location / {{
            proxy_pass http://nodes;
        }}
        location /websocket {{
            proxy_pass http://evented;
        }}
    }}
}}
"""


class Odoo(Server):
    """A node: threaded (`workers=0`), prefork, or with `command="gevent"` the evented process.

    `config` adds to the [options] of its odoo.conf, `redis` is its [redis] section, `env` adds to
    its environment. A prefork node runs its evented process itself, on `gevent_port`; a threaded
    one serves websockets on `port`.
    """

    timeout = 120.0

    def __init__(
        self,
        name: str,
        folder: Path | str,
        postgres: PostgreSQL,
        *,
        database: str,
        port: int | None = None,
        gevent_port: int | None = None,
        workers: int = 0,
        load: str = f"base,rpc,web,{environment.ADDON}",
        config: Mapping[str, object] | None = None,
        redis: Mapping[str, object] | None = None,
        env: Mapping[str, str] | None = None,
        command: str = "server",
    ) -> None:
        if command not in ("server", "gevent"):
            raise ValueError(f"command: {command!r} is neither 'server' nor 'gevent'")
        super().__init__(name, folder)
        self.port, self.gevent_port = port or free_port(), gevent_port or free_port()
        self.database, self.workers, self.env = database, workers, dict(env or {})
        self.evented = command == "gevent"
        # For many clients at once: how many connections its listening socket keeps (8 for each
        # worker, or werkzeug's number). Linux keeps more waiting for seconds, or resets them.
        self.places = threading.BoundedSemaphore(8 * workers or 128)
        self.conf = self.folder / "odoo.conf"
        options = {
            **_common_options(postgres, self.folder, load),
            "db_name": database,
            "dbfilter": f"^{re.escape(database)}$",
            "list_db": False,
            "http_port": self.port,
            "gevent_port": self.gevent_port,
            "proxy_mode": True,
            "workers": workers,
            "max_cron_threads": 0,
            **(config or {}),
        }
        write_conf(self.conf, options, redis)

    @property
    def address(self) -> str:
        """host:port, as nginx wants it."""
        return f"{LOOPBACK}:{self.gevent_port if self.evented else self.port}"

    @property
    def websocket(self) -> str:
        """host:port of the process that serves this node's websockets."""
        return f"{LOOPBACK}:{self.gevent_port if self.evented or self.workers else self.port}"

    @property
    def url(self) -> str:
        """http://127.0.0.1:port"""
        return f"http://{self.address}"

    def command(self) -> list[str]:
        return [
            *environment.odoo_command(),
            *(["gevent"] if self.evented else []),
            "-c",
            str(self.conf),
        ]

    def environment(self) -> dict[str, str]:
        return odoo_environment(self.env)

    def ready(self) -> bool:
        return answers_http(f"{self.url}/web/health") and (
            not self.workers or listens(self.gevent_port)
        )


class Worker:
    """An Odoo process under a test's control: `run` executes code in it as a request would be.

    `tests/worker.py` is what runs; `config`, `redis` and `env` are as for a node.
    """

    def __init__(
        self,
        folder: Path | str,
        postgres: PostgreSQL,
        *,
        database: str,
        load: str = f"base,rpc,web,{environment.ADDON}",
        config: Mapping[str, object] | None = None,
        redis: Mapping[str, object] | None = None,
        env: Mapping[str, str] | None = None,
    ) -> None:
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        conf, self.log = folder / "odoo.conf", folder / "worker.log"
        options = {**_common_options(postgres, folder, load), "db_name": database, **(config or {})}
        write_conf(conf, options, redis)
        script = environment.CHECKOUT / "tests/worker.py"
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [str(environment.python()), str(script), "-c", str(conf)],
                env=odoo_environment(env or {}),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        if self._answer() != "ready":
            raise ServerError(f"the worker does not start, see {self.log}")

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    def run(self, code: str, **options: Any) -> Any:
        """What the code assigns to `result`; `uid`, `context`, `readonly` may be given."""
        self.begin(code, **options)
        return self.end()

    def begin(self, code: str, **options: Any) -> None:
        """Have the code executed, and do not wait."""
        assert self._process.stdin
        self._process.stdin.write(json.dumps({"code": textwrap.dedent(code), **options}) + "\n")
        self._process.stdin.flush()

    def end(self) -> Any:
        """Wait for what `begin` began."""
        answer = json.loads(self._answer())
        if "error" in answer:
            raise ServerError(answer["error"])
        return answer["result"]

    def stop(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.wait()

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.stop()

    def _answer(self) -> str:
        assert self._process.stdout
        line = self._process.stdout.readline()
        if not line:
            raise ServerError(f"the worker died, see {self.log}")
        return line.strip()


def init_database(
    postgres: PostgreSQL,
    name: str,
    modules: Iterable[str],
    *,
    load: str = "base,rpc,web",
    config: Mapping[str, object] | None = None,
    redis: Mapping[str, object] | None = None,
    env: Mapping[str, str] | None = None,
) -> None:
    """Make the database `name` with these modules, without demo data, attachments in the database.

    The installation is done once per list of modules (and state of this checkout, if the addon is
    among them) and kept in the cluster as a template to copy.
    """
    wanted = sorted({"base", *modules})
    state = _checkout_state() if environment.ADDON in wanted else ""
    key = _digest(str(environment.odoo_path()), *wanted, state)
    template = f"template_{'_'.join(wanted)}"[:40] + f"_{key}"
    if not postgres.sql("postgres", f"SELECT 1 FROM pg_database WHERE datname = '{template}'"):
        _install(postgres, template, wanted, load=load, config=config, redis=redis, env=env)
    postgres.createdb(name, template)


KEEP_ATTACHMENTS_IN_DATABASE = """
env["ir.config_parameter"].set_param("ir_attachment.location", "db")
env["ir.attachment"].force_storage()
env.cr.commit()
"""


def _install(
    postgres: PostgreSQL,
    template: str,
    modules: list[str],
    *,
    load: str,
    config: Mapping[str, object] | None,
    redis: Mapping[str, object] | None,
    env: Mapping[str, str] | None,
) -> None:
    """Install modules in a new database, then name it `template`."""
    building = f"{template}_building"
    postgres.dropdb(building)
    with tempfile.TemporaryDirectory() as folder:
        conf = Path(folder, "odoo.conf")
        write_conf(conf, {**_common_options(postgres, folder, load), **(config or {})}, redis)
        variables = odoo_environment(env or {})
        common = ["-c", str(conf), "-d", building, "--no-http"]
        log = postgres.folder / f"{template}.log"
        odoo = environment.odoo_command()
        title = f"install {' '.join(modules)}"
        _run_odoo(
            title, [*odoo, *common, "-i", ",".join(modules), "--stop-after-init"], variables, log
        )
        title, script = "move the attachments to the database", KEEP_ATTACHMENTS_IN_DATABASE
        _run_odoo(title, [*odoo, "shell", *common], variables, log, script)
    installed = "SELECT name FROM ir_module_module WHERE state = 'installed'"
    if missing := set(modules) - set(postgres.sql(building, installed).split()):
        raise ServerError(f"not installed: {', '.join(sorted(missing))}; see {log}")
    in_files = "SELECT count(*) FROM ir_attachment WHERE store_fname IS NOT NULL"
    if left := int(postgres.sql(building, in_files)):
        raise ServerError(f"{left} attachments are still in the file store; see {log}")
    postgres.sql("postgres", f'ALTER DATABASE "{building}" RENAME TO "{template}"')


def _run_odoo(
    title: str, argv: list[str], env: dict[str, str], log: Path, script: str = ""
) -> None:
    """Run an Odoo command to its end; `script` is its input."""
    print(f"{title} ...", file=sys.stderr, flush=True)
    start = time.monotonic()
    with log.open("ab") as out:
        text = script.encode()
        done = subprocess.run(argv, input=text, stdout=out, stderr=out, env=env, check=False)
    if done.returncode:
        tail = "\n    ".join(log.read_text(errors="replace").splitlines()[-30:])
        raise ServerError(f"{title} failed; {log}:\n    {tail}")
    print(f"    {time.monotonic() - start:.0f} s", file=sys.stderr, flush=True)


def _common_options(postgres: PostgreSQL, folder: Path | str, load: str) -> dict[str, object]:
    """The options of every odoo.conf; Odoo keeps its files in `folder`."""
    return {
        "addons_path": environment.addons_path(),
        "data_dir": f"{folder}/data",
        "db_host": postgres.host,
        "db_port": postgres.port,
        "db_user": postgres.user,
        "server_wide_modules": load,
        "http_interface": LOOPBACK,
        "with_demo": False,
    }


def write_conf(
    path: Path, options: Mapping[str, object], redis: Mapping[str, object] | None
) -> None:
    """Write an odoo.conf with its sections [options] and [redis]."""
    lines = []
    for section, values in {"options": options, **({"redis": redis} if redis else {})}.items():
        lines += [f"[{section}]", *(f"{name} = {value}" for name, value in values.items()), ""]
    path.write_text("\n".join(lines))
    path.chmod(0o600)


def odoo_environment(extra: Mapping[str, str]) -> dict[str, str]:
    """This process's environment without what would override an odoo.conf (PGHOST, ODOO_...)."""
    foreign = ("PG", "ODOO_", "REDIS_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    return {**kept, **environment.odoo_variables(), "PYTHONUNBUFFERED": "1", **extra}


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
        running = pid.exists() and alive(int(pid.read_text().split()[0]))
        if not running and not Path(record.read_text()).exists():
            shutil.rmtree(record.with_suffix(""), ignore_errors=True)
            record.unlink(missing_ok=True)


def _checkout_state() -> str:
    """A digest of what the addon's files are now, by name, size and date."""
    skip = {".git", ".dev", "dev", "docs", "bench", "deploy", "__pycache__"}
    state = []
    for top in sorted(environment.CHECKOUT.iterdir()):
        for path in sorted([top, *top.rglob("*")] if top.name not in skip else []):
            if path.suffix in (".py", ".xml", ".csv", ".po", ".pot") and path.is_file():
                state.append(f"{path} {path.stat().st_size} {path.stat().st_mtime_ns}")
    return _digest(*state)


def _digest(*words: str) -> str:
    return hashlib.sha256("\0".join(words).encode()).hexdigest()[:12]
