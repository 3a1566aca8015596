"""Refused commands: for good, whoever words it, or for a while; and what need not be answered."""

import contextlib
import itertools
import re
import time

import pytest

from odoo.addons.redis_session_ormcache import url as urls
from odoo.addons.redis_session_ormcache.connection import Script
from odoo.addons.redis_session_ormcache.connection import check as checks
from odoo.addons.redis_session_ormcache.connection import client as clients
from odoo.addons.redis_session_ormcache.connection import server as servers
from odoo.addons.redis_session_ormcache.connection.client import ADDON, begin, make_client
from odoo.addons.redis_session_ormcache.exceptions import (
    ConfigurationError,
    RedisUnavailableError,
)
from odoo.addons.redis_session_ormcache.ormcache import RemoteTier, remote
from odoo.addons.redis_session_ormcache.sessions import scripts
from odoo.addons.redis_session_ormcache.tests.support.dose import LONG
from odoo.addons.redis_session_ormcache.tests.support.topologies import PASSWORD, USER
from stack.servers import (
    Redis,
    Sentinels,
    StrictProxy,
    add_user,
    as_user,
    free_port,
    until,
)


def is_script(value):
    return isinstance(value, Script)


HANG_UP = ""
DURABLE = {"appendonly": "yes"}
# Of Twemproxy, Envoy, predixy and others: «{}» is the command.
WORDINGS = [
    "-ERR unsupported command '{}'",
    "-ERR command '{}' is not allowed",
    "-ERR {} is disabled",
    "-ERR unknown command `{}`",
    "-ERR Proxy error",
    "-PROXYERR forbidden",
    "-NOPERM this user has no permissions to run the '{}' command",
    "-no",
    HANG_UP,
]
# Where what is asked makes little difference: in words of its own, in Redis' own, and without any.
SOME_WORDINGS = WORDINGS if LONG else ["-no", WORDINGS[6], HANG_UP]
PASSING = [
    "-OOM command not allowed when used memory > 'maxmemory'.",
    "-READONLY You can't write against a read only replica.",
    "-LOADING Redis is loading the dataset in memory",
    "-MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.",
    "-CLUSTERDOWN Hash slot not served",
    "-NOREPLICAS Not enough good replicas to write.",
    "-MISCONF Redis is configured to save RDB snapshots, but it's currently unable to",
    "-BUSY Redis is busy running a script. You can only call SCRIPT KILL or SHUTDOWN NOSAVE.",
    "-TRYAGAIN Multiple keys request during rehashing of slot",
    "-ERR max number of clients reached",
    "-ERR max number of clients + cluster connections reached",
    "-ERR Error running script (call to f_1): @user_script:3: -OOM command not allowed",
    "-ERR Error running script (call to f_1): @user_script:3: -MISCONF Errors writing to the AOF",
]
NEEDED = ["TIME", "HGET", "EXISTS", "EVALSHA", "EVAL", "EXPIRE"]
SCRIPTS = [s.text for module in (scripts, remote) for s in vars(module).values() if is_script(s)]
IN_SCRIPTS = sorted(set(re.findall(r"call\('(\w+)'", "".join(SCRIPTS))))


class Refusing(StrictProxy):
    """Refuses a command, by its words or by a word of the script that it would run.

    :param times: how often; then it is passed on
    """

    def __init__(self, port, command, wording, *, script="", times=10**9):
        self.asked, self.times = [], times
        words = command.lower().split()
        line = wording and f"{wording.format(command.lower())}\r\n"

        def answer(asked):
            told = [word.decode(errors="replace").lower() for word in asked]
            self.asked.append(" ".join(told[:2]))
            if words == told[: len(words)] and script.lower() in told[min(1, len(told) - 1)]:
                self.times -= 1
                if self.times >= 0:
                    return line.encode()
            return None

        super().__init__(port, answer)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with Redis(tmp_path_factory.mktemp("redis"), config=DURABLE) as redis:
        yield redis


@pytest.fixture
def refusing(server):
    """Start a proxy that refuses; the server knows no script, and the process no such server."""
    running = contextlib.ExitStack()

    def make(command, wording, *, port=server.port, **options):
        server.cli("SCRIPT", "FLUSH")
        return running.enter_context(Refusing(port, command, wording, **options))

    with running:
        yield make


