"""The page Settings > Technical > Redis: in Chromium, by its methods, and as others see it."""

import collections
import contextlib
import json
import re
import time
import uuid

import pytest

from odoo.addons.redis_session_ormcache.connection import RedisServer
from odoo.addons.redis_session_ormcache.operation import Books
from odoo.addons.redis_session_ormcache.operation.books import REDIS_CALLS, REDIS_SECONDS, Figure
from odoo.addons.redis_session_ormcache.operation.overview import by_method
from odoo.addons.redis_session_ormcache.tests.conftest import MODULES
from odoo.addons.redis_session_ormcache.tests.support.browser import Browser
from stack.load.websockets import SESSION_EXPIRED, Tabs
from stack.provision import environment
from stack.servers import (
    LOAD,
    Chromium,
    Redis,
    init_database,
    install,
    run_command,
    start_all,
    until,
)

ADDON = environment.ADDON
TOKEN = "a-token-that-nobody-guesses"
LATE = 15.0  # seconds until figures are in Redis
CALL = "/web/dataset/call_kw"
SOON = {"settings": {"metrics_token": TOKEN}}
# login: the groups that make the role
ROLES = {
    "portal": ["base.group_portal"],
    "internal": ["base.group_user"],
    "rights": ["base.group_user", "base.group_erp_manager"],
    "system": ["base.group_user", "base.group_system"],
}
MAKE_ROLES = """
for login, groups in {roles!r}.items():
    groups = [env.ref(name).id for name in groups]
    user = {{"name": login.title(), "login": login, "password": login}}
    env["res.users"].create({{**user, "group_ids": [(6, 0, groups)]}})
for language in ("fr_FR", "de_DE", "zh_CN"):
    env["res.lang"]._activate_lang(language)
env.cr.commit()
"""
# Tables in which an addon that is installed leaves something, with what tells a row from others.
TABLES = {
    "ir_ui_menu": "concat(name, action)",
    "ir_act_client": "concat(name, tag)",
    "ir_act_window": "concat(name, res_model)",
    "ir_ui_view": "concat(name, model, key)",
    "ir_model": "model",
    "ir_model_fields": "concat(model, name)",
    "ir_model_access": "name",
    "ir_rule": "name",
    "ir_model_constraint": "name",
    "ir_config_parameter": "key",
    "ir_asset": "path",
    "ir_cron": "cron_name",
    "ir_model_data": "concat(module, name)",
    "res_groups": "name",
}


@pytest.fixture(scope="module")
def redis(module_redis):
    return module_redis


@pytest.fixture(scope="module")
def office(postgres):
    """A database in which the addon is installed, with a user for each role."""
    name = f"test_office_{uuid.uuid4().hex[:8]}"
    init_database(postgres, name, MODULES)
    install(postgres, name, [ADDON])
    run_command(postgres, name, ["shell"], script=MAKE_ROLES.format(roles=ROLES))
    yield name
    postgres.dropdb(name)


@pytest.fixture(scope="module")
def nodes(make_node, redis, office):
    made = [make_node(redis, database=office, start=False, **SOON) for _ in range(2)]
    start_all(*made)
    return made


@pytest.fixture(scope="module")
def books(redis):
    return Books(RedisServer(redis.url, half="sessions", timeout=2.0), "odoo")


@pytest.fixture(scope="module")
def chromium(tmp_path_factory):
    with Chromium(tmp_path_factory.mktemp("chromium")) as browser:
        yield browser


def logged_in(office, node, login):
    browser = Browser(office)
    assert browser.login(node, login, login)
    return browser


def ask(browser, node, method, *args, model="redis.overview", **kwargs):
    return browser.call(node, CALL, model=model, method=method, args=list(args), kwargs=kwargs)


def overview(browser, node, **kwargs):
    return ask(browser, node, "read_overview", **kwargs)


# -- what it shows ---------------------------------------------------------------------------------


