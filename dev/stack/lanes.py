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

import os
import random
import re
import subprocess
import sys
from pathlib import Path

from .provision import environment
from .servers import PostgreSQL, write_conf

# What takes long comes first, so that no process is left with it at the end.
ALL = [
    "tests/outages/test_under_load.py",
    *(f"tests/{kind}" for kind in ("suites", "coherence", "outages", "integration", "unit")),
]


def main(arguments: list[str]) -> int:
    """The exit code."""
    if "-h" in arguments or "--help" in arguments:
        print(__doc__)
        return 0
    lane = arguments.pop(0) if arguments[:1] in (["unit"], ["long"]) else ""
    os.environ["TEST_LONG"] = "1" if lane == "long" else ""
    seeds = [word for word in arguments if word.startswith("--hypothesis-seed=")]
    if not seeds:
        seeds = [f"--hypothesis-seed={random.randrange(10**6)}"]
        arguments += seeds
    try:
        return run(lane, arguments)
    finally:
        print(f"The same choices again: {seeds[-1]}")


def run(lane: str, arguments: list[str]) -> int:
    """Run the tests of a lane, or those that arguments name; the exit code."""
    folder = environment.home() / "test"
    folder.mkdir(parents=True, exist_ok=True)
    named = any(word.startswith("tests") for word in arguments)
    if lane == "unit":
        return run_pytest(folder, [*([] if named else ["tests/unit"]), *arguments])
    if not named:
        # Most wait for servers most of the time: one process more than there are cores.
        processes = (os.cpu_count() or 1) + 1
        arguments = [*ALL, f"--numprocesses={processes}", "--dist=loadgroup", *arguments]
    with PostgreSQL(folder / "postgresql") as postgres:
        return run_pytest(folder, arguments, postgres)


def run_pytest(folder: Path, arguments: list[str], postgres: PostgreSQL | None = None) -> int:
    """Run pytest in the addon's folder; its exit code."""
    conf = folder / ("pytest.conf" if postgres else "unit.conf")
    # pytest-odoo wants the name of a database; tests/conftest.py makes one.
    options = {"db_name": "pytest", "list_db": False, "max_cron_threads": 0}
    write_conf(conf, postgres, folder, options=options)
    # By way of the link, whose name is the addon's.
    addon = environment.home() / "addons" / environment.ADDON
    words = [re.sub(r"^(--ignore=)?(?=tests\b)", rf"\g<0>{addon}/", word) for word in arguments]
    command = [sys.executable, "-m", "pytest", f"--rootdir={addon}", f"-c{addon}/pyproject.toml"]
    command += [f"--odoo-config={conf}", *words]
    return subprocess.run(command, cwd=folder, check=False).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
