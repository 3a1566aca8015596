"""Run the tests against real servers, which are made and started first.

dev/test                  what a change needs: a part of each proof, another one each time
dev/test unit             only what needs no server; seconds
dev/test long             each proof at full length, and all of Odoo's suites and tours
dev/test [LANE] ARGUMENT  with arguments for pytest: folders and files of tests/, options
                          dev/test tests/integration/test_store.py -k revoked
                          dev/test long tests/suites -k tours

dev/test --hypothesis-seed=7 ...                repeats a run: each prints its seed
TOPOLOGY=cluster dev/test tests/integration     on another Redis: see tests/support/topologies.py
SUITES_STOCK=1 dev/test tests/suites            Odoo's suites without the addon
"""

from __future__ import annotations

import argparse
import fcntl
import os
import random
import subprocess
import sys
from pathlib import Path

from .provision import environment
from .servers import PostgreSQL, write_conf

KINDS = [
    "tests/suites",
    "tests/coherence",
    "tests/outages",
    "tests/integration",
    "tests/deployment",
    "tests/unit",
]
MOST = 4  # cores that are used; PostgreSQL takes so many connections
TAKE_A_VALUE = {"-k", "-m", "-n", "--deselect", "--ignore"}  # options of pytest


def main(arguments: list[str]) -> int:
    """The exit code."""
    if "-h" in arguments or "--help" in arguments:
        print(__doc__)
        return 0
    lane = arguments.pop(0) if arguments[:1] in (["unit"], ["long"]) else ""
    os.environ["TEST_LONG"] = "1" if lane == "long" else ""
    parser = argparse.ArgumentParser("dev/test", add_help=False, allow_abbrev=False)
    parser.add_argument("--hypothesis-seed", default=str(random.randrange(10**6)))
    options, others = parser.parse_known_args(arguments)
    try:
        return run(lane, [f"--hypothesis-seed={options.hypothesis_seed}", *others])
    finally:
        print(f"The same choices again: --hypothesis-seed={options.hypothesis_seed}")


def run(lane: str, arguments: list[str]) -> int:
    """Run the tests of a lane, or those that arguments name; the exit code."""
    folder = environment.home() / "test"
    folder.mkdir(parents=True, exist_ok=True)
    environment.addons_path()  # makes the link
    values = {index + 1 for index, word in enumerate(arguments) if word in TAKE_A_VALUE}
    targets = {i: path for i, w in enumerate(arguments) if i not in values and (path := target(w))}
    words = [targets.get(index, word) for index, word in enumerate(arguments)]
    if lane == "unit":
        return run_pytest(folder, words if targets else [str(target("tests/unit")), *words])
    if not targets:
        # Most tests wait for servers most of the time: one process more than there are cores.
        processes = min(len(os.sched_getaffinity(0)), MOST) + 1
        words = [*(str(target(kind)) for kind in KINDS), f"-n{processes}", *words]
    words += ["--dist=loadscope", "--no-loadscope-reorder"]
    lock = os.open(folder / "lock", os.O_CREAT | os.O_WRONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # until this process ends
    except BlockingIOError:
        sys.exit(f"dev/test: another one is at work in {folder}")
    with PostgreSQL(folder / "postgresql") as postgres:
        left = "SELECT datname FROM pg_database WHERE datname ~ '^(pytest|test)_'"
        for name in postgres.sql("postgres", left).split():  # by a run that was killed
            postgres.dropdb(name)
        return run_pytest(folder, words, postgres)


def target(word: str) -> str | None:
    """A path in tests/ by way of the link, whose name is the addon's; None for any other word."""
    path, colons, name = word.partition("::")
    full = Path(os.path.normpath(environment.CHECKOUT / path))
    if word.startswith("-") or not full.exists():
        return None
    if not full.is_relative_to(environment.CHECKOUT / "tests"):
        return None
    addon = environment.home() / "addons" / environment.ADDON
    return f"{addon / full.relative_to(environment.CHECKOUT)}{colons}{name}"


def run_pytest(folder: Path, words: list[str], postgres: PostgreSQL | None = None) -> int:
    """Run pytest in the addon's folder; its exit code."""
    conf = folder / ("pytest.conf" if postgres else "unit.conf")
    # pytest-odoo wants the name of a database; tests/conftest.py makes one.
    options = {"db_name": "pytest", "list_db": False, "max_cron_threads": 0}
    write_conf(conf, postgres, folder, options=options)
    addon = environment.home() / "addons" / environment.ADDON
    command = [sys.executable, "-m", "pytest", f"--rootdir={addon}", f"-c{addon}/pyproject.toml"]
    command += [f"--odoo-config={conf}", *words]
    return subprocess.run(command, cwd=folder, check=False).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
