"""``dbfilter`` by subdomain: each request does what it does on a stock Odoo, with any cookie."""

import random

import pytest

from odoo.addons.redis_session_ormcache.tests.conftest import NODE_SECRET
from odoo.addons.redis_session_ormcache.tests.support.browser import Browser
from odoo.addons.redis_session_ormcache.tests.support.dose import dose
from odoo.addons.redis_session_ormcache.tests.support.visitor import (
    STOCK,
    Visitor,
    compare,
    files_of,
)

PAGES = ("/", "/web", "/web/login", "/odoo", "/web/health", "/web/static/img/favicon.ico")
CALLS = ("/web/session/get_session_info", "/web/session/check", "/web/session/destroy")


@pytest.fixture(scope="module")
def databases(make_database):
    """Those of two host names."""
    return {"one": make_database(), "two": make_database()}


@pytest.fixture(scope="module")
def hosts(databases):
    """By name; there is no database of the third one's."""
    names = {**databases, "none": "nobodys"}
    return {place: f"{name}.example.com" for place, name in names.items()}


@pytest.fixture(scope="module")
def by_subdomain(make_node, redis, databases):
    """Start a node that serves each database under a host name of its own."""

    def make(**options):
        filtered = {"db_name": "", "dbfilter": "^%d$"}
        settings = {"secret": NODE_SECRET}
        return make_node(
            redis, database=databases["one"], config=filtered, settings=settings, **options
        )

    return make


@pytest.fixture(scope="module")
def ours(by_subdomain):
    return by_subdomain(), by_subdomain()


@pytest.fixture(scope="module")
def stock(by_subdomain):
    return (by_subdomain(load=STOCK),)


@pytest.fixture
def visitors(ours, stock, make_store, redis):
    """One of a stock node, one of ours."""
    files, store = files_of(stock[0]), make_store(redis, prefix="odoo")
    return Visitor(stock, files), Visitor(ours, store)


def test_each_host_has_its_database(visitors, hosts):
    """A visitor of each host, and of one without a database, is served alike."""

    def act(visitor):
        for host in hosts.values():
            visitor.cookies.clear()
            for path in PAGES:
                visitor.ask(path, host=host)
            for path in CALLS:
                visitor.ask(path, call={}, host=host)

    compare(act, *visitors)


@pytest.mark.parametrize("place", ["two", "none"])
def test_a_cookie_of_one_host_at_another(visitors, databases, hosts, seed, place):
    """It logs nobody in there; what becomes of its session where it belongs is as in stock."""

    def ask_at_another(visitor, path, call):
        visitor.cookies.clear()
        visitor.authenticate(databases["one"], host=hosts["one"])
        assert visitor.info(host=hosts["one"]) == (2, databases["one"])
        before = visitor.sid
        visitor.ask(path, call=call, host=hosts[place])
        assert visitor.info(host=hosts[place]) is None
        visitor.info(host=hosts["one"])
        visitor.cookies["session_id"] = before  # a browser keeps one for each host
        visitor.info(host=hosts["one"])

    asked = [(path, None) for path in (*PAGES, "/web/session/logout", "/nothing")]
    asked += [(path, {}) for path in CALLS]
    asked = random.Random(seed).sample(asked, dose(4, len(asked)))

    def act(visitor):
        for path, call in asked:
            ask_at_another(visitor, path, call)

    compare(act, *visitors)


def test_a_login_at_another_host(visitors, databases, hosts):
    """With the cookie of the first one, by a form and a call; and to another host's database."""

    def act(visitor):
        visitor.authenticate(databases["one"], host=hosts["one"])
        visitor.authenticate(databases["two"], host=hosts["two"])
        for place in ("two", "one", "none"):
            visitor.info(host=hosts[place])
        visitor.authenticate(databases["one"], host=hosts["one"])
        form = {"login": "admin", "password": "admin"}
        visitor.ask("/web/login", form=form, host=hosts["two"])
        visitor.info(host=hosts["two"])
        visitor.authenticate(databases["one"], host=hosts["two"])
        visitor.info(host=hosts["two"])
        visitor.authenticate(databases["two"], password="wrong", host=hosts["two"])
        visitor.info(host=hosts["two"])

    compare(act, *visitors)


def test_the_database_in_a_header(visitors, databases, hosts):
    """It is the host's, or it is refused; and nothing is saved for a caller without a session."""

    def act(visitor):
        headers = {"X-Odoo-Database": databases["one"]}
        for host in hosts.values():
            visitor.cookies.clear()
            visitor.ask("/web/login", host=host, headers=headers)
            visitor.ask("/web/session/check", call={}, host=host, headers=headers)
            visitor.authenticate(databases["two"], host=hosts["two"])
            visitor.ask("/web/session/check", call={}, host=host, headers=headers)
            visitor.info(host=hosts["two"])

    compare(act, *visitors)


def test_two_hosts_in_one_browser(ours, databases, hosts):
    """A user who is logged in under both, each with its own cookie, stays so on all nodes."""
    browsers = []
    for place, database in databases.items():
        browsers.append(Browser(database))
        browsers[-1].http.headers["Host"] = hosts[place]
        browsers[-1].login(ours[0])
    for node in ours * 2:
        assert [browser.uid(node) for browser in browsers] == [2, 2]