@pytest.fixture
def starts(make_store, monkeypatch):
    """Do what is done at a start, at both halves; what is warned of."""
    monkeypatch.setattr(checks, "_PAUSE", 0.01)

    def start(proxy, url=None):
        store = make_store(proxy if url is None else Address(url), timeout=2.0)
        server = store.server
        try:
            told = server.check(durable=True)
            server.try_out(store.check)
            tier = RemoteTier(server, max_bytes=2**20)
            server.try_out(lambda: tier.check("odoo:ormcache:check"))
        finally:
            server.disconnect()
        assert readable(store)
        return told

    return start


class Address:
    def __init__(self, url):
        self.url = url


def readable(store):
    session = store.new()
    store.save(session)
    return not store.get(session.sid).is_new


def quoted(wording, command):
    return re.escape(wording[1:].partition(" ")[2].format(command.lower()) or wording[1:])


# -- for good --------------------------------------------------------------------------------------


@pytest.mark.parametrize("wording", WORDINGS)
@pytest.mark.parametrize("command", NEEDED)
def test_a_command_that_is_refused_for_good_is_found_at_start(refusing, starts, command, wording):
    """Whatever its words, or without one; the line has them, and the command."""
    proxy = refusing(command, wording)
    with pytest.raises(ConfigurationError) as stopped:
        starts(proxy)
    told = str(stopped.value)
    assert f"its answer to {command}, each time" in told
    assert re.search(quoted(wording, command) if wording else "closed", told), told
    assert "a user with the rule of README.rst" in told


@pytest.mark.parametrize("wording", ["-ERR Error running script: {} is disabled", HANG_UP])
@pytest.mark.parametrize("called", IN_SCRIPTS)
def test_what_a_script_may_not_call_is_found_at_start(refusing, starts, called, wording):
    """In the words of whoever runs scripts."""
    proxy = refusing("EVAL", wording.replace("{}", called), script=f"'{called}'")
    with pytest.raises(ConfigurationError, match="its answer to EVAL, each time"):
        starts(proxy)


@pytest.mark.parametrize("lacking", ["hset", "pexpire", "time"])
def test_what_a_server_lacks_in_scripts_is_found_at_start(tmp_path, starts, lacking):
    """A real one, whose commands were renamed."""
    with Redis(tmp_path, config={**DURABLE, f"rename-command {lacking}": '""'}) as redis:
        with pytest.raises(ConfigurationError, match="each time"):
            starts(redis)


@pytest.mark.parametrize("wording", SOME_WORDINGS)
@pytest.mark.parametrize("command", ["AUTH", "SELECT"])
def test_what_opens_a_connection_may_be_refused(refusing, starts, server, command, wording):
    """No password is ever quoted, though it is repeated, or a part of it."""
    add_user(server, USER, PASSWORD, "+@all ~*")
    if wording and command == "AUTH":
        wording = f"{wording} {PASSWORD} {PASSWORD[:5]}"
    proxy = refusing(command, wording)
    with pytest.raises(ConfigurationError) as stopped:
        starts(proxy, as_user(proxy.url, USER, PASSWORD).removesuffix("/0") + "/1")
    told = str(stopped.value)
    assert f"its answer to {command}, each time" in told
    assert PASSWORD[:4] not in told
    assert ("a URL without a password" if command == "AUTH" else "a database it has") in told


@pytest.mark.parametrize("wording", WORDINGS)
def test_a_missing_password_is_told(tmp_path, starts, wording):
    """Also by a server that is asked for nothing when a connection is opened."""
    with Redis(tmp_path, password="s3cret") as redis:
        with Refusing(redis.port, "CLIENT", wording) as proxy:
            with pytest.raises(ConfigurationError, match="refuses the user or password"):
                starts(proxy)


def test_a_user_who_may_do_nothing_is_refused(server, starts):
    """By Redis' own word for it; there is nothing else that is answered."""
    add_user(server, USER, PASSWORD, "-@all")
    with pytest.raises(ConfigurationError, match="its answer to"):
        starts(server, as_user(server.url, USER, PASSWORD))


