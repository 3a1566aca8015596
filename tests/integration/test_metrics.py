"""``/redis/metrics``, as Prometheus reads it."""

import re

import pytest
import requests
from prometheus_client.parser import text_string_to_metric_families

from odoo.addons.redis_session_ormcache.connection import BUCKETS, RedisServer
from odoo.addons.redis_session_ormcache.operation import Books, Process
from odoo.addons.redis_session_ormcache.operation import metrics as page
from odoo.addons.redis_session_ormcache.operation.books import Figure
from odoo.addons.redis_session_ormcache.tests.integration.test_start import assert_stopped, start
from odoo.addons.redis_session_ormcache.tests.support.browser import Browser
from stack.servers import until

TOKEN = "a token that nobody guesses".replace(" ", "-")
LATE = 15.0  # seconds until figures are in Redis


def read(node, token=TOKEN, **headers):
    with requests.Session() as http:
        http.trust_env = False
        if token is not None:
            headers["Authorization"] = f"Bearer {token}"
        return http.get(f"{node.url}/redis/metrics", headers=headers, timeout=30)


def samples(text):
    """{name: {labels: value}}, by Prometheus' own parser."""
    found = {}
    for family in text_string_to_metric_families(text):
        assert family.documentation
        for sample in family.samples:
            labels = tuple(sorted(sample.labels.items()))
            found.setdefault(sample.name, {})[labels] = sample.value
    return found


@pytest.fixture
def node(make_node, own_redis):
    return make_node(own_redis, settings={"metrics_token": TOKEN})


def test_prometheus_reads_what_was_counted(node, own_redis, database):
    """Of all nodes, by node and database; in no label is a user or a session."""
    browser = Browser(database)
    browser.login(node)
    for _time in range(5):
        assert browser.uid(node) == 2

    def sessions_read():
        found = samples(read(node).text).get("odoo_redis_sessions_read_total", {})
        return {dict(labels)["database"]: value for labels, value in found.items()}

    until(lambda: sessions_read().get(database, 0) >= 5, "the figures", LATE)
    answer = read(node)
    assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
    assert "session_id" not in answer.cookies
    found = samples(answer.text)
    assert found["odoo_redis_up"][()] == 1
    assert set(found["odoo_redis_cache_wrong_total"].values()) == {0}
    assert sum(found["odoo_redis_processes"].values()) >= 1
    assert sum(found["odoo_redis_requests_total"].values()) >= 6
    assert any(found["odoo_redis_cache_hits_total"].values())
    assert set(found["odoo_redis_variants"].values()) == {1}
    labels = {name for values in found.values() for each in values for name, _value in each}
    assert labels <= {"node", "role", "database", "method", "of", "half", "command", "le"}
    assert browser.sid[:42] not in answer.text
    assert "admin" not in answer.text
    for name in found:
        assert re.fullmatch(
            r"odoo_redis_(up|processes|variants|\w+_total|\w+_seconds_(bucket|sum|count))", name
        )


@pytest.mark.parametrize(
    "token", [None, "", "another token than that one", TOKEN[:-1], TOKEN + "x"]
)
def test_nobody_reads_them_without_the_token(node, database, token):
    """Be it the administrator."""
    browser = Browser(database)
    browser.login(node)
    answer = read(node, token, Cookie=f"session_id={browser.sid}")
    assert answer.status_code == 401
    assert "odoo_redis" not in answer.text


def test_a_redis_that_is_away_is_a_metric(node, own_redis):
    """And no error."""
    own_redis.stop()
    answer = read(node, Cookie=f"session_id={'x' * 84}")
    assert answer.status_code == 200
    assert samples(answer.text) == {"odoo_redis_up": {(): 0.0}}


def test_there_is_no_page_without_a_token(make_node, own_redis):
    """By default."""
    assert read(make_node(own_redis)).status_code == 404


@pytest.mark.parametrize("token", ["tiny", "with spaces in it and so on", "ümläuts-of-all-kinds"])
def test_a_token_that_is_none_stops_the_server(tmp_path, own_redis, token):
    """And is not shown."""
    outcome = start(tmp_path, {"url": own_redis.url, "metrics_token": token})
    assert_stopped(outcome, "metrics_token")
    assert token not in outcome[1]


