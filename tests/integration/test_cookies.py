"""Which cookie a browser has after what two tabs did; beside a stock Odoo where that holds.

In Chromium, behind a proxy that has answers come late; and which responses send a cookie at all.
"""

import time
import uuid
from concurrent.futures import ThreadPoolExecutor

import pytest
from odoo.http import STORED_SESSION_BYTES

from odoo.addons.redis_session_ormcache.tests.conftest import SET_TIMEOUT
from odoo.addons.redis_session_ormcache.tests.support.browser import Browser
from odoo.addons.redis_session_ormcache.tests.support.late import LateProxy
from stack.provision import environment
from stack.servers import LOAD, Chromium, init_database, until

PROBE = "request_probe"
STOCK = f"base,rpc,web,{PROBE}"
GRACE = 1.0  # seconds that a superseded sid is good for
TIMEOUT = 12  # seconds; activity is noted after a 60th of it
YEAR = 365 * 24 * 60 * 60


@pytest.fixture(scope="module")
def redis(module_redis):
    return module_redis


@pytest.fixture(scope="module")
def database(postgres):
    """With the website, and a short timeout."""
    name = f"test_{uuid.uuid4().hex[:8]}"
    init_database(postgres, name, ["website"])
    postgres.sql(name, SET_TIMEOUT.format(TIMEOUT))
    yield name
    postgres.dropdb(name)


@pytest.fixture(scope="module")
def nodes(make_node, redis, database):
    """Ours, and a stock one."""
    config = {"addons_path": f"{environment.addons_path()},{environment.CHECKOUT}/dev/addons"}
    options = {"config": config, "env": {"DELETION_TIMER": str(GRACE)}, "database": database}
    made = {
        name: make_node(redis, load=load, start=False, **options).launch()
        for name, load in (("ours", f"{LOAD},{PROBE}"), ("stock", STOCK))
    }
    return {name: node.wait() for name, node in made.items()}


@pytest.fixture(scope="module")
def chromium(tmp_path_factory):
    with Chromium(tmp_path_factory.mktemp("chromium")) as browser:
        yield browser


@pytest.fixture(params=["ours", "stock"])
def node(request, nodes):
    return nodes[request.param]


@pytest.fixture
def tabs(chromium, node, database):
    """Two tabs of a browser in which the administrator has logged in, and the proxy."""
    with LateProxy(node) as proxy:
        profile, page = chromium.profile(), f"{proxy.url}/web/health"
        one, other = chromium.tab(page, profile), chromium.tab(page, profile)
        assert one.login(database) == 2
        assert one.get("/request/work")[0] == 200  # which saves the device
        yield one, other, proxy


# -- answers that are late -------------------------------------------------------------------------


@pytest.mark.parametrize("node", ["ours"], indirect=True)
def test_a_late_answer_of_a_request_that_saved_leaves_the_new_sid(tabs, database):
    """Another tab has logged out and in meanwhile. A stock Odoo sends the old sid again."""
    one, other, proxy = tabs
    held = proxy.hold("/request/work?value=1")
    late = one.begin("/request/work?value=1")
    held.wait()
    other.logout()
    assert other.login(database) == 2
    held.pass_on()
    assert late() == [200, "2 None"]
    assert [one.uid(), other.uid()] == [2, 2]


def test_a_late_answer_of_a_request_that_saved_nothing_leaves_the_new_sid(tabs):
    """Another tab has had the session rotated meanwhile; the request was activity."""
    one, other, proxy = tabs
    time.sleep(TIMEOUT / 60 + 0.1)
    held = proxy.hold("/request/work")
    late = one.begin("/request/work")
    held.wait()
    assert other.get("/request/work?rotate=1")[0] == 200
    held.pass_on()
    assert late() == [200, "2 None"]
    time.sleep(GRACE + 0.2)
    assert [one.uid(), other.uid()] == [2, 2]


