"""Well-formed answers that are wrong: a Redis that gives them is one that does not answer."""

import contextlib
import itertools

import pytest

from odoo.addons.redis_session_ormcache.connection import DEADLINE, RedisServer, Script
from odoo.addons.redis_session_ormcache.connection import check as checks
from odoo.addons.redis_session_ormcache.exceptions import (
    Error,
    RedisRefusedError,
    RedisUnavailableError,
)
from odoo.addons.redis_session_ormcache.ormcache import RemoteTier, remote
from odoo.addons.redis_session_ormcache.ormcache.remote import Stored
from stack.servers import SERVICE, Cluster, LyingProxy, Sentinels

LIES = {
    "integer": b":5\r\n",
    "big integer": b":9223372036854775807\r\n",
    "status": b"+OK\r\n",
    "nothing": b"$-1\r\n",
    "empty text": b"$0\r\n\r\n",
    "text": b"$4\r\n\xff\xfe!=\r\n",
    "empty array": b"*0\r\n",
    "no array": b"*-1\r\n",
    "integers": b"*2\r\n:1\r\n:3\r\n",
    "one text": b"*1\r\n$1\r\n1\r\n",
    "no numbers": b"*2\r\n$1\r\na\r\n$1\r\nb\r\n",
    "arrays": b"*2\r\n*1\r\n:1\r\n*3\r\n:0\r\n:9\r\n*2\r\n$1\r\na\r\n:1\r\n",
    "slots without nodes": b"*1\r\n*3\r\n:0\r\n:16383\r\n*0\r\n",
    "wrong type": b"-WRONGTYPE x\r\n",
    "no script": b"-NOSCRIPT x\r\n",
    "error": b"-x\r\n",
}
# What is asked when a connection is opened or a server is looked for, by topology.
ASKED_OF = {
    "single": ("AUTH", "SELECT", "CLIENT SETNAME", "TIME", "INFO", "CONFIG GET"),
    "sentinel": ("SENTINEL MASTERS", "SENTINEL GET-MASTER-ADDR-BY-NAME", "CLIENT SETNAME"),
    "cluster": ("CLUSTER SLOTS",),  # which sends all else to the nodes themselves
}
IN_TIME = Script("in_time", "return 'in time'")
KEY = "lying:key"


@pytest.fixture
def proxy(redis):
    with LyingProxy(redis.port) as proxy:
        yield proxy


@pytest.fixture
def make_server():
    with contextlib.ExitStack() as made:

        def make(url, half="sessions", **options):
            server = RedisServer(url, half=half, timeout=2.0, **options)
            made.callback(server.disconnect)
            return server

        yield make


@pytest.fixture
def server(proxy, make_server):
    return make_server(proxy.url)


def outcome(call):
    """What it answers or raises, which is an error of this addon."""
    try:
        return call()
    except Error as error:
        return error


# -- opening a connection, finding a server --------------------------------------------------------


def at_a_start(server):
    outcome(lambda: server.check(durable=True))
    outcome(lambda: server.execute("HGET", KEY, "f"))
    outcome(lambda: server.evaluate(IN_TIME, KEY, DEADLINE))
    outcome(lambda: server.execute_many([("EXISTS", KEY)] * 2))
    server.disconnect()


@pytest.fixture(scope="module")
def sentinels(tmp_path_factory):
    with Sentinels(tmp_path_factory.mktemp("sentinels")) as sentinels:
        yield sentinels


@pytest.fixture
def lying(request, proxy, make_server, topologies):
    """A server of a topology, all of which is asked by way of a proxy that lies."""
    if request.param == "single":
        url = proxy.url.replace("redis://", "redis://default:x@").replace("/0", "/1")
        yield proxy, make_server(url)
    elif request.param == "sentinel":
        sentinels = request.getfixturevalue("sentinels")
        with LyingProxy(sentinels.sentinels[0].port) as sentinel:
            url = f"redis+sentinel://127.0.0.1:{sentinel.port}/{SERVICE}/0"
            yield sentinel, make_server(url)
    else:
        cluster = request.getfixturevalue("cluster")
        with LyingProxy(cluster.nodes[0].port) as node:
            yield node, make_server(f"redis+cluster://127.0.0.1:{node.port}")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    with Cluster(tmp_path_factory.mktemp("cluster")) as cluster:
        yield cluster


