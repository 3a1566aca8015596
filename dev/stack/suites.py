"""Odoo's own test suites, run with this addon loaded: the same tests pass as without it.

What fails on a stock Odoo too is listed with its reason, and nothing else may fail; a listed test
that passes is reported as well. `dev/test suites --stock` runs the same without the addon. A test
that is in a race with itself, which is listed as well, may lose it twice.

In some of them every value that Odoo caches is replaced by what its encoding decodes to, as if it
came from another process (`dev/addons/ormcache_round_trip`): what it saw is in a file beside the
log, and a value that came back different is a failure.
"""

from __future__ import annotations

import hashlib
import json
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
RACE = "looks at a page before the server has answered: fails if an answer takes 0.2 s"
IDLE = "has a form appear after a second: a page that takes longer to load closes it"
ROUND_TRIP = "ormcache_round_trip"

AUTH = ["auth_passkey", "auth_totp"]
ALONE = "--skip-auto-install"
# With demo data: what to install, and how.
DATABASES = {
    "full": ["-i", ",".join(["web", "test_http", "bus", *AUTH])],
    # Not mail_bot, whose chat has the browser ask the server at a moment of its own: a tour of
    # auth_timeout, in which the server refuses everything by then, fails of it now and then.
    "auth": ["-i", ",".join(["web", "bus", "auth_timeout", "auth_signup", *AUTH]), ALONE],
    "lean": ["-i", ",".join(["web", "bus", "rpc", "test_orm", *AUTH]), ALONE],
    "website": ["-i", "website", ALONE],
}


@dataclass(frozen=True)
class Suite:
    """One run of Odoo: on a copy of a database, the tests that `tags` name.

    :param database: a name in DATABASES
    :param least: how many tests must have run, lest a renamed class goes unnoticed
    :param load: one more server-wide module, which does something to the tests
    :param long: whether it takes so long that it is run only when it is named
    :param stock: tests that fail on a stock Odoo, and why
    :param expected: tests that fail when sessions are not in files, and why
    :param racing: tests that now and then fail on a stock Odoo too, and why
    """

    name: str
    database: str
    tags: str
    least: int
    load: str = ""
    long: bool = False
    stock: dict[str, str] = field(default_factory=dict)
    expected: dict[str, str] = field(default_factory=dict)
    racing: dict[str, str] = field(default_factory=dict)


def _without(tags: str) -> str:
    return ",".join(f"-{tag}" for tag in tags.split(","))


# What takes long, most of it in a browser: Hoot's tests, of which each takes minutes, tours, and
# what measures, compiles all assets, or starts other processes.
SLOW = (
    "/web:WebSuite.test_unit_desktop,/web:WebSuite.test_hoot,/web:MobileWebSuite,"
    "/web:TestUserSwitch,/web:TestUserSettings,/web:TestFavorite,/base:TestIrModelFieldsTranslation,"
    "/base:TestChromeBrowser,/base:TestChromeBrowserOddDimensions,/test_orm:TestUi,"
    "/test_orm:TestUiTranslation,/test_orm:TestPerformanceTimeit,/web:TestLogsAssetsGenerateTime,"
    "/base:TestTranslationExport,/base:TestInit,/rpc:TestXMLRPC"
)
TOURS = (
    "/website:TestUi,/website:TestUiHtmlEditor,/website:TestUiHtmlEditorWithExternal,"
    "/website:TestUiTranslate,/website:TestSnippets,/website:TestWebsiteFormEditor,"
    "/website:TestHttpCustomSnippet,/website:TestWebsiteGridLayout,/website:TestWebsiteAttachment,"
    "/website:TestConfigurator,/website:TestConfiguratorTranslation,/website:TestAutomaticEditor,"
    "/website:TestWebsitePageManager,/website:TestUnsplashBeacon,/website:TestClientAction"
)
# Expect the date of UTC and get that of Brussels: in the last hours of a day they fail.
DATED = (
    "/base:TestIrSequenceGenerate.test_ir_sequence_interpolation_dict,"
    "/base:TestIrSequenceGenerate.test_ir_sequence_iso_directives"
)
PDF = "needs wkhtmltopdf"
LXML = "expects what an older lxml makes of it"
SCRIPT = "starts odoo-bin, which Debian's package has not"
FOLDER = "expects temporary files in /tmp"
AGGREGATE = (
    "TestAggregatePdfReports.test_aggregate_report_with_some_resources_reloaded_from_attachment"
)
CORE = {
    AGGREGATE: PDF,
    f"{AGGREGATE}_with_multiple_page_report": PDF,
    "TestReports.test_report_reload_from_attachment": PDF,
    "TestReports.test_report_session_cookie": PDF,
    "TestReports.test_report_error_cleanup": "its view is refused by this version of lxml",
    "TestEveryModel.test_form_new_record": LXML,
    "TestSanitizer.test_basic_sanitizer": LXML,
    "TestXMLTranslation.test_sync_text_to_xml": LXML,
    "TestQWebBasic.test_render_barcode": "needs rlPyCairo for this version of reportlab",
    "TestImportFiles.test_import_contacts_template_xls": "needs base_import",
    "TestCommand.test_help": SCRIPT,
    "TestCommand.test_help_subcommand": SCRIPT,
    "TestCommand.test_shell": SCRIPT,
    "TestCommand.test_unknown_command": SCRIPT,
    "TestCommand.test_upgrade_code_example": SCRIPT,
    "TestCommand.test_upgrade_code_help": SCRIPT,
    "TestConfigManager.test_01_default_config": FOLDER,
    "TestConfigManager.test_03_save_default_options": FOLDER,
}