def test_numbers_are_those_of_the_counters(nodes, office, books):
    """Of sessions, users, the cache and its methods, of all nodes, and of this database only."""
    browsers = [logged_in(office, node, "internal") for node in nodes]
    admin = logged_in(office, nodes[0], "system")
    for browser in (*browsers, admin):
        for node in nodes:
            ask(browser, node, "get_views", [[False, "form"]], model="res.users")
    until(lambda: overview(admin, nodes[0])["counters"]["sessions"] >= 3, "all sessions", LATE)
    seen = books.sessions(office)

    def both():
        """The page between two looks at the books that are alike."""
        before = books.history(office), books.figures()
        told = overview(admin, nodes[1])
        return told, before, (books.history(office), books.figures())

    told, before, after = both()
    while before != after:
        told, before, after = both()
    history, figures = before
    sums = collections.Counter()
    for minute in history.values():
        sums.update(minute)
    counters = told["counters"]
    assert counters["sessions"] == len(seen)
    assert counters["users"] == len({session.uid for session in seen}) == 2
    assert counters["seconds_saved"] == pytest.approx(sums["cache_seconds_saved"])
    lookups = sums["cache_hits"] + sums["cache_misses"]
    assert counters["hit_ratio"][0] == pytest.approx(sums["cache_hits"] / lookups)
    assert counters["answers_503"] == 0
    of_office = {figure: n for figure, n in figures.items() if figure.database == office}
    assert [method["name"] for method in told["methods"]] == [
        name for name, _sums in by_method(of_office)[:10]
    ]
    assert told["verdict"]["finding"] == "well"
    assert sum(node["count"] for node in told["nodes"]) == 2
    lines = {line["login"]: line["sessions"] for line in told["users"]["lines"]}
    assert lines == {"internal": 2, "system": 1}
    text = json.dumps(told)
    assert not any(browser.sid[42:] in text for browser in (*browsers, admin))


def test_latency_is_a_mean_of_each_ten_minutes(office, own_redis, make_node):
    """Of all calls, from the first flush of a process."""
    node = make_node(own_redis, database=office)
    books = Books(RedisServer(own_redis.url, half="sessions", timeout=2.0), "odoo")
    admin = logged_in(office, node, "system")
    until(lambda: overview(admin, node)["latency"], "that calls are timed", LATE)
    latest, seconds = overview(admin, node)["latency"][-1]
    assert abs(latest - time.time()) < 20 * 60
    assert 0 < seconds < 1
    now = books.now()
    books.now = lambda: now - 3600
    books.add("web1", {Figure(REDIS_SECONDS): 0.5, Figure(REDIS_CALLS): 250.0})
    begin, mean = overview(admin, node)["latency"][0]
    assert now - 4200 <= begin <= now - 3600
    assert mean == 0.002


def test_another_database_is_none_of_its_business(nodes, office, books, make_node, redis, database):
    """Neither its sessions nor its figures are shown, and its users are not logged out."""
    other = make_node(redis, database=database)
    stranger = Browser(database)
    uid = stranger.login(other)
    until(lambda: books.sessions(database), "that session", LATE)
    admin = logged_in(office, nodes[0], "system")
    told = overview(admin, nodes[0])
    assert uid not in [line["id"] for line in told["users"]["lines"]]
    assert (
        told["verdict"]["finding"] == "well"
    )  # that one's code is another, for it lacks the addon
    assert ask(admin, nodes[0], "log_out", uid) == 0
    assert stranger.uid(other) == uid
    other.stop()


def test_the_page_without_the_server_wide_module(make_node, redis, office):
    """It says so, and nothing else."""
    node = make_node(redis, database=office, load=LOAD.replace(f",{ADDON}", ""))
    admin = logged_in(office, node, "system")
    told = overview(admin, node)
    assert told["verdict"]["level"] == "danger"
    assert "server_wide_modules" in told["verdict"]["text"]
    assert told["counters"] is False
    assert ask(admin, node, "log_out", 2) == 0
    [user] = ask(admin, node, "read", [2], ["redis_session_count"], model="res.users")
    assert user["redis_session_count"] == 0


def test_redis_is_away(make_node, own_redis, office, chromium):
    """The verdict is red, what was known stays, and no traceback is anywhere."""
    node = make_node(own_redis, database=office, settings={"session": False})
    admin = logged_in(office, node, "system")
    until(lambda: overview(admin, node)["verdict"]["finding"] == "well", "all is well", LATE)
    own_redis.stop()
    told = overview(admin, node)
    assert (told["verdict"]["level"], told["verdict"]["finding"]) == ("danger", "away")
    refused = admin.post(node, CALL, model="redis.overview", method="log_out", args=[2], kwargs={})
    assert "error" not in refused.json()  # sessions are in files here: there is nobody to log out
    assert "Traceback" not in node.log.read_text()


