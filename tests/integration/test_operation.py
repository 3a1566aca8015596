"""What Redis knows of nodes, counters and sessions, by real processes, whatever becomes of them."""

import collections
import os
import re
import signal
import socket
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import redis as driver
import requests

from odoo.addons.redis_session_ormcache.connection import RedisServer
from odoo.addons.redis_session_ormcache.operation import Bookkeeper, Books, Process, Seen, books
from odoo.addons.redis_session_ormcache.operation.books import Figure
from odoo.addons.redis_session_ormcache.tests.support.browser import Browser
from odoo.addons.redis_session_ormcache.tests.support.dose import dose
from stack.provision import environment
from stack.servers import odoo_environment, start_all, stop_all, until, write_conf

HOST = socket.gethostname()
LATE = 15.0  # seconds: an interval, and some
NOBODY = "x" * 42
REQUESTS = dose(150, 5_000)  # of each node


@pytest.fixture
def read(own_redis):
    """The books of one Redis."""
    return Books(RedisServer(own_redis.url, half="sessions", timeout=2.0), "odoo")


def sums(read, name):
    """By database, over all methods."""
    found = collections.Counter()
    for figure, amount in read.counters(HOST).items():
        if figure.name == name:
            found[figure.database] += amount
    return dict(found)


def ask(node, count):
    """So many requests for a page that needs no session, at a time."""

    def get(_number):
        with requests.Session() as http:
            http.trust_env = False
            assert http.get(f"{node.url}/web/health", timeout=30).ok

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(get, range(count)))


def test_nothing_is_lost_where_workers_come_and_go(make_node, own_redis, read, database):
    """Two nodes of two workers, one of which recycles them; the sums are what was sent."""
    nodes = [
        make_node(own_redis, workers=2, start=False, config={"limit_request": limit})
        for limit in (20, 65536)
    ]
    start_all(*nodes)
    until(lambda: len(read.alive()) >= 4, "that four workers say so", LATE)
    browser = Browser(database)
    browser.login(nodes[0])
    logged = [node.log.read_text().count(" HTTP/1.1") for node in nodes]
    before = sums(read, "requests").get("", 0)
    for node in nodes:
        ask(node, REQUESTS)
        for _time in range(10):
            assert browser.uid(node) == 2
    stop_all(*nodes)
    sent = sum(
        node.log.read_text().count(" HTTP/1.1") - earlier
        for node, earlier in zip(nodes, logged, strict=True)
    )
    assert sent >= 2 * REQUESTS + 20
    total = sums(read, "requests")[""]
    # Requests before the first look may be in Redis after it only.
    assert 0 <= total - before - sent <= sum(logged)
    assert sums(read, "sessions_read")[database] >= 20
    # Each has said so; but Odoo ends the evented one at once.
    assert {process.role for process in read.alive()} <= {"websocket"}


def test_a_killed_worker_takes_nothing_away(make_node, own_redis, read, database):
    """What it had counted stays; it is no longer alive after a while."""
    node = make_node(own_redis, workers=2)
    browser = Browser(database)
    browser.login(node)
    until(lambda: sums(read, "sessions_saved").get(database), "the first figures", LATE)
    before = sums(read, "sessions_read").get(database, 0)
    for process in read.alive():
        if process.role == "web":
            os.kill(process.pid, signal.SIGKILL)
    killed = time.time()
    for _time in range(20):
        with_retry(lambda: browser.uid(node))
    until(lambda: sums(read, "sessions_read").get(database, 0) >= before + 20, "what came", LATE)
    assert time.time() - killed < 60


def with_retry(act):
    for _attempt in range(20):
        try:
            return act()
        except (requests.ConnectionError, AssertionError):
            time.sleep(0.2)
    return act()


def test_each_process_says_what_it_is(make_node, own_redis, read, database):
    """Threaded, prefork workers for requests and for jobs, and the evented one."""
    from odoo import release

    nodes = [
        make_node(own_redis, start=False),
        make_node(own_redis, workers=1, start=False, config={"max_cron_threads": 1}),
    ]
    start_all(*nodes)
    Browser(database).login(nodes[0])
    wanted = {"threaded", "web", "cron", "websocket"}
    until(lambda: {process.role for process in read.alive()} == wanted, "all roles", 2 * LATE)
    until(lambda: any(process.fingerprints for process in read.alive()), "the code", LATE)
    for process in read.alive():
        assert (process.host, process.odoo) == (HOST, release.version)
        assert process.addon == "19.0.1.0.0"
        assert process.settings["session"]
        assert 0 < process.started <= process.seen
    [code] = {
        process.fingerprints[database]
        for process in read.alive()
        if database in process.fingerprints
    }
    assert f"processes of fingerprint {code}" in nodes[0].log.read_text()