def test_a_clusters_node_is_told_by_its_answer(tmp_path, starts):
    """INFO, which would say it, is not in the documented rule."""
    with Redis(tmp_path, config=a_node()) as node:
        node.cli("CLUSTER", "ADDSLOTSRANGE", "0", "100")
        with StrictProxy(node.port, moved) as proxy:
            with pytest.raises(ConfigurationError, match="expected redis\\+cluster://"):
                starts(proxy)


def a_node():
    return {**DURABLE, "cluster-enabled": "yes", "cluster-port": str(free_port())}


def moved(command):
    if command[0] == b"INFO":
        return b"-ERR no\r\n"
    return b"-MOVED 1 127.0.0.1:1\r\n" if len(command) > 1 else None


def test_a_script_may_be_unknown_in_other_words(refusing, starts):
    """As Kvrocks says it: its text is sent."""
    wording = "-ERR NOSCRIPT No matching script. Please use EVAL."
    assert starts(refusing("EVALSHA", wording)) == []


# -- for a while -----------------------------------------------------------------------------------


@pytest.mark.parametrize("wording", PASSING)
@pytest.mark.parametrize("command", ["TIME", "EVALSHA", "EVAL", "EXISTS"])
def test_what_passes_does_not_stop_a_server(refusing, starts, command, wording):
    """Redis documents by which words; it serves once that is over."""
    proxy = refusing(command, wording)
    with pytest.raises(RedisUnavailableError):
        starts(proxy)
    proxy.times = 0
    assert starts(proxy) == []


@pytest.mark.parametrize("wording", SOME_WORDINGS)
def test_what_passes_while_it_is_tried_again_is_not_told(refusing, starts, wording):
    """As when a proxy was just being restarted: two refusals on two connections."""
    assert starts(refusing("EXISTS", wording, times=2)) == []


@pytest.mark.parametrize("wording", ["-ERR upstream failure", "-ERR Connection refused", HANG_UP])
def test_a_proxy_without_its_server_may_get_it_back(server, starts, wording):
    """It answers PING and TIME itself: what it refuses is all that has a key."""
    away = True

    def answer(command):
        if not away or command[0] in {b"PING", b"CLIENT"}:
            return None
        return b"*2\r\n$1\r\n1\r\n$1\r\n1\r\n" if command[0] == b"TIME" else refused

    refused = wording and f"{wording}\r\n".encode()
    refused = refused or b""
    with StrictProxy(server.port, answer) as proxy:
        with pytest.raises(RedisUnavailableError):
            starts(proxy)
        away = False
        assert starts(proxy) == []


def test_a_command_at_a_time_is_no_proof(server, starts):
    """Refused is another one each time: that is a fault, not a rule."""
    turns = itertools.cycle([b"EXISTS", b"TIME"])
    now = next(turns)

    def answer(command):
        nonlocal now
        if command[0] == now:
            now = next(turns)
            return b"-ERR Proxy error\r\n"
        return None

    with StrictProxy(server.port, answer) as proxy:
        with pytest.raises(RedisUnavailableError):
            starts(proxy)


# -- what need not be answered ---------------------------------------------------------------------


@pytest.mark.parametrize("wording", SOME_WORDINGS)
@pytest.mark.parametrize("command", ["CLIENT SETNAME", "CLIENT", "INFO", "CONFIG"])
def test_what_is_optional_may_be_refused(refusing, starts, command, wording):
    """It is served, and nothing that is not so is warned of."""
    assert starts(refusing(command, wording)) == []


@pytest.mark.parametrize("wording", WORDINGS)
def test_all_that_is_optional_may_be_refused(server, starts, wording):
    """At once."""
    refused = wording and f"{wording}\r\n"

    def answer(command):
        return refused.encode() if command[0] in {b"CLIENT", b"INFO", b"CONFIG"} else None

    with StrictProxy(server.port, answer) as proxy:
        assert starts(proxy) == []