def test_the_redis_of_the_cache_is_away(make_node, redis, own_redis, office):
    """The verdict says so, and what the other one knows is shown."""
    node = make_node(redis, database=office, settings={"ormcache_url": own_redis.url})
    admin = logged_in(office, node, "system")
    until(lambda: overview(admin, node)["verdict"]["finding"] == "well", "all is well", LATE)
    own_redis.stop()
    told = overview(admin, node)
    assert (told["verdict"]["level"], told["verdict"]["finding"]) == ("danger", "away")
    assert "cache" in told["verdict"]["text"]
    assert told["counters"]["sessions"] >= 1
    assert "Traceback" not in node.log.read_text()


def test_a_page_that_is_open_when_redis_goes(make_node, tmp_path, office, chromium):
    """It turns red without a dialog, keeps its figures, and is well again when Redis is."""
    with Redis(tmp_path / "redis", config={"appendonly": "yes"}) as server:
        follow(make_node(server, database=office), server, office, chromium)


def follow(node, server, office, chromium):
    tab = chromium.tab(f"{node.url}/web/login", chromium.profile())
    tab.login(office, "system", "system")
    tab.open(f"{node.url}/odoo/redis")
    tab.until("document.querySelector('.o_redis_verdict.alert-success, .alert-info')")
    server.stop()
    tab.until("document.querySelector('.o_redis_verdict.alert-danger')")
    assert "503" in tab.evaluate("document.querySelector('.o_redis_verdict').innerText")
    assert "503" in tab.evaluate("document.querySelector('[aria-live]').textContent")
    assert tab.evaluate("document.querySelectorAll('[data-counter]').length") == 5
    assert not tab.evaluate("document.querySelector('.modal')")
    server.start()
    tab.until("!document.querySelector('.o_redis_verdict.alert-danger')")
    assert "Traceback" not in node.log.read_text()


@pytest.mark.parametrize("language", ["en_US", "fr_FR", "de_DE", "zh_CN"])
def test_nothing_is_cut_on_a_phone(nodes, office, chromium, language):
    """At a width of 390 pixels, in each language."""
    admin = logged_in(office, nodes[0], "system")
    uid = admin.uid(nodes[0])
    ask(admin, nodes[0], "write", [uid], {"lang": language}, model="res.users")
    until(lambda: overview(admin, nodes[0])["nodes"], "a node", LATE)
    tab = chromium.tab(f"{nodes[0].url}/web/login", chromium.profile())
    tab.login(office, "system", "system")
    tab.resize(390, 844)
    tab.open(f"{nodes[0].url}/odoo/redis")
    tab.until("document.querySelector('[aria-labelledby=o_redis_nodes] td')")
    cut = """[...document.querySelectorAll('.o_redis_overview *')].filter(
        element => element.getBoundingClientRect().right > 390.5
    ).map(element => element.outerHTML.slice(0, 80))"""
    assert tab.evaluate(cut) == []
    ask(admin, nodes[0], "write", [uid], {"lang": "en_US"}, model="res.users")


# -- what it does ----------------------------------------------------------------------------------


@pytest.fixture
def tabs_of(nodes, postgres):
    """A websocket of a session on the second node, which hears notifications."""

    @contextlib.contextmanager
    def connect(browser):
        with Tabs(nodes[1], postgres, [browser.sid], 1) as tabs:

            def is_heard():
                tabs.tell("heard")
                time.sleep(0.2)
                return tabs.told["heard"]

            until(is_heard, "that the node listens", LATE)
            yield tabs

    return connect


