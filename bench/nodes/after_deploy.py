"""The first requests to a node that has new code, beside those to a warm one.

Each round changes the code, restarts one node after the other as `deploy/rolling` does, and makes a
journey on each: the first node computes what its pages need, because values are never shared
between two versions of the code; the second finds them in Redis. Then it makes the journey on the
second node again, warm.
"""

from __future__ import annotations

import statistics
import time
from pathlib import Path

import requests

from stack.deployment import Deployment, Unit
from stack.provision import environment
from stack.servers import PostgreSQL, Redis, start_all, stop_all

from ..measure import load
from ..ormcache.arms import arms
from ..ormcache.journey import HOST, Client

MODULE = "rolling_bench"
WARM = 5  # passages
SETTLING = 2  # passages that are not counted, in which Python collects the garbage of the first
SENT = 3.0  # seconds after which a process has sent what it computed


def measure(folder: Path, runs: int) -> None:
    """Print a line each run, and the ratios."""
    with (
        PostgreSQL(
            environment.home() / "bench/postgresql", config={"shared_buffers": "512MB"}
        ) as postgres,
        Redis(folder / "redis") as redis,
        arms(["addon"], folder, redis, postgres) as [arm],
    ):
        module = folder / "addons" / MODULE
        module.mkdir(parents=True)
        (module / "__init__.py").touch()
        (module / "__manifest__.py").write_text(
            "{'name': 'Rolling', 'author': 'Rolling', 'license': 'LGPL-3', 'version': '19.0.1.0.0'}"
        )
        deployment = Deployment(
            folder / "nodes", postgres, redis.url, database=arm.database, workers=1,
            env={
                "ODOO_ADDONS_PATH": f"{environment.addons_path()},{module.parent}",
                "ODOO_SERVER_WIDE_MODULES": f"base,rpc,web,{environment.ADDON},{MODULE}",
            },
        )  # fmt: skip
        print(load(), flush=True)
        try:
            start_all(*deployment.web)
            _measure(deployment, Client(deployment.web[0].url, arm.database), module, runs)
        finally:
            stop_all(*deployment.web)
        print(load())


def _measure(deployment: Deployment, client: Client, module: Path, runs: int) -> None:
    client.login()
    _seconds(client)
    ratios: list[tuple[float, float]] = []
    for number in range(runs):
        (module / "__init__.py").write_text(f"VERSION = {number}\n")
        first = _first(deployment, deployment.web[0], client)
        time.sleep(SENT)
        second = _first(deployment, deployment.web[1], client)
        passages = [_seconds(client) for _ in range(SETTLING + WARM)]
        warm = statistics.median(passages[SETTLING:])
        ratios.append((first / warm, second / warm))
        print(
            f"first node {first * 1e3:6.0f} ms, second {second * 1e3:6.0f} ms,"
            f" warm {warm * 1e3:6.0f} ms",
            flush=True,
        )
    for name, column in zip(("first node", "second node"), zip(*ratios, strict=True), strict=True):
        print(f"{name} / warm: {statistics.median(column):.2f}")


def _first(deployment: Deployment, node: Unit, client: Client) -> float:
    """Restart a node, ask it for what `deploy/rolling` asks for, and make the journey there."""
    deployment.restart(node)
    with requests.Session() as http:
        http.trust_env = False
        http.get(f"{node.url}/web/login", headers={"Host": HOST}, timeout=120).raise_for_status()
    client.url = node.url
    return _seconds(client)


def _seconds(client: Client) -> float:
    return sum(answer.seconds for answer in client.passage())
