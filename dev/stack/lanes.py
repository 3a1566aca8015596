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
import time
import xml.etree.ElementTree as ET
from collections import defaultdict
from pathlib import Path

from .provision import environment
from .servers import PostgreSQL, write_conf

# What fills both cores at once; then what measures how long something waits for Redis; then 50
# users who leave no core to others.
PHASES = (
    (["tests/suites", "tests/coherence", "tests/integration", "tests/unit"], 2),
    (["tests/outages", "--ignore=tests/outages/test_under_load.py"], 2),
    (["tests/outages/test_under_load.py"], 0),
)
LONGEST = 10
NO_TESTS = 5  # pytest's exit code where it selected none


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
    started = time.monotonic()
    with PostgreSQL(folder / "postgresql") as postgres:
        if named:
            return run_pytest(folder, arguments, postgres)
        codes, reports = [], []
        for number, (words, processes) in enumerate(PHASES):
            reports.append(folder / f"phase{number}.xml")
            options = [
                f"--numprocesses={processes}",
                "--dist=loadgroup",
                f"--junit-xml={reports[-1]}",
            ]
            codes.append(run_pytest(folder, [*words, *options, *arguments], postgres))
    show(reports, time.monotonic() - started)
    return max(set(codes) - {NO_TESTS} or {NO_TESTS})


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


def show(reports: list[Path], seconds: float) -> None:
    """Print the parts that took longest: a file of tests each, and each of Odoo's suites."""
    parts: defaultdict[str, float] = defaultdict(float)
    for report in reports:
        for case in ET.parse(report).iter("testcase"):
            name = case.attrib["classname"].partition("tests.")[2]
            if name == "suites.test_suites":
                name += f" {case.attrib['name'].partition('[')[2].rstrip(']')}"
            parts[name] += float(case.attrib["time"])
    print(f"\nThe {LONGEST} longest parts, of {sum(parts.values()):.0f} s in {seconds:.0f} s:")
    for name, spent in sorted(parts.items(), key=lambda part: -part[1])[:LONGEST]:
        print(f"{spent:8.1f} s  {name}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
