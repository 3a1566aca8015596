"""Two nodes, one Redis: what users and administrators see."""

import base64
import contextlib
import hmac
import re
import struct
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg2
import pytest
from odoo.http import SESSION_ROTATION_INTERVAL, STORED_SESSION_BYTES

from odoo.addons.redis_session_ormcache.tests.conftest import SET_TIMEOUT
from odoo.addons.redis_session_ormcache.tests.support.browser import (
    SUBSCRIBE,
    Browser,
    close_code,
    is_served,
)
from odoo.addons.redis_session_ormcache.tests.support.dose import dose


@pytest.fixture(scope="module")
def redis(module_redis):
    return module_redis


@pytest.fixture(scope="module")
def nodes(make_node, redis):
    return make_node(redis), make_node(redis)


@pytest.fixture
def browser(database):
    return Browser(database)


@pytest.fixture
def node_store(make_store, redis):
    """The nodes' own store, from outside."""
    return make_store(redis, prefix="odoo")


@pytest.fixture
def key(redis, raw):
    return lambda browser: f"odoo:session:{browser.sid[:STORED_SESSION_BYTES]}"


def test_a_login_holds_on_every_node(nodes, browser):
    """Who logged in on one node is the same user on the other."""
    uid = browser.login(nodes[0])
    assert uid
    assert [browser.uid(node) for node in nodes * 2] == [uid] * 4


def test_a_logout_holds_on_every_node(nodes, browser):
    """The cookie of a session that ended is worth nothing anywhere."""
    browser.login(nodes[0])
    sid = browser.sid
    browser.call(nodes[1], "/web/session/destroy")
    browser.sid = sid
    assert [browser.uid(node) for node in nodes] == [None, None]


def test_a_revoked_device_is_out_everywhere(nodes, database):
    """Revoking a device on one node ends its session on the other, and its websocket."""
    owner, device = Browser(database), Browser(database)
    uid = owner.login(nodes[0])
    device.login(nodes[1])
    device.call(nodes[1], "/web/session/check")  # writes the device log
    connection = device.websocket(nodes[1])
    identifier = device.sid[:STORED_SESSION_BYTES]
    devices = owner.call(
        nodes[0],
        "/web/dataset/call_kw",
        model="res.device",
        method="search",
        args=[[["session_identifier", "=", identifier], ["user_id", "=", uid]]],
        kwargs={},
    )
    assert devices
    answer = owner.call(
        nodes[0],
        "/web/dataset/call_button",
        model="res.device",
        method="revoke",
        args=[devices],
        kwargs={},
    )
    if answer and answer.get("res_model") == "res.users.identitycheck":
        owner.call(
            nodes[0],
            "/web/dataset/call_kw",
            model="res.users.identitycheck",
            method="write",
            args=[[answer["res_id"]], {"password": "admin"}],
            kwargs={},
        )
        owner.call(
            nodes[0],
            "/web/dataset/call_button",
            model="res.users.identitycheck",
            method="run_check",
            args=[[answer["res_id"]]],
            kwargs={"context": {"password": "admin"}},
        )
    assert [device.uid(node) for node in nodes] == [None, None]
    assert owner.uid(nodes[1]) == uid
    connection.send(SUBSCRIBE)
    assert close_code(connection) == 4001  # CloseCode.SESSION_EXPIRED


def test_a_logout_closes_the_websocket(nodes, browser):
    """At its next message, the websocket on another node learns that the session ended."""
    browser.login(nodes[0])
    connection = browser.websocket(nodes[1])
    browser.call(nodes[0], "/web/session/destroy")
    connection.send(SUBSCRIBE)
    assert close_code(connection) == 4001


def test_requests_at_once_get_one_new_cookie(nodes, browser, node_store, raw, key):
    """When a session is due for rotation, concurrent requests on both nodes adopt one new sid."""
    uid = browser.login(nodes[0])
    old = browser.sid
    session = node_store.get(old)
    session["create_time"] -= SESSION_ROTATION_INTERVAL
    node_store.save(session)

    def request(number):
        one = Browser(browser.database)
        one.sid = old
        assert one.uid(nodes[number % 2]) == uid
        return one.sid

    with ThreadPoolExecutor(8) as pool:
        sids = set(pool.map(request, range(24)))
    sids.discard(old)  # a request that began before the rotation and ended before it
    assert len(sids) == 1
    browser.sid = sids.pop()
    assert [browser.uid(node) for node in nodes] == [uid, uid]
    assert raw.hlen(key(browser)) == 2