def test_methods_are_those_that_matter(own_redis):
    """Twenty, by the seconds that they took or saved; the sums are of all."""
    books = Books(RedisServer(own_redis.url, half="sessions", timeout=2.0), "odoo")
    told = {"host": "h", "pid": 1, "role": "web", "started": 1.0, "addon": "1", "odoo": "19.0"}
    books.register(Process(**told, seen=books.now()))
    amounts = {Figure("cache_seconds_saved", "db", f"m{n}"): float(n) for n in range(30)}
    books.add("h", amounts)
    found = samples(page.exposition(books).decode())
    methods = {
        dict(labels)["method"] for labels in found["odoo_redis_method_cache_saved_seconds_total"]
    }
    assert methods == {f"m{n}" for n in range(10, 30)}
    [total] = found["odoo_redis_cache_saved_seconds_total"].values()
    assert total == sum(range(30))


def test_latency_of_redis_is_a_histogram(node, own_redis, database):
    """By half and command, with conventional buckets; each bucket holds those before it."""
    browser = Browser(database)
    browser.login(node)
    for _time in range(20):
        assert browser.uid(node) == 2

    def histogram(suffix):
        found = samples(read(node).text).get(f"odoo_redis_command_duration_seconds_{suffix}", {})
        return {
            (labels["half"], labels["command"], labels.get("le")): value
            for labels, value in ((dict(labels), value) for labels, value in found.items())
        }

    read_ = "sessions", "HGET", None
    until(lambda: histogram("count").get(read_, 0) >= 20, "the figures", LATE)
    counts, seconds = histogram("count"), histogram("sum")
    assert {command for _half, command, _le in counts} >= {"HGET", "save", "fetch", "publish"}
    assert {half for half, _command, _le in counts} == {"sessions", "ormcache"}
    assert 0.00001 < seconds[read_] / counts[read_] < 0.1
    buckets = [
        (float(le), value)
        for (half, command, le), value in histogram("bucket").items()
        if (half, command) == read_[:2]
    ]
    assert [end for end, _value in buckets] == [*BUCKETS, float("inf")]
    assert [value for _end, value in buckets] == sorted(value for _end, value in buckets)
    assert buckets[-1][1] == histogram("count")[read_]
    history = Books(RedisServer(own_redis.url, half="sessions", timeout=2.0), "odoo").history("")
    minute = next(iter(history.values()))
    assert {name for name in minute if name.startswith("redis_")} == {
        "redis_calls",
        "redis_seconds",
    }
    assert 0 < minute["redis_seconds"] / minute["redis_calls"] < 0.1


def test_seconds_and_queries_are_saved(make_node, own_redis, database):
    """A node that finds values in Redis knows what computing them took elsewhere."""
    for number in range(2):
        node = make_node(own_redis, settings={"metrics_token": TOKEN})
        browser = Browser(database)
        browser.login(node)
        assert browser.get(node, "/odoo").ok
        if not number:
            node.stop()
    name = "odoo_redis_cache_saved_{}_total"

    def saved(what):
        return sum(samples(read(node).text).get(name.format(what), {}).values())

    until(lambda: saved("queries") > 0, "what was saved", LATE)
    assert saved("seconds") > 0
    of_methods = samples(read(node).text)["odoo_redis_method_cache_saved_queries_total"]
    assert 0 < sum(of_methods.values()) <= saved("queries")


def test_nodes_that_disagree_are_a_metric(own_redis):
    """In settings, in the addon, or in the code for a database."""
    books = Books(RedisServer(own_redis.url, half="sessions", timeout=2.0), "odoo")
    told = {"pid": 1, "role": "web", "started": 1.0, "addon": "1", "odoo": "19.0"}
    for host, values in {
        "one": {"settings": {"session": True}, "fingerprints": {"db": "a", "other": "b"}},
        "two": {"settings": {"session": False}, "fingerprints": {"db": "c", "other": "b"}},
    }.items():
        books.register(Process(**told, **values, host=host, seen=books.now()))
    found = samples(page.exposition(books).decode())["odoo_redis_variants"]
    assert {(dict(labels)["of"], dict(labels)["database"]): n for labels, n in found.items()} == {
        ("addon", ""): 1,
        ("settings", ""): 2,
        ("code", "db"): 2,
        ("code", "other"): 1,
    }