def test_a_shell_says_so(own_redis, read, tmp_path, postgres, database):
    """While it is open, whatever the servers of its configuration are."""
    conf = write_conf(
        tmp_path / "odoo.conf", postgres, tmp_path, options={"workers": 2},
        redis={"url": own_redis.url},
    )  # fmt: skip
    with subprocess.Popen(
        [*environment.odoo_command(), "shell", "-c", conf, "-d", database, "--no-http"],
        env=odoo_environment({}), stdin=subprocess.PIPE, stderr=subprocess.DEVNULL,
    ) as shell:  # fmt: skip
        until(lambda: [each.role for each in read.alive()] == ["shell"], "the shell", LATE)
        [told] = read.alive()
        assert told.pid == shell.pid
        shell.communicate(b"print(env.user)\n", timeout=60)
    assert not shell.returncode
    assert read.processes() == []


def test_a_request_asks_redis_for_its_session_only(make_node, own_redis, database):
    """Once it is warm it is read and saved: keeping books takes no command on its way."""
    node = make_node(own_redis)
    browser = Browser(database)
    browser.login(node)
    for _time in range(5):
        assert browser.uid(node) == 2
    raw = driver.Redis.from_url(own_redis.url)

    def calls():
        stats = raw.info("commandstats")
        return {name: told["calls"] for name, told in stats.items() if name != "cmdstat_info"}

    time.sleep(books_interval())  # the outbox is empty by then
    until(lambda: flushed(raw), "the end of a flush", LATE)
    before = calls()
    for _time in range(20):
        assert browser.uid(node) == 2
    new = {name: count - before.get(name, 0) for name, count in calls().items()}
    # Of each, a read and a save, which is a script of four commands.
    script = dict.fromkeys(("evalsha", "time", "hset", "pexpire"), 20)
    wanted = {f"cmdstat_{name}": count for name, count in {"hget": 40, **script}.items()}
    assert {name: count for name, count in new.items() if count} == wanted


def flushed(raw):
    """Whether a flush is just over, so that the next one is some seconds away."""
    [text] = raw.hgetall("odoo:nodes").values()
    return time.time() - float(text.split()[0]) < 0.5 and not time.sleep(0.5)


def test_sessions_are_listed_without_what_opens_them(make_node, own_redis, read, database):
    """By identifier and user; no sid, and no content, is in any key of these."""
    node = make_node(own_redis)
    browser = Browser(database)
    browser.login(node)
    Browser(database).get(node, "/web/login")  # nobody: not listed
    until(lambda: read.sessions(database), "the session", LATE)
    [seen] = read.sessions(database)
    sid = browser.sid
    assert seen.identifier == sid[:42]
    assert seen.uid == 2
    assert abs(seen.activity - time.time()) < 60
    assert read.sessions(database, since=time.time() + 60) == []
    raw = driver.Redis.from_url(own_redis.url)
    for key in raw.scan_iter("odoo:*"):
        if not key.startswith((b"odoo:session:", b"odoo:ormcache:")):
            text = repr(raw.zrange(key, 0, -1) if raw.type(key) == b"zset" else raw.hgetall(key))
            assert sid[42:] not in text
            assert raw.ttl(key) > 0, key


def test_a_redis_that_was_away_gets_what_was_counted(make_node, own_redis, read, database):
    """Nothing is lost but history, and the node serves meanwhile."""
    node = make_node(own_redis)
    browser = Browser(database)
    browser.login(node)
    until(lambda: sums(read, "requests").get(""), "the first figures", LATE)
    own_redis.stop()
    ask(node, 40)
    time.sleep(books_interval() + 2)
    own_redis.start()
    until(lambda: sums(read, "requests").get("", 0) >= 40, "what was counted", 2 * LATE)
    assert "Traceback" not in node.log.read_text()


def books_interval():
    from odoo.addons.redis_session_ormcache.operation import bookkeeper

    return bookkeeper.INTERVAL


