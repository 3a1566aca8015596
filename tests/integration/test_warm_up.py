"""The question that a process asks itself before it serves: nobody waits for it longer than that.

Each test that measures runs a stock Odoo beside, with the same addon.
"""

import contextlib
import re
import signal
import time

import psycopg2
import pytest
import requests

from odoo.addons.redis_session_ormcache.http_patch.warm_up import PATIENCE
from stack.provision import environment
from stack.servers import LOAD, until

STOCK = "base,rpc,web,login_page_probe"
SLACK = 3.0  # seconds by which two starts differ on a busy machine
LONGEST = 15.0  # seconds; the page hangs for 20
WORKERS = [0, 2]


@pytest.fixture(scope="module")
def probe(make_node, redis):
    """Make a node with the probe, with or without the addon; it is not started."""

    def make(page, workers, *, stock=False, **options):
        config = {"addons_path": f"{environment.addons_path()},{environment.CHECKOUT}/dev/addons"}
        load = STOCK if stock else f"{LOAD},login_page_probe"
        return make_node(
            redis, workers=workers, load=load, config=config, env={"LOGIN_PAGE": page},
            start=False, **options,
        )  # fmt: skip

    return make


def get(node, path):
    with requests.Session() as session:
        session.trust_env = False
        return session.get(node.url + path, timeout=LONGEST, allow_redirects=False)


def seconds_to_serve(node):
    """From its start until the database of a node is asked, and answers."""
    begin = time.monotonic()
    node.launch()
    while time.monotonic() < begin + 2 * LONGEST:
        with contextlib.suppress(requests.ConnectionError, requests.Timeout):
            if get(node, "/web/health").ok:
                break
        time.sleep(0.02)
    return time.monotonic() - begin


def log(node, text):
    return len(re.findall(text, node.log.read_text()))


@pytest.mark.parametrize("workers", WORKERS)
@pytest.mark.parametrize("page", ["call", "hang"])
def test_a_login_page_that_calls_the_server_or_hangs_delays_no_start(probe, page, workers):
    """It may take its time; stock Odoo does not ask for it."""
    stock, node = probe(page, workers, stock=True), probe(page, workers)
    allowed = seconds_to_serve(stock) + PATIENCE + SLACK
    stock.stop()
    assert seconds_to_serve(node) < allowed
    until(lambda: log(node, "The login page begins") == (workers or 1), "the question", 5)
    if page == "call":
        until(lambda: log(node, "The login page goes on") == (workers or 1), "answers", 5)
    node.stop()
    assert not log(node, "Traceback")


@pytest.mark.parametrize("workers", WORKERS)
def test_the_first_visitor_waits_for_nothing_that_was_asked_for(probe, workers):
    """The routing map is there when a process serves: a visitor's request makes none.

    A threaded server serves while it asks itself: a visitor who comes meanwhile (here `start`,
    which asks for its health) makes a map of their own, as the first visitor of a stock one does.
    """
    node = probe("", workers).start()
    until(lambda: log(node, "The login page goes on") == (workers or 1), "the answer", 5)
    made = log(node, "Generating routing map")
    assert made == workers if workers else made in (1, 2)
    for _ in range(10):
        assert get(node, "/web/login").ok
    assert log(node, "Generating routing map") == made
    node.stop()


@pytest.mark.parametrize("workers", WORKERS)
@pytest.mark.parametrize("page", ["exit", "interrupt"])
def test_a_login_page_that_ends_its_thread_ends_nothing_else(probe, page, workers):
    """It is told, and the server serves."""
    node = probe(page, workers).start()
    until(lambda: log(node, "has not answered before it serves") == (workers or 1), "it", 5)
    assert get(node, "/web/health").ok
    node.stop()
    assert not log(node, "Exception occurred, exiting")


@pytest.mark.parametrize("workers", WORKERS)
def test_a_signal_ends_a_server_that_waits_for_its_answer(probe, workers):
    """As soon as a stock one, and in good order."""
    seconds, codes = [], []
    for stock in (True, False):
        node = probe("hang", workers, stock=stock)
        if stock:
            seconds_to_serve(node)
        else:
            node.launch()
            until(lambda node=node: log(node, "The login page begins"), "the question")
        begin = time.monotonic()
        node._process.send_signal(signal.SIGTERM)
        codes.append(node._process.wait(LONGEST))
        seconds.append(time.monotonic() - begin)
        node.stop()
        assert not log(node, "Traceback"), node.tail()
    assert codes == [0, 0]
    assert seconds[1] < seconds[0] + SLACK


@pytest.mark.parametrize("workers", WORKERS)
def test_a_database_that_is_upgraded_delays_no_start(probe, postgres, lone_database, workers):
    """An upgrade locks tables that the page reads, and the server's start does not."""
    options = {"workers": workers, "database": lone_database}
    where = {"host": postgres.host, "port": postgres.port, "user": postgres.user}
    stock, node = probe("", stock=True, **options), probe("", **options)
    with contextlib.closing(psycopg2.connect(dbname=lone_database, **where)) as upgrade:
        upgrade.cursor().execute("LOCK TABLE ir_ui_view IN ACCESS EXCLUSIVE MODE")
        allowed = seconds_to_serve(stock) + PATIENCE + SLACK
        stock.stop()
        assert seconds_to_serve(node) < allowed
        upgrade.rollback()
    assert get(node, "/web/login").ok
    node.stop()