def test_a_session_revoked_meanwhile_gives_no_cookie(
    nodes, browser, node_store, postgres, database
):
    """A slow request whose session ended under it does not answer with the dead sid, which would
    overwrite the cookie that another request got since."""
    browser.login(nodes[0])
    browser.uid(nodes[0])
    blocked = "SELECT count(*) FROM pg_locks WHERE NOT granted"
    with (
        ThreadPoolExecutor(1) as pool,
        contextlib.closing(
            psycopg2.connect(
                dbname=database, host=postgres.host, port=postgres.port, user=postgres.user
            )
        ) as connection,
    ):
        connection.cursor().execute("LOCK TABLE res_partner IN ACCESS EXCLUSIVE MODE")
        slow = pool.submit(browser.post, nodes[0], "/web/session/get_session_info")
        while postgres.sql(database, blocked) == "0":
            assert not slow.done()
            time.sleep(0.05)
        node_store.delete_from_identifiers([browser.sid[:STORED_SESSION_BYTES]])
        connection.rollback()
        response = slow.result()
    assert response.status_code == 200
    assert response.json()["result"]["uid"]
    assert "Set-Cookie" not in response.headers


def test_the_cookie_outlives_a_node(make_node, redis, browser):
    """A node that is killed and one that is started later serve the same session."""
    first = make_node(redis)
    uid = browser.login(first)
    first.kill()
    assert browser.uid(make_node(redis)) == uid


# -- timeouts --------------------------------------------------------------------------------------


def test_inactivity_is_a_sliding_timeout(make_node, make_database, redis, postgres):
    """With a timeout of 4 s an active user stays, an idle one is out after 4 s; another
    database keeps its own."""
    short, long = make_database(), make_database()
    postgres.sql(short, SET_TIMEOUT.format(4))
    node = make_node(redis, database=short, config={"db_name": f"{short},{long}", "dbfilter": ""})
    active, idle, elsewhere = Browser(short), Browser(short), Browser(long)
    for browser in (elsewhere, idle, active):  # to load a database takes its time
        assert browser.login(node)
    start = time.monotonic()
    sid = active.sid
    while time.monotonic() - start < dose(8, 20):
        time.sleep(2.5)
        assert active.is_logged_in(node)
    assert active.sid == sid
    assert not idle.is_logged_in(node)
    assert elsewhere.is_logged_in(node)
    time.sleep(3)
    assert active.is_logged_in(node)
    time.sleep(4.2)
    assert not active.is_logged_in(node)
    assert elsewhere.is_logged_in(node)


def test_anonymous_sessions_have_their_own_timeout(make_node, redis, browser, raw, key):
    """The session of a visitor expires sooner than a user's, if the settings say so."""
    node = make_node(redis, settings={"session_anonymous_ttl": 100})
    assert browser.get(node, "/web/login?debug=1").status_code == 200
    assert 0 < raw.ttl(key(browser)) <= 100
    browser.login(node)
    assert raw.ttl(key(browser)) > 1000


# -- secrets ---------------------------------------------------------------------------------------