def test_a_redis_that_refuses_is_left_alone(make_node, own_redis, database):
    """A user without the commands: one line in the log, and all else works."""
    rule = "~odoo:* -@all +hget +hset +hdel +hgetall +hlen +hrandfield +exists +expire +pexpire"
    rule += " +ttl +unlink +time +eval +evalsha +select"
    own_redis.cli("ACL", "SETUSER", "plain", "on", ">secret", *rule.split())
    url = re.sub(r"//[^@/]*@|//", "//plain:secret@", own_redis.url)
    node = make_node(own_redis, settings={"url": url})
    browser = Browser(database)
    assert browser.login(node) == 2
    told = "No books are kept of this process"
    until(lambda: told in node.log.read_text(), "the line", LATE)
    time.sleep(books_interval() + 2)
    assert node.log.read_text().count(told) == 1
    assert browser.uid(node) == 2


def process(**values):
    told = {"host": HOST, "pid": 1, "role": "web", "started": 1.0, "addon": "1", "odoo": "19.0"}
    return Process(**{**told, **values})


def test_every_key_is_bounded(read, monkeypatch):
    """What is there already still counts; what would be too much is not begun."""
    for name in ("MOST_COUNTERS", "MOST_SEEN", "MOST_PROCESSES"):
        monkeypatch.setattr(books, name, 3)
    figures = [Figure("name", "db", f"method {number}") for number in range(9)]
    for _time in range(2):
        read.add(HOST, dict.fromkeys(figures, 1.5))
    assert read.counters(HOST) == dict.fromkeys(figures[:3], 3.0)
    now = read.now()
    read.see("db", [Seen(NOBODY, uid, now - uid) for uid in range(9)])
    assert [seen.uid for seen in read.sessions("db")] == [0, 1, 2]
    for pid in range(9):
        read.register(process(pid=pid, seen=now))
    assert [found.pid for found in read.processes()] == [0, 1, 2]


def test_history_is_by_minute(read):
    """The sums of a database's methods are one."""
    read.add(HOST, {Figure("hits", "db", method): 2 for method in "ab"} | {Figure("hits", "x"): 1})
    minute = int(read.now() // 60)
    assert read.history("db", hours=1) in ({minute: {"hits": 4}}, {minute - 1: {"hits": 4}})
    now = read.now()
    read.now = lambda: now + 3540
    assert read.history("db", hours=1)
    read.now = lambda: now + 3660
    assert read.history("db", hours=1) == {}


def test_what_is_not_ours_is_passed_over(read, own_redis):
    """Fields of another version."""
    raw = driver.Redis.from_url(own_redis.url)
    raw.hset("odoo:nodes", mapping={"a": "not json", "b": '1 {"host": 1}', "c": ""})
    raw.hset(f"odoo:counters:{HOST}", "without bars", "1")
    assert read.processes() == []
    assert read.counters(HOST) == {}


def test_a_fork_begins_at_zero(read):
    """It counts what it does itself, and says that it is there."""
    done = {Figure("done"): 5.0}
    keeper = Bookkeeper(
        read, lambda: process(pid=os.getpid(), seen=read.now()), [lambda: done], dict
    )
    keeper._added = {}  # nothing is in Redis yet
    keeper.start()
    until(lambda: read.counters(HOST), "the first flush", LATE)
    read_end, write_end = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            keeper.start()
            done[Figure("done")] += 2
            keeper.stop()
            os.write(write_end, b"done")
        finally:
            os._exit(0)
    os.waitpid(pid, 0)
    assert os.read(read_end, 4) == b"done"
    assert read.counters(HOST)[Figure("done")] == 7
    keeper.stop()
    assert read.counters(HOST)[Figure("done")] == 7
    assert read.processes() == []


def test_a_listing_is_made_once(read, monkeypatch):
    """By another process, when the one that was about to make it has died."""
    assert read.claim_listing("listed", "a")
    assert not read.claim_listing("listed", "a")
    assert read.listings("listed") == {}
    assert read.claim_listing("listed", "b")
    monkeypatch.setattr(books, "LISTING_LEASE", 0)
    assert read.claim_listing("listed", "a")
    read.put_listing("listed", "a", b"sealed")
    assert not read.claim_listing("listed", "a")
    assert read.listings("listed") == {"a": b"sealed"}


def test_processes_that_ended_without_a_word_are_forgotten(read):
    """By the next one on their host that begins; those of other hosts after a day."""
    now = read.now()
    gone = {"seen": now - books.ALIVE - 5}
    read.register(process(pid=7, **gone))
    read.register(process(pid=8, host="other", **gone))
    read.register(process(pid=9, host="other", seen=now - books.GONE - 5))
    keeper = Bookkeeper(read, lambda: process(pid=1, seen=read.now()), [dict], dict)
    keeper.start()
    until(lambda: {found.pid for found in read.processes()} == {1, 8}, "that", LATE)
    keeper.stop()
