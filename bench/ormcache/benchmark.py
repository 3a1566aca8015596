"""What `bench/ormcache/run` measures and shows."""

from __future__ import annotations

import json
import platform
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import psycopg2
import redis
from odoo import release

from stack.provision import environment
from stack.servers import PostgreSQL, Redis, odoo_environment, write_conf

from ..measure import load
from .arms import Arm, arms
from .fresh import Fresh
from .report import Answers, Line, Samples, report
from .slow_paths import SlowPaths
from .storm import Storm

MEMORY = "memory of a warm worker"
ALTERNATIONS = 60  # of the two ways to a hit, in each process
FEW_ROUNDS = 5


def run(
    folder: Path,
    runs: int,
    rounds: int,
    parts: list[str],
    names: list[str],
    *,
    details: bool,
    control: bool,
) -> None:
    """Start the servers, measure, print the table."""
    # Kept, with the databases from which those that are measured are copied.
    postgres = PostgreSQL(
        environment.home() / "bench/postgresql", config={"shared_buffers": "512MB"}
    )
    with postgres, Redis(folder / "redis") as server:
        with arms(names, folder, server, postgres, control) as sides:
            print(_versions(server, postgres), load(), sep="\n", flush=True)
            sections: dict[str, Sequence[Line | Answers]] = {}
            notes = ["CONTROL: the addon is loaded in no arm."] if control else []
            if {"fresh", "away", "memory"} & {*parts}:
                if not {"fresh", "away"} & {*parts}:
                    rounds = FEW_ROUNDS
                fresh = Fresh(sides, postgres, server, rounds, away="away" in parts)
                fresh.run(runs)
                notes += fresh.notes()
                if "fresh" in parts:
                    sections["a fresh worker, Redis filled by another"] = fresh.fresh_lines()
                    sections["what a fresh worker computes"] = fresh.share_lines()
                if "away" in parts:
                    sections["Redis was killed"] = fresh.away_lines()
                if "memory" in parts:
                    sections[MEMORY] = fresh.memory_lines()
                if details:
                    print(fresh.details())
            if "hit" in parts:
                sections["a hit in the process's own cache"], said = _hit(sides, postgres, runs)
                notes += said
            if "storm" in parts:
                storm = Storm(sides, postgres)
                storm.run(runs)
                sections["caches cleared under load"] = storm.lines()
                sections[MEMORY] = [*sections.get(MEMORY, ()), *storm.memory_lines()]
            if "slow-paths" in parts:
                slow = SlowPaths(sides, postgres, server)
                slow.run(runs)
                sections.update(slow.sections())
                notes += slow.notes()
    print(report(sections), *notes, load(), sep="\n")


def _hit(sides: list[Arm], postgres: PostgreSQL, runs: int) -> tuple[list[Line], list[str]]:
    """The cost of a hit, in `runs` processes one after the other, and notes."""
    samples, notes = Samples(), []
    side = sides[-1]  # the addon's, if it is measured
    side.folder.mkdir(exist_ok=True)
    options = {**side.config, "db_name": side.database}
    conf = write_conf(
        side.folder / "hit.conf", postgres, side.folder, load=side.load, options=options
    )
    script = str(Path(__file__).with_name("hit.py"))
    command = [script, ",".join(side.name for side in sides), str(ALTERNATIONS), str(conf)]
    for number in range(1, runs + 1):
        print(f"hits: run {number} of {runs}", file=sys.stderr, flush=True)
        done = subprocess.run(
            [str(environment.python()), *command],
            env=odoo_environment(side.env), stdout=subprocess.PIPE, text=True, check=True,
        )  # fmt: skip
        answer = json.loads(done.stdout)
        for name, seconds in answer["seconds"].items():
            samples.add(name, hit=seconds)
        notes = answer["notes"]
    lines = [
        Line("hit, µs", samples.pair("hit"), 1e-6, 3, compared=samples.ratio("hit"), target=1.03)
    ]
    return lines, notes


def _versions(server: Redis, postgres: PostgreSQL) -> str:
    [version] = [
        line.partition(":")[2]
        for line in server.cli("INFO", "server").splitlines()
        if line.startswith("redis_version:")
    ]
    parts = {
        "Odoo": release.version,
        "Python": platform.python_version(),
        "PostgreSQL": postgres.sql("postgres", "SHOW server_version").split()[0],
        "Redis": version.strip(),
        "redis-py": redis.__version__,
        "psycopg2": psycopg2.__version__.split()[0],
    }
    return ", ".join(f"{name} {version}" for name, version in parts.items())
