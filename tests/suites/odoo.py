"""Odoo's own test suites, run with this addon loaded: the same tests pass as without it.

What fails on a stock Odoo too is listed with its reason, and nothing else may fail; a listed test
that passes is reported as well. A test that is in a race with itself, which is listed as well, may
lose it twice.

In some of them every value that Odoo caches is replaced by what its encoding decodes to, as if it
came from another process (`dev/addons/ormcache_round_trip`): what it saw is in a file beside the
log, and a value that came back different is a failure. So is one that those who got it edited, of a
method that is shared.
"""

import json
import os
import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from odoo.addons.redis_session_ormcache.tests.support.dose import LONG
from stack.provision import environment
from stack.servers import (
    LOAD,
    PostgreSQL,
    Redis,
    ServerError,
    digest,
    free_port,
    odoo_environment,
    write_conf,
)

STOCK = bool(os.environ.get("SUITES_STOCK"))  # run them without the addon
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
    :param assets: whether its tests want all assets made first, as a browser does
    :param long: whether it is run by `dev/test long` only
    :param long_tags: tests that only `dev/test long` runs
    :param stock: tests that fail on a stock Odoo, and why
    :param expected: tests that fail when sessions are not in files, and why
    :param racing: tests that now and then fail on a stock Odoo too, and why
    """

    name: str
    database: str
    tags: str
    least: int
    load: str = ""
    assets: bool = False
    long: bool = False
    long_tags: str = ""
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
COOKIE = "expects a response to send the cookie again that the browser sent"
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
        assets=True,
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
    Suite(
        "bus",
        "auth",
        "/bus",
        least=35,
        assets=True,
        expected={"TestWebsocketCaryall.test_public_configuration": COOKIE},
    ),
    Suite(
        "auth",
        "auth",
        "/auth_totp,/auth_totp_mail,/auth_timeout,/auth_passkey",
        least=20 if LONG else 9,
        long_tags=(
            "/auth_totp:TestTOTP,/auth_totp:TestTOTPInvite,/auth_totp:TestAPIKeys,"
            "/auth_passkey:PasskeyTestTours,/auth_timeout:TestAuthTimeoutHttp"
        ),
        expected={"PasskeyTest.test_authentication": COOKIE},
        racing={
            "PasskeyTestTours.test_passkey_backend": RACE,
            "TestAuthTimeoutHttp.test_auth_timeout_tour": IDLE,
        },
    ),
    Suite(
        "core",
        "lean",
        f"/base,/web,/rpc,/test_orm,{_without(SLOW)},{_without(DATED)}",
        least=1800 if LONG else 1000,
        long_tags=(
            "/test_orm:TestFields,/web:TestWebSave,/base:TestImage,/web:TestMenusAdminLight,"
            "/web:TestMenusDemoLight,/web:WebSuite,/base:TestHttpCase,/base:TestLanguageInstallPerformance"
        ),
        load=ROUND_TRIP,
        stock=CORE,
    ),
    Suite(
        "website",
        "website",
        f"/website,{_without(TOURS)}",
        least=200 if LONG else 120,
        long_tags=(
            "/website:TestViewSaving,/website:TestWebAssets,/website:TestWebsitePerformance,"
            "/website:Crawler,/website:TestCowViewSaving"
        ),
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
_STARTED = re.compile(r" Starting (\w+\.\w+) \.\.\.")
_RACES = 2  # that a racing test may lose


def run_suite(
    suite: Suite, postgres: PostgreSQL, redis: Redis, folder: Path
) -> tuple[str, list[str]]:
    """Run a suite on a fresh copy of its database; what is to be said of it, and what is wrong.

    :param folder: for logs and files; kept
    """
    data, database = folder / "data", f"suite_{suite.name}"
    template = _template(suite, postgres, data)
    postgres.dropdb(database)
    postgres.createdb(database, template)
    store = data / "filestore" / database
    shutil.rmtree(store, ignore_errors=True)
    shutil.copytree(data / "filestore" / template, store)
    log = folder / f"{suite.name}{'-stock' if STOCK else ''}.log"
    log.with_suffix(".json").unlink(missing_ok=True)
    load = "base,rpc,web" if STOCK else LOAD
    if suite.load and not (STOCK and suite.load == ROUND_TRIP):
        load += f",{suite.load}"
    if not (suite.assets or LONG):
        load += ",tests_without_assets"

    def run(tags: str, log: Path) -> str:
        """What was logged."""
        _odoo(postgres, data, database, log, ["--test-tags", tags], load=load, redis=redis)
        return log.read_text(errors="replace")

    tags = suite.tags
    if suite.long_tags and not LONG:
        tags += f",{_without(suite.long_tags)}"
    text = run(tags, log)
    failed, ran = set(_FAILED.findall(text)), set(_STARTED.findall(text))
    for number in range(_RACES):
        lost = sorted(failed & set(suite.racing))
        if not lost:
            break
        again = log.with_stem(f"{log.stem}-again-{number + 1}")
        said = run(",".join(f":{name}" for name in lost), again)
        if f" of {len(lost)} tests" in said:
            failed = failed - set(lost) | set(_FAILED.findall(said))
    shutil.rmtree(store)
    known = set(suite.stock if STOCK else suite.stock | suite.expected)
    if not LONG:
        known &= ran
    problems = [f"failed: {name}\n{_said_of(name, text)}" for name in sorted(failed - known)]
    problems += [f"passed, though listed as failing: {name}" for name in sorted(known - failed)]
    if suite.load == ROUND_TRIP and not STOCK:
        problems += _round_trips(log)
    if not re.search(r"error\(s\) of \d+ tests", text):
        problems.append("it did not come to its end")
    if len(ran) < suite.least:
        problems.append(f"only {len(ran)} tests were run, {suite.least} expected")
    skipped = re.findall(r" skipped ([\w.]+) ?: (.*)", text)
    problems += [
        f"skipped: {name}: {why}"
        for name, why in skipped
        if re.search("chrome|websocket-client", why, re.IGNORECASE)
    ]
    return f"{len(ran)} tests, {len(failed & known)} known failures, see {log}", problems


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
    problems += [
        f"edited by who gets it, though shared: {name}: {where}"
        for name, figures in methods.items()
        for where in (() if figures.get("local") else figures.get("edited", ()))
    ]
    if sum(figures.get("values", 0) for figures in methods.values()) < 1000:
        problems.append("hardly any cached value was encoded")
    return problems


def _template(suite: Suite, postgres: PostgreSQL, data: Path) -> str:
    """The database to copy, with demo data and attachments in files, as those tests want it."""
    arguments = DATABASES[suite.database]
    name = f"suites_{suite.database}_{digest(str(environment.odoo_path()), *arguments)}"
    files = data / "filestore"

    def build(building: str) -> None:
        log = data.parent / f"{name}.log"
        files.mkdir(parents=True, exist_ok=True)
        if _odoo(postgres, data, building, log, [*arguments, "--with-demo"]):
            raise ServerError(f"the installation failed, see {log}")
        shutil.rmtree(files / name, ignore_errors=True)
        (files / building).rename(files / name)

    return postgres.template(name, build)


def _odoo(
    postgres: PostgreSQL,
    data: Path,
    database: str,
    log: Path,
    arguments: list[str],
    *,
    load: str = "base,rpc,web",
    redis: Redis | None = None,
) -> int:
    """Run Odoo to its end; its exit code."""
    options = {
        "addons_path": f"{environment.addons_path()},{environment.CHECKOUT / 'dev/addons'}",
        "data_dir": data,
        # Read-only cursors, as with a replica: else they look for PostgreSQL at its usual address.
        "db_replica_host": postgres.host,
        "db_replica_port": postgres.port,
        "db_replica_user": postgres.user,
        "db_name": database,
        "http_port": free_port(),
        "screenshots": data.parent / "screenshots",
    }
    section = {"url": redis.url} if redis else None
    conf = log.with_suffix(".conf")
    write_conf(conf, postgres, data, load=load, options=options, redis=section)
    command = [*environment.odoo_command(), "-c", str(conf), "--stop-after-init", *arguments]
    path = f"{environment.browser().parent}:{os.environ.get('PATH', os.defpath)}"
    # The browser is killed and leaves its temporary files behind.
    with log.open("wb") as out, tempfile.TemporaryDirectory() as temporary:
        report = str(log.with_suffix(".json"))
        env = odoo_environment({"PATH": path, "TMPDIR": temporary, "ORMCACHE_ROUND_TRIP": report})
        done = subprocess.run(
            command, stdout=out, stderr=out, env=env, cwd=data.parent, check=False
        )
    return done.returncode
