"""Odoo's own test suites, run with this addon loaded: the same tests pass as without it.

What fails on a stock Odoo too is listed with its reason, and nothing else may fail; a listed test
that passes is reported as well. `dev/test suites --stock` runs the same without the addon.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from . import environment
from .servers import PostgreSQL, Redis, ServerError, free_port, odoo_environment, write_conf

FILES = "counts session files by path"
MEMORY = "looks into the session object that only a store in memory shares with the server"

AUTH = ["auth_passkey", "auth_totp"]


@dataclass(frozen=True)
class Suite:
    """One run of Odoo: on a database with `modules` and demo data, the tests that `tags` name.

    :param least: how many tests must have run, lest a renamed class goes unnoticed
    :param stock: tests that fail on a stock Odoo, and why
    :param expected: tests that fail when sessions are not in files, and why
    """

    name: str
    modules: list[str]
    tags: str
    least: int
    auto_install: bool = True
    load: str = ""
    stock: dict[str, str] = field(default_factory=dict)
    expected: dict[str, str] = field(default_factory=dict)


CORE = ["web", "test_http", "bus", "auth_timeout", *AUTH]
SUITES = [
    Suite(
        "http",
        CORE,
        "/test_http",
        least=170,
        expected={"TestSessionRotation.test_session_rotation": FILES},
    ),
    Suite(
        "http_real_store",
        CORE,
        "/test_http:TestHttpSession,/test_http:TestDevice,/test_http:TestSessionStore",
        least=25,
        load="test_http_real_store",
        stock=dict.fromkeys(
            [
                "TestDevice.test_detection_device_according_to_ipaddress",
                "TestDevice.test_detection_device_according_to_time",
                "TestDevice.test_detection_device_according_to_useragent",
                "TestDevice.test_detection_device_no_readonly",
                "TestDevice.test_detection_device_readonly",
                "TestDevice.test_detection_device_readonly_then_no_readonly",
                "TestHttpSession.test_session00_debug_mode",
                "TestHttpSession.test_session03_logout_15_0_geoip",
                "TestHttpSession.test_session10_explicit_session",
            ],
            MEMORY,
        ),
    ),
    Suite("bus", CORE, "/bus", least=35),
    Suite("auth", CORE, "/auth_totp,/auth_totp_mail,/auth_timeout,/auth_passkey", least=20),
    Suite(
        "web",
        ["web", "bus", "rpc", *AUTH],
        "/web:TestWebLogin,/web:TestDatabaseManager,/web:TestSessionInfo,/web:TestReports,/base:TestUsers,"
        "/base:TestUsers2,/base:TestUsersIdentitycheck,/base:TestHttpCase,/rpc",
        least=45,
        auto_install=False,
        stock={
            "TestReports.test_report_session_cookie": "needs wkhtmltopdf",
            "TestReports.test_report_error_cleanup": "its view is refused by this version of lxml",
        },
    ),
]


def run_suites(postgres: PostgreSQL, redis: Redis, words: list[str]) -> bool:
    """Run all suites, or those whose name contains one of `words`; whether all is as expected."""
    stock = "--stock" in words
    words = [word for word in words if word != "--stock"]
    passed = True
    for suite in SUITES:
        if not words or any(word in suite.name for word in words):
            passed = run_suite(suite, postgres, redis, stock) and passed
    return passed


def run_suite(suite: Suite, postgres: PostgreSQL, redis: Redis, stock: bool) -> bool:
    """Run one suite on a fresh copy of its database, and print a line or two."""
    folder = environment.home() / "test/suites"
    data, database = folder / "data", f"suite_{suite.name}"
    template = _template(suite, postgres, data)
    postgres.dropdb(database)
    postgres.createdb(database, template)
    store = data / "filestore" / database
    shutil.rmtree(store, ignore_errors=True)
    shutil.copytree(data / "filestore" / template, store)
    log = folder / f"{suite.name}{'-stock' if stock else ''}.log"
    load = [
        "base",
        "rpc",
        "web",
        *([] if stock else [environment.ADDON]),
        *([suite.load] if suite.load else []),
    ]
    start = time.monotonic()
    options = {"server_wide_modules": ",".join(load), "http_port": free_port()}
    _odoo(postgres, data, database, log, ["--test-tags", suite.tags], options, redis)
    shutil.rmtree(store)
    text = log.read_text(errors="replace")
    failed = set(re.findall(r" (?:FAIL|ERROR): (?:setUpClass \([\w.]*\.)?(\w+(?:\.\w+)?)", text))
    count = sum(int(number) for number in re.findall(r"error\(s\) of (\d+) tests", text))
    known = suite.stock if stock else suite.stock | suite.expected
    problems = [f"failed: {name}" for name in sorted(failed - set(known))]
    problems += [
        f"passed, though listed as failing: {name}" for name in sorted(set(known) - failed)
    ]
    if count < suite.least:
        problems.append(f"only {count} tests were run, {suite.least} expected")
    skipped = re.findall(r" skipped ([\w.]+) ?: (.*)", text)
    problems += [
        f"skipped: {name}: {why}"
        for name, why in skipped
        if re.search("chrome|websocket-client", why, re.IGNORECASE)
    ]
    print(
        f"odoo suite {suite.name}: {count} tests, {len(failed & set(known))} known failures,"
        f" {len(skipped)} skipped, {len(problems)} problems, {time.monotonic() - start:.0f} s",
        flush=True,
    )
    for problem in problems:
        print(f"    {problem}; see {log}", flush=True)
    return not problems


def _template(suite: Suite, postgres: PostgreSQL, data: Path) -> str:
    """The database to copy, with demo data and attachments in files, as those tests want it."""
    name = f"suites_{'full' if suite.auto_install else 'lean'}"
    if not postgres.sql("postgres", f"SELECT 1 FROM pg_database WHERE datname = '{name}'"):
        building = f"{name}_building"
        postgres.dropdb(building)
        log = data.parent / f"{name}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        print(f"install {' '.join(suite.modules)} with demo data ...", flush=True)
        install = ["-i", ",".join(suite.modules), "--with-demo"]
        install += [] if suite.auto_install else ["--skip-auto-install"]
        if _odoo(postgres, data, building, log, install):
            raise ServerError(f"the installation failed, see {log}")
        (data / "filestore" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(data / "filestore" / name, ignore_errors=True)
        (data / "filestore" / building).rename(data / "filestore" / name)
        postgres.sql("postgres", f'ALTER DATABASE "{building}" RENAME TO "{name}"')
    return name


def _odoo(
    postgres: PostgreSQL,
    data: Path,
    database: str,
    log: Path,
    arguments: list[str],
    options: dict[str, object] | None = None,
    redis: Redis | None = None,
) -> int:
    """Run Odoo to its end; its exit code."""
    conf = log.with_suffix(".conf")
    common = {
        "addons_path": f"{environment.addons_path()},{environment.CHECKOUT / 'dev/addons'}",
        "data_dir": data,
        "db_host": postgres.host,
        "db_port": postgres.port,
        "db_user": postgres.user,
        "db_name": database,
        "http_interface": "127.0.0.1",
        "screenshots": data.parent / "screenshots",
    }
    write_conf(conf, {**common, **(options or {})}, {"url": redis.url} if redis else None)
    command = [*environment.odoo_command(), "-c", str(conf), "--stop-after-init", *arguments]
    path = f"{environment.browser().parent}:{os.environ.get('PATH', os.defpath)}"
    # The browser is killed and leaves its temporary files behind.
    with log.open("wb") as out, tempfile.TemporaryDirectory() as temporary:
        env = odoo_environment({"PATH": path, "TMPDIR": temporary})
        done = subprocess.run(
            command, stdout=out, stderr=out, env=env, cwd=data.parent, check=False
        )
    return done.returncode