@pytest.mark.parametrize("node", ["ours"], indirect=True)
def test_a_rotation_whose_answer_is_lost_logs_nobody_out(tabs):
    """The browser has the old sid still, after the time it is good for. A stock Odoo refuses it."""
    one, _other, proxy = tabs
    held = proxy.hold("/request/work?rotate=1")
    lost = one.begin("/request/work?rotate=1")
    held.wait()
    held.lose()
    assert lost() == [502, ""]
    time.sleep(GRACE + 0.2)
    assert one.uid() == 2


# -- what responses send ---------------------------------------------------------------------------


def test_a_rotation_that_commits_late_sends_no_sid_that_ended(nodes, database, redis):
    """Another tab has logged out and in before the response was sent; it is not sent then."""
    browser, other = Browser(database), Browser(database)
    browser.login(nodes["ours"])
    other.sid = browser.sid
    key = f"odoo:session:{browser.sid[:STORED_SESSION_BYTES]}"
    with ThreadPoolExecutor(1) as pool:
        late = pool.submit(browser.get, nodes["ours"], "/request/work?rotate=1&commit=1.5")
        until(lambda: "issued" in redis.cli("HKEYS", key), "a rotation")
        other.call(nodes["ours"], "/web/session/destroy")
        other.login(nodes["ours"])
        assert not late.done()
        answer = late.result()
    assert (answer.status_code, answer.text) == (200, "2 None")
    assert "Set-Cookie" not in answer.headers
    assert other.uid(nodes["ours"]) == 2


PAGES = (
    *("/", "/contactus", "/robots.txt", "/sitemap.xml", "/web/service-worker.js", "/web/health"),
    *("/web/manifest.webmanifest", "/web/image/1", "/web/image/res.users/2/avatar_128"),
    *("/web/image/website/1/logo", "/web/static/img/favicon.ico", "/nowhere", "/odoo"),
    *("/web/webclient/translations", "/website/translations", "/web/session/logo"),
    *("/request/work", "/request/end/error", "/request/end/redirect", "/web/login"),
)


def test_no_response_sends_a_cookie_where_a_stock_odoo_sends_none(nodes, database):
    """To a user whose activity is noted with it: a cache may keep what it takes for public."""

    def sending(node):
        browser, found = Browser(database), set()
        browser.login(node)
        for page in PAGES:
            time.sleep(TIMEOUT / 60 + 0.05)
            if "session_id" in browser.get(node, page).headers.get("Set-Cookie", ""):
                found.add(page)
        return found

    with ThreadPoolExecutor(2) as pool:
        ours, stock = pool.map(sending, (nodes["ours"], nodes["stock"]))
    assert ours - stock == set()


def test_a_cookie_outlives_its_session(nodes, database):
    """It is not sent again, whatever happens, for as long as the sid is the same."""

    def age(answer):
        cookies = answer.headers["Set-Cookie"].split("session_id=")
        return {int(cookie.partition("Max-Age=")[2].partition(";")[0]) for cookie in cookies[1:]}

    browser, node = Browser(database), nodes["ours"]
    assert age(browser.get(node, "/web/login")) == {YEAR}
    browser.login(node)
    assert "Set-Cookie" not in browser.get(node, "/request/work?value=1").headers
    assert browser.get(node, "/request/work").text == "2 1"
    assert age(browser.get(node, "/request/work?rotate=1")) == {YEAR}
    expired = browser.get(node, "/request/end/expired")
    assert expired.status_code == 303
    assert age(expired) == {YEAR}


@pytest.mark.parametrize("cookie", ["", "malformed"])
def test_a_visitor_without_a_sid_gets_one(nodes, database, cookie):
    """It may not be stored yet, and is that of the page's form."""
    browser = Browser(database)
    if cookie:
        browser.sid = cookie
    answer = browser.get(nodes["ours"], "/request/end/well")
    assert "session_id=" in answer.headers["Set-Cookie"]
