"""The databases and servers that `bench/ormcache/run` compares: Odoo alone, and with the addon.

Sessions stay in files in both arms: what Redis is asked is asked by the cache.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests

from stack.provision import environment
from stack.servers import Odoo, PostgreSQL, Redis, digest, free_port, init_database

from .journey import MODULES, Client

ADDONS = Path(__file__).resolve().parent / "addons"
PROBE = "ormcache_probe"


@dataclass(frozen=True)
class Arm:
    """One side of the comparison, with a database and session files of its own.

    :param redis: the URL of a server
    :param addon: whether the addon is loaded
    """

    name: str
    folder: Path
    redis: str
    addon: bool
    database: str

    @property
    def load(self) -> str:
        """The server-wide modules."""
        addon = [environment.ADDON] if self.addon else []
        return ",".join(["base", "rpc", "web", *addon, PROBE])

    @property
    def env(self) -> dict[str, str]:
        return {"ODOO_REDIS_URL": self.redis, "ODOO_REDIS_SESSION": "false"}

    @property
    def config(self) -> dict[str, object]:
        return {"addons_path": addons_path(), "data_dir": self.folder / "data"}


class Node(Odoo):
    """A server that has loaded its registry when it is ready, and has answered no request.

    :param workers: 0 for one threaded process; prefork workers listen on a port of their own each
    :param seed: of Python's hashes; what differs by process is that much less between two alike
    """

    timeout = 300.0

    def __init__(
        self, arm: Arm, postgres: PostgreSQL, workers: int = 0, seed: int | None = None
    ) -> None:
        self.arm = arm
        ports = [free_port() for _ in range(workers)]
        super().__init__(
            f"{arm.name}{workers or ''}", arm.folder, postgres,
            database=arm.database,
            workers=workers,
            load=arm.load,
            config={**arm.config, "limit_time_cpu": 600, "limit_time_real": 1200},
            env={
                **arm.env,
                "ORMCACHE_PROBE_PORTS": ",".join(map(str, ports)),
                "PYTHONHASHSEED": "random" if seed is None else str(seed),
            },
        )  # fmt: skip
        self.urls = [f"http://127.0.0.1:{port}" for port in ports] or [self.url]

    def ready(self) -> bool:
        try:
            return all(self.probe(url=url)["ready"] for url in self.urls)
        except requests.ConnectionError:
            return False

    def probe(self, *path: str, url: str | None = None) -> dict[str, Any]:
        """What a process says of itself, after it has done what `path` asks for."""
        with requests.Session() as session:
            session.trust_env = False
            words = "/".join(path or ("status",))
            answer = session.get(f"{url or self.urls[0]}/probe/{words}", timeout=60)
            answer.raise_for_status()
            status: dict[str, Any] = answer.json()
            return status

    def clear(self, *keys: str) -> None:
        """Empty the caches of these keys, or all, in the first worker, which tells the others."""
        self.probe("clear", self.arm.database, *keys)


def addons_path() -> str:
    """Odoo's addons, this checkout and the probe."""
    return f"{environment.addons_path()},{ADDONS}"


@contextmanager
def arms(
    names: list[str], folder: Path, redis: Redis, postgres: PostgreSQL, control: bool = False
) -> Iterator[list[Arm]]:
    """The arms, each with a fresh copy of the database, dropped at the end.

    :param control: the addon is loaded in none
    """
    template = _template(postgres, folder, redis)
    made = [
        Arm(
            name, folder / name, redis.url,
            addon=name == "addon" and not control, database=f"ormcache_bench_{name}",
        )
        for name in names
    ]  # fmt: skip
    try:
        for arm in made:
            postgres.dropdb(arm.database)
            postgres.createdb(arm.database, template)
        yield made
    finally:
        if postgres.running:
            for arm in made:
                postgres.dropdb(arm.database)


def _template(postgres: PostgreSQL, folder: Path, redis: Redis) -> str:
    """A database in which the journey was made once, so that compiled assets are in it; kept."""

    def build(database: str) -> None:
        init_database(postgres, database, MODULES)
        print("make the journey once, with its assets ...", file=sys.stderr, flush=True)
        arm = Arm("stock", folder / "template", redis.url, addon=False, database=database)
        with Node(arm, postgres) as node:
            client = Client(node.url, database)
            client.login()
            client.passage()
            if not client.load_assets():
                raise RuntimeError("the pages have no assets")
            client.passage()
        postgres.sql(database, "VACUUM ANALYZE")

    source = Path(__file__).with_name("journey.py").read_text()
    key = digest(str(environment.odoo_path()), source)
    return postgres.template(f"template_ormcache_bench_{key}", build)