SUITES = [
    Suite(
        "http",
        "full",
        "/test_http",
        least=170,
        load=ROUND_TRIP,
        expected={"TestSessionRotation.test_session_rotation": FILES},
    ),
    Suite(
        "http_real_store",
        "full",
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
    Suite("bus", "auth", "/bus", least=35),
    Suite(
        "auth",
        "auth",
        "/auth_totp,/auth_totp_mail,/auth_timeout,/auth_passkey",
        least=20,
        racing={
            "PasskeyTestTours.test_passkey_backend": RACE,
            "TestAuthTimeoutHttp.test_auth_timeout_tour": IDLE,
        },
    ),
    Suite(
        "core",
        "lean",
        f"/base,/web,/rpc,/test_orm,{_without(SLOW)},{_without(DATED)}",
        least=1800,
        load=ROUND_TRIP,
        stock=CORE,
    ),
    Suite(
        "website",
        "website",
        f"/website,{_without(TOURS)}",
        least=200,
        load=ROUND_TRIP,
        stock={"TestImportFiles.test_import_task_template_xls": "needs base_import"},
    ),
    Suite(
        "core_slow",
        "lean",
        SLOW,
        least=30,
        load=ROUND_TRIP,
        long=True,
        stock={
            "TestUserSwitch.test_user_switch": "looks for an icon that is not shown",
            "WebSuite.test_unit_desktop": "17 of its 5,943 tests measure text, in other fonts",
        },
    ),
    Suite("tours", "website", TOURS, least=100, load=ROUND_TRIP, long=True),
]


_FAILED = re.compile(r" (?:FAIL|ERROR): (?:Subtest )?(?:setUpClass \([\w.]*\.)?(\w+(?:\.\w+)?)")
_RACES = 2  # that a racing test may lose


def run_suites(postgres: PostgreSQL, redis: Redis, words: list[str]) -> bool:
    """Run all suites but the long, or all that `words` name; whether all is as expected."""
    stock = "--stock" in words
    words = [word for word in words if word != "--stock"]
    unknown = set(words) - {suite.name for suite in SUITES}
    if unknown:
        print(f"there is no suite {', '.join(unknown)}")
    passed = not unknown
    for suite in SUITES:
        if suite.name in words or not (words or suite.long):
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
    log.with_suffix(".json").unlink(missing_ok=True)
    load = [
        "base",
        "rpc",
        "web",
        *([] if stock else [environment.ADDON]),
        *([] if not suite.load or (stock and suite.load == ROUND_TRIP) else [suite.load]),
    ]
    start = time.monotonic()
    options = {"server_wide_modules": ",".join(load), "http_port": free_port()}

    def run(tags: str, log: Path) -> tuple[str, set[str]]:
        """What was logged, and the tests that failed."""
        _odoo(postgres, data, database, log, ["--test-tags", tags], options, redis)
        text = log.read_text(errors="replace")
        return text, set(_FAILED.findall(text))

    text, failed = run(suite.tags, log)
    for number in range(_RACES):
        lost = sorted(failed & set(suite.racing))
        if not lost:
            break
        print(f"    again, because it is in a race: {', '.join(lost)}", flush=True)
        again = log.with_stem(f"{log.stem}-again-{number + 1}")
        said, lost_again = run(",".join(f":{name}" for name in lost), again)
        if f" of {len(lost)} tests" in said:
            failed = failed - set(lost) | lost_again
    shutil.rmtree(store)
    count = sum(int(number) for number in re.findall(r"error\(s\) of (\d+) tests", text))
    known = suite.stock if stock else suite.stock | suite.expected
    problems = [f"failed: {name}" for name in sorted(failed - set(known))]
    problems += [
        f"passed, though listed as failing: {name}" for name in sorted(set(known) - failed)
    ]
    if suite.load == ROUND_TRIP and not stock:
        problems += _round_trips(log)
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
    for name in sorted(failed - set(known)):
        print(_said_of(name, text), flush=True)
    return not problems


def _said_of(name: str, text: str) -> str:
    """The end of what was logged of the failure of a test, for who has not the file."""
    found = re.search(
        rf" (?:FAIL|ERROR): .*{re.escape(name)}.*\n((?:(?!\d{{4}}-\d\d-).*\n)*)", text
    )
    lines = found[1].rstrip().splitlines() if found else []
    return "\n".join(f"        {line[:200]}" for line in lines[-20:])


def _round_trips(log: Path) -> list[str]:
    """What is wrong with the values that came back."""
    try:
        methods = json.loads(log.with_suffix(".json").read_text())
    except OSError as error:
        return [f"no report of cached values: {error}"]
    problems = [
        f"comes back different: {name}: {difference}"
        for name, figures in methods.items()
        for difference in figures.get("unequal", ())
    ]
    if sum(figures.get("values", 0) for figures in methods.values()) < 1000:
        problems.append("hardly any cached value was encoded")
    return problems


def _template(suite: Suite, postgres: PostgreSQL, data: Path) -> str:
    """The database to copy, with demo data and attachments in files, as those tests want it."""
    modules = hashlib.sha256(" ".join(DATABASES[suite.database]).encode()).hexdigest()[:8]
    name = f"suites_{suite.database}_{modules}"
    if not postgres.sql("postgres", f"SELECT 1 FROM pg_database WHERE datname = '{name}'"):
        building = f"{name}_building"
        postgres.dropdb(building)
        log = data.parent / f"{name}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        install = [*DATABASES[suite.database], "--with-demo"]
        print(f"install {install[1]} with demo data ...", flush=True)
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
        # Read-only cursors, as with a replica: else they look for PostgreSQL at its usual address.
        "db_replica_host": postgres.host,
        "db_replica_port": postgres.port,
        "db_replica_user": postgres.user,
        "db_name": database,
        "http_interface": "127.0.0.1",
        "screenshots": data.parent / "screenshots",
    }
    write_conf(conf, {**common, **(options or {})}, {"url": redis.url} if redis else None)
    command = [*environment.odoo_command(), "-c", str(conf), "--stop-after-init", *arguments]
    path = f"{environment.browser().parent}:{os.environ.get('PATH', os.defpath)}"
    # The browser is killed and leaves its temporary files behind.
    with log.open("wb") as out, tempfile.TemporaryDirectory() as temporary:
        env = odoo_environment(
            {
                "PATH": path,
                "TMPDIR": temporary,
                "ORMCACHE_ROUND_TRIP": str(log.with_suffix(".json")),
            }
        )
        done = subprocess.run(
            command, stdout=out, stderr=out, env=env, cwd=data.parent, check=False
        )
    return done.returncode