@pytest.mark.parametrize("told", [b"$-1\r\n", b"+OK\r\n", b":1\r\n", b"*0\r\n", b"$2\r\n\xff:\r\n"])
@pytest.mark.parametrize("command", [b"CLIENT", b"INFO", b"CONFIG"])
def test_what_is_optional_may_have_an_odd_answer(server, starts, command, told):
    """Of a proxy that makes one up."""
    with StrictProxy(server.port, lambda asked: told if asked[0] == command else None) as proxy:
        assert starts(proxy) == []


def test_each_question_is_asked_though_the_other_is_refused(tmp_path, starts):
    """What INFO tells does not want CONFIG."""
    policy = {"maxmemory-policy": "allkeys-lru", "maxmemory": "100mb"}
    with Redis(tmp_path / "lru", config={**DURABLE, **policy}) as redis:
        for wording in WORDINGS:
            with Refusing(redis.port, "CONFIG", wording) as proxy:
                (told,) = starts(proxy)
                assert "has maxmemory-policy allkeys-lru" in told
            with Refusing(redis.port, "INFO", wording) as proxy:
                assert starts(proxy) == []
                assert "config get" in proxy.asked


@pytest.mark.parametrize("command", [b"INFO", b"CONFIG"])
def test_a_question_that_is_swallowed_raises_no_alarm(server, starts, command):
    """Whether Redis answers is told by what is needed."""

    def answer(asked):
        return time.sleep(servers.CHECK_SECONDS + 1) if asked[0] == command else None

    with StrictProxy(server.port, answer) as proxy:
        assert starts(proxy) == []


@pytest.mark.parametrize("wording", WORDINGS)
def test_a_refused_name_is_given_once(refusing, starts, wording, monkeypatch):
    """Further connections of the process are opened without it, at no more cost."""
    monkeypatch.setattr(clients, "_nameless", set())  # another proxy may have had that port
    proxy = refusing("CLIENT SETNAME", wording)
    starts(proxy)
    starts(proxy)
    assert proxy.asked.count("client setname") == 1


def test_a_name_costs_one_question(refusing, starts):
    """And nothing else is asked to open a connection."""
    proxy = refusing("nothing", HANG_UP)
    clients._nameless.clear()  # its port may have been that of another one
    client = make_client(urls.parse(proxy.url), half="sessions", timeout=1.0)
    begin(1.0)
    client.ask("EXISTS", "key")
    client.disconnect()
    assert [words.split()[0] for words in proxy.asked] == ["client", "exists"]


@pytest.mark.parametrize("wording", PASSING)
def test_what_passes_takes_no_name(own_redis, refusing, wording):
    """Nor is it asked at once again."""
    proxy = refusing("CLIENT", wording, port=own_redis.port, times=1)
    client = make_client(urls.parse(proxy.url), half="sessions", timeout=1.0)
    begin(1.0)
    with contextlib.suppress(clients.DRIVER_ERRORS):
        client.ask("EXISTS", "key")
    client.ask("EXISTS", "key")
    assert "name=redis_session_ormcache:sessions" in own_redis.cli("CLIENT", "LIST")
    client.disconnect()


@pytest.mark.parametrize("password", ["LATE", "WRONGTYPE", "NOSCRIPT", "-READONLY", "OOM ", "e"])
def test_any_password_will_do(server, starts, password):
    """Though words of a server begin as it does."""
    add_user(server, USER, password, "+@all ~*")
    assert starts(server, as_user(server.url, USER, password)) == []


def test_a_network_that_fails_takes_no_name(own_redis, refusing):
    """Who hangs up on a name, and on the question after it, is given one again."""
    proxy = refusing("nothing", HANG_UP, port=own_redis.port)
    answer, proxy.answer = proxy.answer, lambda command: b""
    client = make_client(urls.parse(proxy.url), half="sessions", timeout=1.0)
    begin(1.0)
    with pytest.raises(clients.DRIVER_ERRORS):
        client.ask("EXISTS", "key")
    proxy.answer = answer
    begin(1.0)
    client.ask("EXISTS", "key")
    assert "name=redis_session_ormcache:sessions" in own_redis.cli("CLIENT", "LIST")
    client.disconnect()


# -- Sentinel and Cluster --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sentinels(tmp_path_factory):
    with Sentinels(tmp_path_factory.mktemp("s"), replicas=0, config=DURABLE) as running:
        yield running