def test_a_user_is_logged_out_everywhere(nodes, office, chromium, tabs_of):
    """In Chromium, by the keyboard: with a question first; their sessions end on the other node,
    and the websocket there; the session that asks stays."""
    people = [logged_in(office, node, "internal") for node in nodes]
    uid = people[0].uid(nodes[0])
    admin = logged_in(office, nodes[1], "system")
    tab = chromium.tab(f"{nodes[0].url}/web/login", chromium.profile())
    assert tab.login(office, "system", "system")
    shown = f"""Number(document.querySelector('[data-user="{uid}"] td')?.innerText || 0)"""

    def listed():
        lines = overview(admin, nodes[0])["users"]["lines"]
        return sum(line["sessions"] for line in lines if line["id"] == uid)

    until(lambda: listed() >= len(people), "that both are listed", LATE)
    with tabs_of(people[1]) as tabs:
        people.append(logged_in(office, nodes[1], "internal"))
        assert people[2].uid(nodes[0]) == uid  # the books do not have it yet
        tab.open(f"{nodes[0].url}/odoo/redis")
        tab.until(f"{shown} >= 2")
        tab.evaluate(f"""document.querySelector('[data-user="{uid}"] button').focus()""")
        tab.press("Enter", 13, "\r")
        tab.until("document.querySelector('.modal .btn-primary')")
        assert "Internal" in tab.evaluate("document.querySelector('.modal').innerText")
        assert people[1].uid(nodes[1]) == uid
        assert not tabs.closed
        tab.until("document.activeElement.closest('.modal')")
        tab.press("Enter", 13, "\r")
        tab.until(f"{shown} == 0")
        until(lambda: tabs.closed[SESSION_EXPIRED], "that the websocket is closed", 5)
    assert [person.uid(node) for person in people for node in nodes] == [None] * 6
    assert tab.uid()
    log = nodes[0].log.read_text()
    assert re.search(rf"User \d+ \(system\) logged out user {uid} everywhere: \d sessions", log)
    devices = ask(
        admin, nodes[1], "search_count", [["user_id", "=", uid], ["revoked", "=", False]],
        model="res.device.log",
    )  # fmt: skip
    assert devices == 0


def test_the_session_that_asks_stays(nodes, office, books):
    """An administrator who logs out their own user goes on here."""
    admin, elsewhere = (logged_in(office, node, "system") for node in nodes)
    uid = admin.uid(nodes[0])
    until(lambda: elsewhere.sid[:42] in {s.identifier for s in books.sessions(office)}, "it", LATE)
    assert ask(admin, nodes[0], "log_out", uid) >= 1
    assert admin.uid(nodes[1]) == uid
    assert elsewhere.uid(nodes[0]) is None


def test_the_cache_is_purged(nodes, office, postgres):
    """By every process, at its next request; who did it is in the log."""
    count = "SELECT count(*) FROM orm_signaling_default"
    before = int(postgres.sql(office, count))
    admin = logged_in(office, nodes[1], "system")
    ask(admin, nodes[1], "purge")
    assert int(postgres.sql(office, count)) == before + 1
    assert re.search(r"User \d+ \(system\) purged", nodes[1].log.read_text())
    mark = len(nodes[0].log.read_text())
    assert admin.uid(nodes[0])
    assert "Invalidating caches after database signaling" in nodes[0].log.read_text()[mark:]


def test_the_form_of_a_user_leads_to_their_sessions(nodes, office, chromium, books):
    """By a button with their number; the page then lists them alone."""
    person = logged_in(office, nodes[0], "internal")
    uid = person.uid(nodes[0])
    until(lambda: person.sid[:42] in {s.identifier for s in books.sessions(office)}, "it", LATE)
    tab = chromium.tab(f"{nodes[0].url}/web/login", chromium.profile())
    tab.login(office, "system", "system")
    tab.open(f"{nodes[0].url}/odoo/action-base.action_res_users/{uid}")
    button = "document.querySelector('button[name=action_redis_sessions]')"
    tab.until(button)
    number = tab.evaluate(f"Number({button}.querySelector('.o_stat_value').innerText)")
    assert number >= 1
    tab.evaluate(f"{button}.click()")
    lines = "[...document.querySelectorAll('[data-user]')].map(line => Number(line.dataset.user))"
    tab.until("document.querySelector('[data-user]')")
    assert tab.evaluate(lines) == [uid]
    tab.evaluate("document.querySelector('[aria-labelledby=o_redis_users] button').click()")
    tab.until("document.querySelectorAll('[data-user]').length > 1")


# -- who gets what ---------------------------------------------------------------------------------

DOORS = {
    "menu": lambda browser, node: "Redis" in menus(browser, node),
    "read": lambda browser, node: is_answered(browser, node, "read_overview"),
    "log out": lambda browser, node: is_answered(browser, node, "log_out", 999),
    "purge": lambda browser, node: is_answered(browser, node, "purge"),
    "search": lambda browser, node: is_answered(browser, node, "search_read", []),
    "button": lambda browser, node: is_answered(
        browser, node, "action_redis_sessions", [2], model="res.users"
    ),
    "field": lambda browser, node: is_answered(
        browser, node, "read", [2], ["redis_session_count"], model="res.users"
    ),
    "form": lambda browser, node: "redis_session_count" in form(browser, node),
    "metrics": lambda browser, node: browser.get(node, "/redis/metrics").ok,
}
OPEN = {"system": DOORS.keys() - {"search", "metrics"}}  # by login


