"""Measure how many pages one web node serves behind nginx, and two: the deployment of `deploy/`.

Each node has one worker, so that two nodes have the two cores of a small machine. wrk asks for the
page of somebody who is logged in, over HTTPS; an answer that is not 200 is an error, as the page of
somebody who is not logged in would be. One and two nodes take turns, in both orders.

With --after-deploy it measures the first requests to a node that has new code instead; with
--against, a warm request of this code beside one of another commit's.
"""

from __future__ import annotations

import argparse
import os
import re
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

from stack.deployment import Deployment
from stack.provision import environment
from stack.servers import PostgreSQL, Redis, ServerError, init_database

from ..command import finish
from ..measure import load
from . import after_deploy, against
from .login import log_in

DATABASE, PAGE = "bench_nodes", "/odoo"
CONNECTIONS = 8
RELOADING = 1.0  # seconds that nginx takes to start workers with the new list, at most


def main() -> int:
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("bench/nodes/run", description=__doc__, formatter_class=form)
    parser.add_argument("--after-deploy", action="store_true", help="first requests to new code")
    parser.add_argument("--against", metavar="COMMIT", help="a warm request of another commit")
    parser.add_argument("--rounds", type=int, default=60, help="with --against (60)")
    parser.add_argument("--runs", type=int, default=4, help="of one node and of two (4)")
    parser.add_argument("--seconds", type=int, default=10, help="of each (10)")
    asked = parser.parse_args()
    if asked.against:
        with tempfile.TemporaryDirectory(prefix="bench-nodes-") as folder:
            against.measure(Path(folder), asked.against, asked.rounds)
        return 0
    if asked.after_deploy:
        with tempfile.TemporaryDirectory(prefix="bench-nodes-") as folder:
            after_deploy.measure(Path(folder), asked.runs)
        return 0
    wrk = environment.binary("wrk")
    with (
        tempfile.TemporaryDirectory(prefix="bench-nodes-") as folder,
        PostgreSQL(environment.home() / "bench/postgresql") as postgres,
        Redis(Path(folder) / "redis") as redis,
    ):
        postgres.dropdb(DATABASE)
        init_database(postgres, DATABASE, ["web", "bus", "auth_totp"])
        try:
            with Deployment(
                Path(folder) / "nodes", postgres, redis.url, database=DATABASE, workers=1
            ) as deployment:
                measure(deployment, wrk, asked.runs, asked.seconds)
        finally:
            postgres.dropdb(DATABASE)
    return 0


def measure(deployment: Deployment, wrk: Path, runs: int, seconds: int) -> None:
    """Print a line each run, and the ratio."""
    cookie = log_in(deployment.nginx.url, deployment.nginx.authority)
    print(load(), flush=True)
    rates: dict[int, list[float]] = {1: [], 2: []}
    for number in range(runs):
        for nodes in (1, 2) if number % 2 else (2, 1):
            use(deployment, nodes)
            ask(deployment, wrk, cookie, 2)  # so that each worker is warm
            rates[nodes].append(ask(deployment, wrk, cookie, seconds))
            print(f"{nodes} node(s): {rates[nodes][-1]:7.1f} pages/s, no error", flush=True)
    one, two = statistics.median(rates[1]), statistics.median(rates[2])
    print(f"two nodes / one: {two / one:.2f}")
    print(load())


def use(deployment: Deployment, nodes: int) -> None:
    """Have nginx send requests to so many nodes."""
    nginx = deployment.nginx
    nginx.write()
    upstreams = nginx.folder / "odoo/upstreams.conf"
    if nodes == 1:
        address = deployment.address(deployment.web[1])
        upstreams.write_text(
            re.sub(f"(server {address})[^;]*;", r"\1 down;", upstreams.read_text())
        )
    nginx.reload()
    time.sleep(RELOADING)


def ask(deployment: Deployment, wrk: Path, cookie: str, seconds: int) -> float:
    """Pages a second.

    :raises ServerError: if one answer was not the page
    """
    command = [
        str(wrk), "-t", "1", "-c", str(CONNECTIONS), "-d", f"{seconds}s",
        "--timeout", "30s", "-H", f"Cookie: {cookie}", f"{deployment.nginx.url}{PAGE}",
    ]  # fmt: skip
    variables = {**os.environ, **environment.library_path(wrk)}
    done = subprocess.run(command, capture_output=True, text=True, env=variables, check=False)
    if wrong := re.findall(r"Non-2xx.*|Socket errors.*", done.stdout):
        raise ServerError("; ".join(wrong))
    found = re.search(r"Requests/sec:\s+([\d.]+)", done.stdout)
    if done.returncode or not found:
        raise ServerError(done.stdout + done.stderr)
    return float(found[1])


if __name__ == "__main__":
    finish("nodes", main)