@pytest.fixture
def behind(sentinels):
    """The URL of proxies before the sentinels, each of which refuses a command."""
    running = contextlib.ExitStack()

    def make(command, wording):
        proxies = [
            running.enter_context(Refusing(sentinel.port, command, wording))
            for sentinel in sentinels.sentinels
        ]
        hosts = ",".join(f"127.0.0.1:{proxy.port}" for proxy in proxies)
        return f"redis+sentinel://{hosts}/main/0"

    with running:
        yield make


@pytest.mark.parametrize("wording", SOME_WORDINGS)
@pytest.mark.parametrize("command", ["SENTINEL MASTERS", "SENTINEL GET-MASTER-ADDR-BY-NAME"])
def test_what_sentinels_are_asked_is_needed(behind, starts, command, wording):
    """Both questions."""
    with pytest.raises(ConfigurationError, match=f"its answer to {command}, each time"):
        starts(None, behind(command, wording))


@pytest.mark.parametrize("wording", SOME_WORDINGS)
def test_sentinels_need_not_take_a_name(behind, starts, wording):
    """As servers need not."""
    assert starts(None, behind("CLIENT", wording)) == []


@pytest.mark.parametrize("wording", ["-no", HANG_UP])
def test_a_primary_need_not_take_a_name(tmp_path, starts, wording):
    """As one server need not; sentinels, which name their connections too, go on."""
    refused = wording and f"{wording}\r\n"

    def answer(command):
        ours = command[0] == b"CLIENT" and command[-1].startswith(ADDON.encode())
        return refused.encode() if ours else None

    with Sentinels(tmp_path, replicas=0, config=DURABLE, proxied=True) as sentinels:
        (proxy,) = sentinels.proxies
        with StrictProxy(proxy.target, answer) as strict:
            proxy.target = strict.port
            assert starts(sentinels) == []


@pytest.mark.parametrize("wording", PASSING)
def test_what_passes_at_sentinels_does_not_stop_a_server(behind, starts, wording):
    """They are away then."""
    with pytest.raises(RedisUnavailableError):
        starts(None, behind("SENTINEL MASTERS", wording))


@pytest.fixture(scope="module")
def node(tmp_path_factory):
    """A Cluster of one node."""
    with Redis(tmp_path_factory.mktemp("n"), config=a_node()) as redis:
        redis.cli("CLUSTER", "ADDSLOTSRANGE", "0", "16383")
        until(lambda: "cluster_state:ok" in redis.cli("CLUSTER", "INFO"), "a Cluster")
        yield redis


@pytest.fixture
def cluster(node):
    """A proxy before it, whose address it tells."""
    running = contextlib.ExitStack()

    def make(command, wording):
        node.cli("SCRIPT", "FLUSH")
        proxy = running.enter_context(Refusing(node.port, command, wording))
        node.cli("CONFIG", "SET", "cluster-announce-port", str(proxy.port))
        return f"redis+cluster://127.0.0.1:{proxy.port}"

    with running:
        yield make


@pytest.mark.parametrize("wording", SOME_WORDINGS)
@pytest.mark.parametrize("command", ["CLUSTER SLOTS", "ASKING", "EVALSHA", "TIME"])
def test_what_a_clusters_nodes_are_asked_is_needed(cluster, starts, command, wording):
    """ASKING too, which is wanted when slots move only."""
    with pytest.raises(ConfigurationError, match=f"its answer to {command}, each time"):
        starts(None, cluster(command, wording))


@pytest.mark.parametrize("wording", SOME_WORDINGS)
@pytest.mark.parametrize("command", ["CLIENT", "INFO", "CONFIG"])
def test_what_is_optional_is_so_in_a_cluster(cluster, starts, command, wording):
    """As of one server."""
    assert starts(None, cluster(command, wording)) == []


@pytest.mark.parametrize("command", ["CLUSTER SLOTS", "ASKING", "EVALSHA"])
@pytest.mark.parametrize("wording", PASSING[2:10])
def test_what_passes_in_a_cluster_does_not_stop_a_server(cluster, starts, command, wording):
    """It is away, or one of its nodes is."""
    url = cluster(command, wording)
    with pytest.raises(RedisUnavailableError):
        starts(None, url)