def is_answered(browser, node, method, *args, model="redis.overview"):
    answer = browser.post(node, CALL, model=model, method=method, args=list(args), kwargs={})
    assert answer.status_code == 200
    error = answer.json().get("error", {}).get("data", {}).get("name")
    wanted = ("odoo.exceptions.AccessError", "odoo.http.SessionExpiredException", None)
    assert error in (*wanted, "werkzeug.exceptions.NotFound"), answer.text
    return error is None


def menus(browser, node):
    answer = browser.get(node, "/web/webclient/load_menus?debug=1")
    if not answer.ok:
        return set()
    return (
        {menu["name"] for menu in answer.json().values()} if "json" in str(answer.headers) else {}
    )


def form(browser, node):
    views = {"views": [[False, "form"]], "context": {"form_view_ref": "base.view_users_form"}}
    answer = browser.post(
        node, CALL, model="res.users", method="get_views", args=[], kwargs=views
    ).json()
    return json.dumps(answer.get("result", {}))


@pytest.mark.parametrize("role", ["public", *ROLES])
def test_nobody_else_gets_anything(nodes, office, role):
    """A table of roles and doors: all doors are shut but the administrator's."""
    browser = Browser(office) if role == "public" else logged_in(office, nodes[0], role)
    if role != "public":  # technical menus are shown in developer mode
        browser.get(nodes[0], "/odoo?debug=1")
    opened = {name for name, door in DOORS.items() if door(browser, nodes[0])}
    assert opened == OPEN.get(role, set())


def test_the_page_is_empty_for_others(nodes, office, chromium):
    """The web client says that access is denied."""
    tab = chromium.tab(f"{nodes[0].url}/web/login", chromium.profile())
    tab.login(office, "internal", "internal")
    tab.open(f"{nodes[0].url}/odoo/redis")
    tab.until("document.querySelector('.modal')")
    assert "administrators of the system only" in tab.evaluate("document.body.innerText")
    assert not tab.evaluate("document.querySelector('.o_redis_overview')")


# -- installing ------------------------------------------------------------------------------------


def contents(postgres, database):
    """The rows of all those tables, as text."""
    found = {}
    for table, text in TABLES.items():
        rows = postgres.sql(database, f"SELECT {text} FROM {table} ORDER BY 1").splitlines()
        found[table] = collections.Counter(rows)
    columns = "SELECT concat(table_name, '.', column_name) FROM information_schema.columns"
    found["columns"] = set(postgres.sql(database, columns).splitlines())
    return found


def test_nothing_is_left_after_an_uninstallation(postgres):
    """Nor is anything doubled by an upgrade."""
    name = f"test_install_{uuid.uuid4().hex[:8]}"
    init_database(postgres, name, MODULES)
    # The changes that the uninstallation of any addon makes are not ours.
    before = contents(postgres, name)
    install(postgres, name, [ADDON])
    installed = contents(postgres, name)
    assert any(
        "redis" in row for row in installed["ir_ui_menu"].keys() | installed["ir_act_client"]
    )
    run_command(postgres, name, ["module", "upgrade", ADDON])
    assert contents(postgres, name) == installed
    run_command(postgres, name, ["module", "uninstall", ADDON])
    left = contents(postgres, name)
    postgres.dropdb(name)
    for table, rows in before.items():
        assert left[table] == rows, table


@pytest.mark.parametrize(
    ("language", "verdict", "button"),
    [
        ("fr_FR", "Tout va bien", "Déconnecter partout"),
        ("de_DE", "Alles in Ordnung", "Überall abmelden"),
        ("zh_CN", "一切正常", "在所有设备上注销"),
    ],
)
def test_the_page_is_translated(nodes, office, language, verdict, button):
    """The words of the server, and the acts of the browser."""
    admin = logged_in(office, nodes[0], "system")
    until(lambda: overview(admin, nodes[0])["verdict"]["finding"] == "well", "all is well", LATE)
    told = overview(admin, nodes[0], context={"lang": language})
    assert verdict in told["verdict"]["text"]
    terms = admin.get(nodes[0], f"/web/webclient/translations?lang={language}").json()
    messages = {each["id"]: each["string"] for each in terms["modules"][ADDON]["messages"]}
    assert messages["Log out everywhere"] == button
