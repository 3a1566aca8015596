"""The first requests to a node that has new code, beside those to a warm one.

Each round changes the code, restarts one node after the other as `deploy/rolling` does, and makes a
journey on each: the first node computes what its pages need, because values are never shared
between two versions of the code; the second finds them in Redis. Then it makes the journey on the
second node again, warm. In every other round `odoo redis warm` is run before, with the new code.
"""

from __future__ import annotations

import statistics
import subprocess
import time
from pathlib import Path

import requests

from stack.deployment import Deployment, Unit
from stack.provision import environment
from stack.servers import PostgreSQL, Redis, ServerError, odoo_environment, start_all, stop_all

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
    ratios: dict[str, list[float]] = {}
    for number in range(2 * runs):
        (module / "__init__.py").write_text(f"VERSION = {number}\n")
        warmed = ", warmed" if number % 2 else ""
        if warmed:
            _warm(deployment, client.database)
        first = _first(deployment, deployment.web[0], client)
        time.sleep(SENT)
        second = _first(deployment, deployment.web[1], client)
        passages = [_seconds(client) for _ in range(SETTLING + WARM)]
        warm = statistics.median(passages[SETTLING:])
        for name, seconds in ("first node", first), ("second node", second):
            ratios.setdefault(name + warmed, []).append(seconds / warm)
        print(
            f"first node{warmed} {first * 1e3:6.0f} ms, second {second * 1e3:6.0f} ms,"
            f" warm {warm * 1e3:6.0f} ms",
            flush=True,
        )
    for name, found in ratios.items():
        print(f"{name} / warm: {statistics.median(found):.2f}")


def _warm(deployment: Deployment, database: str) -> None:
    """Run the command as on a node that is out of service."""
    node = deployment.web[0]
    command = [*environment.odoo_command(), "redis", "warm", "-d", database]
    command += ["-c", str(node.conf)]
    variables = {**odoo_environment({}), **node.environment()}
    done = subprocess.run(command, capture_output=True, text=True, env=variables, check=False)
    if done.returncode:
        raise ServerError(done.stdout + done.stderr)
    print(done.stdout.strip(), flush=True)


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