def totp_code(secret):
    """RFC 6238, as an authenticator app computes it."""
    digest = hmac.new(base64.b32decode(secret), struct.pack(">Q", int(time.time()) // 30), "sha1")
    digest = digest.digest()
    (number,) = struct.unpack(">I", digest[(start := digest[-1] & 0xF) : start + 4])
    return f"{(number & 0x7FFFFFFF) % 10**6:06}"


def csrf_token(page):
    return re.search(r'name="csrf_token" value="(\w+)"', page.text)[1]


def test_what_redis_holds_opens_no_door(
    nodes, database, postgres, raw, make_store, redis, node_store
):
    """After logins with password, second factor and API, a dump of Redis has no secret."""
    secret, password = "JBSWY3DPEHPK3PXPJBSWY3DPEHPK3PXP", "c0rrect-h0rse-battery"
    with (
        psycopg2.connect(
            dbname=database, host=postgres.host, port=postgres.port, user=postgres.user
        ) as connection,
        connection.cursor() as cr,
    ):
        cr.execute(
            """INSERT INTO res_partner (name, active) VALUES ('Secret Sam', true) RETURNING id"""
        )
        partner = cr.fetchone()[0]
        cr.execute(
            """INSERT INTO res_users (login, password, partner_id, company_id, active, totp_secret,
                                      notification_type)
               SELECT 'sam@login.example', %s, %s, company_id, true, %s, notification_type
               FROM res_users WHERE login = 'admin' RETURNING id"""
            if has_column(cr, "res_users", "notification_type")
            else """INSERT INTO res_users (login, password, partner_id, company_id, active,
                                           totp_secret)
               SELECT 'sam@login.example', %s, %s, company_id, true, %s
               FROM res_users WHERE login = 'admin' RETURNING id""",
            (password, partner, secret),
        )
        uid = cr.fetchone()[0]
        cr.execute(
            "INSERT INTO res_company_users_rel (cid, user_id) SELECT company_id, id"
            " FROM res_users WHERE id = %s", (uid,),
        )  # fmt: skip
        cr.execute(
            "INSERT INTO res_groups_users_rel (gid, uid) SELECT res_id, %s FROM ir_model_data"
            " WHERE module = 'base' AND name = 'group_user'", (uid,),
        )  # fmt: skip
    sam, seen = Browser(database), set()
    page = sam.get(nodes[0], "/web/login")
    seen |= {sam.sid, csrf_token(page)}
    form = {"login": "sam@login.example", "password": password, "csrf_token": csrf_token(page)}
    answer = sam.http.post(nodes[1].url + "/web/login", data=form, allow_redirects=False)
    assert "/web/login/totp" in answer.headers["Location"]
    page = sam.get(nodes[0], "/web/login/totp")
    seen |= {sam.sid, csrf_token(page)}
    form = {"totp_token": totp_code(secret), "csrf_token": csrf_token(page)}
    answer = sam.http.post(nodes[1].url + "/web/login/totp", data=form, allow_redirects=False)
    assert answer.status_code == 303
    seen.add(sam.sid)
    assert sam.uid(nodes[0]) == uid
    admin = Browser(database)
    admin.login(nodes[1])
    seen.add(admin.sid)
    for browser in (sam, admin):
        session = node_store.get(browser.sid)
        assert session.uid
        seen.add(session.session_token)
        session["create_time"] -= SESSION_ROTATION_INTERVAL
        node_store.save(session)
        browser.uid(nodes[1])
        seen.add(browser.sid)
        seen.add(node_store.get(browser.sid).session_token)
    rpc = {
        "service": "object",
        "method": "execute_kw",
        "args": [database, 2, "admin", "res.users", "search", [[]]],
    }
    assert admin.call(nodes[0], "/jsonrpc", **rpc)

    dump = b""
    for name in raw.scan_iter():
        assert raw.ttl(name) > 0
        is_index = name.startswith(b"odoo:seen:")
        assert raw.type(name) == (b"zset" if is_index else b"hash")
        found = raw.zrange(name, 0, -1) if is_index else sum(raw.hgetall(name).items(), ())
        dump += name + b"".join(found)
    secrets = {part for sid in seen if len(sid) == 84 for part in (sid, sid[STORED_SESSION_BYTES:])}
    secrets |= seen | {password, secret, "sam@login.example", "battery"}
    assert len(secrets) > 12
    for one in secrets:
        assert one.encode() not in dump


def has_column(cr, table, column):
    cr.execute(
        "SELECT 1 FROM information_schema.columns WHERE table_name = %s AND column_name = %s",
        (table, column),
    )
    return bool(cr.fetchone())


# -- processes -------------------------------------------------------------------------------------


def redis_sockets(pid, port):
    """The inodes of a process's sockets that are connected to a port."""
    rows = [line.split() for line in Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]]
    connected = {row[9] for row in rows if int(row[2].rpartition(":")[2], 16) == port}
    links = [str(link.readlink()) for link in Path(f"/proc/{pid}/fd").iterdir()]
    return {link[8:-1] for link in links if link.startswith("socket:[")} & connected


def test_prefork_workers_share_no_socket(make_node, redis, browser):
    """Each forked worker has connections of its own; the parent has none."""
    node = make_node(redis, workers=3)
    assert browser.login(node)
    with ThreadPoolExecutor(6) as pool:
        assert all(pool.map(lambda _n: browser.uid(node), range(60)))
    children = Path(f"/proc/{node.pid}/task/{node.pid}/children").read_text().split()
    assert redis_sockets(node.pid, redis.port) == set()
    inodes = [inode for pid in children for inode in redis_sockets(pid, redis.port)]
    assert len(inodes) >= 2
    assert len(inodes) == len(set(inodes))


def test_prefork_serves_websockets(make_node, redis, browser):
    """The evented process that a prefork node starts knows the same sessions."""
    node = make_node(redis, workers=1)
    browser.login(node)
    connection = browser.websocket(node)
    assert is_served(connection)
    browser.call(node, "/web/session/destroy")
    connection.send(SUBSCRIBE)
    assert close_code(connection) == 4001


def test_only_single_key_commands_in_normal_operation(make_node, own_redis, browser):
    """From Redis's own statistics: no SCAN, KEYS, INFO or COMMAND; a script's text once at most."""
    node = make_node(own_redis)
    own_redis.cli("CONFIG", "RESETSTAT")  # what was asked once at start
    for _time in range(3):
        browser.login(node)
        browser.uid(node)
        browser.get(node, "/web/login?debug=1")
        browser.call(node, "/web/session/destroy")
    stats = own_redis.cli("INFO", "commandstats")
    calls = {
        name: int(number) for name, number in re.findall(r"cmdstat_([\w|]+):calls=(\d+)", stats)
    }
    assert calls["hget"] > 3
    assert calls["evalsha"] > 3
    assert calls.get("eval", 0) <= 7
    allowed = {"hget", "hset", "hdel", "pexpire", "unlink", "evalsha", "eval", "exists"}
    allowed |= {"hgetall", "hlen", "hrandfield", "expire", "ttl", "time"}  # the ormcache's
    allowed |= {"hexists", "hincrbyfloat"}  # the books', not a request's
    allowed |= {"zadd", "zremrangebyrank", "zremrangebyscore"}
    of_redis_cli = {"auth", "config|resetstat"}
    assert set(calls) - of_redis_cli <= allowed | {"select", "client|setname"}
