"""Odoo: a node, a process that does as told, and databases with modules installed."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..provision import environment
from .postgresql import PostgreSQL, digest
from .process import LOOPBACK, Server, ServerError, answers_http, free_port, listens

LOAD = f"base,rpc,web,{environment.ADDON}"  # the server-wide modules


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
        load: str = LOAD,
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
        write_conf(self.conf, postgres, self.folder, load=load, options=options, redis=redis)

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

    `stack/worker.py` is what runs; `config`, `redis` and `env` are as for a node. `prefix` is a
    command that runs it.
    """

    def __init__(
        self,
        folder: Path | str,
        postgres: PostgreSQL,
        *,
        database: str,
        load: str = LOAD,
        config: Mapping[str, object] | None = None,
        redis: Mapping[str, object] | None = None,
        env: Mapping[str, str] | None = None,
        prefix: Sequence[str] = (),
    ) -> None:
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        conf, self.log = folder / "odoo.conf", folder / "worker.log"
        options = {"db_name": database, **(config or {})}
        write_conf(conf, postgres, folder, load=load, options=options, redis=redis)
        script = Path(__file__).parents[1] / "worker.py"
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [*prefix, str(environment.python()), str(script), "-c", str(conf)],
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


def init_database(postgres: PostgreSQL, name: str, modules: Iterable[str]) -> None:
    """Make the database `name` with these modules, without demo data, attachments in the database.

    The installation is done once per list of modules, and kept in the cluster to be copied.
    """
    wanted = sorted({"base", *modules})
    key = digest(str(environment.odoo_path()), *wanted)
    template = f"template_{'_'.join(wanted)}"[:40] + f"_{key}"
    postgres.template(template, lambda building: _install(postgres, building, wanted))
    postgres.createdb(name, template)


KEEP_ATTACHMENTS_IN_DATABASE = """
env["ir.config_parameter"].set_param("ir_attachment.location", "db")
env["ir.attachment"].force_storage()
env.cr.commit()
"""


def _install(postgres: PostgreSQL, database: str, modules: list[str]) -> None:
    """Install modules in a new database."""
    install(postgres, database, modules)
    run_command(postgres, database, ["shell"], script=KEEP_ATTACHMENTS_IN_DATABASE)
    in_files = "SELECT count(*) FROM ir_attachment WHERE store_fname IS NOT NULL"
    if left := int(postgres.sql(database, in_files)):
        raise ServerError(f"{left} attachments are still in the file store of {database}")


def install(
    postgres: PostgreSQL,
    database: str,
    modules: Sequence[str],
    options: Mapping[str, object] | None = None,
    env: Mapping[str, str] | None = None,
) -> None:
    """Install modules in a database.

    :param options: of the odoo.conf
    :param env: variables of the process
    """
    words = ["-i", ",".join(modules), "--stop-after-init"]
    run_command(postgres, database, words, options=options, env=env)
    installed = "SELECT name FROM ir_module_module WHERE state = 'installed'"
    if missing := set(modules) - set(postgres.sql(database, installed).split()):
        raise ServerError(f"not installed: {', '.join(sorted(missing))}")


def run_command(
    postgres: PostgreSQL,
    database: str,
    words: Sequence[str],
    *,
    options: Mapping[str, object] | None = None,
    env: Mapping[str, str] | None = None,
    script: str = "",
) -> None:
    """Run an Odoo command on a database to its end, without this addon being server-wide.

    :param words: a subcommand and its arguments, or options of the server
    :param script: its input
    """
    with tempfile.TemporaryDirectory() as folder:
        conf = write_conf(
            Path(folder, "odoo.conf"), postgres, folder, load="base,rpc,web",
            options={"db_name": database, "http_enable": False, **(options or {})},
        )  # fmt: skip
        log = postgres.folder / f"{database}.log"
        argv = [*environment.odoo_command(), *words]
        _run_odoo(
            f"{database}: {' '.join(words)}",
            argv,
            log,
            script,
            {**(env or {}), "ODOO_RC": str(conf)},
        )


def _run_odoo(
    title: str, argv: list[str], log: Path, script: str, variables: Mapping[str, str]
) -> None:
    """Run an Odoo command to its end; `script` is its input."""
    print(f"{title} ...", file=sys.stderr, flush=True)
    start = time.monotonic()
    with log.open("ab") as out:
        text = script.encode()
        env = odoo_environment(variables)
        done = subprocess.run(argv, input=text, stdout=out, stderr=out, env=env, check=False)
    if done.returncode:
        tail = "\n    ".join(log.read_text(errors="replace").splitlines()[-30:])
        raise ServerError(f"{title} failed; {log}:\n    {tail}")
    print(f"    {time.monotonic() - start:.0f} s", file=sys.stderr, flush=True)


def write_conf(
    path: Path,
    postgres: PostgreSQL | None,
    folder: Path | str,
    *,
    load: str = LOAD,
    options: Mapping[str, object] | None = None,
    redis: Mapping[str, object] | None = None,
) -> Path:
    """Write an odoo.conf with its sections [options] and [redis]; its path.

    :param folder: where Odoo keeps its files
    """
    common: dict[str, object] = {
        "addons_path": environment.addons_path(),
        "data_dir": f"{folder}/data",
        "server_wide_modules": load,
        "http_interface": LOOPBACK,
        "with_demo": False,
    }
    if postgres:
        common |= {"db_host": postgres.host, "db_port": postgres.port, "db_user": postgres.user}
    lines = []
    sections: dict[str, Mapping[str, object]] = {"options": {**common, **(options or {})}}
    for section, values in {**sections, **({"redis": redis} if redis else {})}.items():
        lines += [f"[{section}]", *(f"{name} = {value}" for name, value in values.items()), ""]
    path.write_text("\n".join(lines))
    path.chmod(0o600)
    return path


def odoo_environment(extra: Mapping[str, str]) -> dict[str, str]:
    """This process's environment without what would override an odoo.conf (PGHOST, ODOO_...)."""
    foreign = ("PG", "ODOO_", "REDIS_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    return {**kept, **environment.odoo_variables(), "PYTHONUNBUFFERED": "1", **extra}