@pytest.mark.parametrize(
    ("lying", "command"),
    [(name, command) for name, commands in ASKED_OF.items() for command in commands],
    indirect=["lying"],
)
def test_a_wrong_answer_on_the_way_is_an_error_of_ours(lying, command, monkeypatch):
    """Whatever a server, a sentinel or a node says of itself, nothing else is raised."""
    monkeypatch.setattr(checks, "_PAUSE", 0.0)
    monkeypatch.setattr(checks, "_ATTEMPTS", 2)
    proxy, server = lying
    for lie in LIES.values():
        proxy.lies = {command: lie}
        at_a_start(server)
    assert proxy.told[command]


@pytest.mark.parametrize("name", ["integer", "status", "one text", "integers", "no numbers"])
def test_a_time_that_is_none_is_no_answer(proxy, server, name):
    """A change with a deadline is not made then, and nothing is known of the clock."""
    proxy.lies["TIME"] = LIES[name]
    with pytest.raises(RedisUnavailableError) as raised:
        server.evaluate(IN_TIME, KEY, DEADLINE)
    assert not isinstance(raised.value, RedisRefusedError)
    assert server._client.clock._ahead is None


@pytest.mark.parametrize("lie", ["integer", "empty text", "arrays"])
def test_a_sentinel_that_lies_is_passed_over(sentinels, make_server, lie):
    """The next one is asked, as for one that is away."""
    with LyingProxy(sentinels.sentinels[0].port) as liar:
        liar.lies = dict.fromkeys(ASKED_OF["sentinel"][:2], LIES[lie])
        hosts = f"127.0.0.1:{liar.port},127.0.0.1:{sentinels.sentinels[1].port}"
        server = make_server(f"redis+sentinel://{hosts}/{SERVICE}/0")
        assert server.execute("EXISTS", KEY) == 0
        assert liar.told


# -- commands and scripts --------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["HGET", "EVAL"])
def test_no_script_is_a_refusal(proxy, server, command):
    """Also of the command that carries the script's text, and among many."""
    proxy.lies = dict.fromkeys([command, "EVALSHA"], LIES["no script"])
    calls = {
        "HGET": lambda: server.execute("HGET", KEY, "f"),
        "EVAL": lambda: server.evaluate(IN_TIME, KEY),
    }
    with pytest.raises(RedisRefusedError, match="x"):
        calls[command]()
    with pytest.raises(RedisRefusedError, match="x"):
        server.execute_many([("EXISTS", KEY), ("EVALSHA", IN_TIME.sha, 1, KEY)])
    proxy.lies.clear()
    assert server.evaluate(IN_TIME, KEY) == b"in time"


@pytest.mark.parametrize("topology", ["single", "cluster"])
def test_an_error_among_many_is_one_of_ours(topology, redis, make_server, request):
    """The answers to the others are read: the next command gets its own."""
    url = redis.url if topology == "single" else request.getfixturevalue("cluster").url
    server = make_server(url)
    server.execute("HSET", KEY, "f", "v")
    wrong = ("EVAL", "return redis.call('GET', KEYS[1])", 1, KEY)
    with pytest.raises(Error, match="WRONGTYPE"):
        server.execute_many([("HGET", KEY, "f"), wrong, ("EXISTS", KEY)])
    assert server.execute_many([("HGET", KEY, "f"), ("EXISTS", KEY)]) == [b"v", 1]
    server.execute("UNLINK", KEY)


# -- the ormcache ----------------------------------------------------------------------------------


@pytest.mark.parametrize("lie", LIES)
def test_the_ormcache_takes_a_wrong_answer_for_a_miss(proxy, make_server, lie):
    """A read gives nothing, or bytes to be opened with the key of values; a write is dropped."""
    tier = RemoteTier(make_server(proxy.url, "ormcache"), max_bytes=2**20)
    key, field = f"lying:{lie}", b"f" * remote.TAG_LENGTH
    values = [(field, b"=1"), (field + b"2", b"=2")]
    assert tier.publish(key, values) == [Stored.NEW] * 2
    assert tier.fetch([key])[0] == dict(values)
    assert tier.ask(key, field, claim=True) == b"=1"
    asked = ["HGET", "HGETALL", "EVALSHA", "EVAL", "EXPIRE"]
    for number, names in itertools.product((1, 2), [[name] for name in asked] + [asked]):
        proxy.lies = dict.fromkeys(names, LIES[lie])
        tier._writes.succeed()  # asks again, though writes were refused
        [found] = tier.fetch([key]) or [{}]
        assert all(isinstance(part, bytes) for item in found.items() for part in item)
        for claim in (True, False):
            answer = tier.ask(key, field, claim=claim)
            assert answer is None or isinstance(answer, bytes) or answer in (0, 1)
        stored = tier.publish(key, values[:number])
        assert list(stored) in ([Stored.WANTED] * number, [])
        tier.release(key, [field])
        tier.retire(key)
    assert proxy.told
