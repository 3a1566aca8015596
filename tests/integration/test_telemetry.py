"""redis-py's metrics in OpenTelemetry, by the SDK's reader in memory, on a real Redis."""

import json

import pytest
import redis as driver
from opentelemetry import metrics
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from redis.observability import recorder
from redis.observability.providers import reset_observability_instance

from odoo.addons.redis_session_ormcache.connection import RedisServer, telemetry
from odoo.addons.redis_session_ormcache.exceptions import RedisUnavailableError
from odoo.addons.redis_session_ormcache.tests.integration.test_start import assert_stopped, start
from stack.servers import free_port

DURATION = "db.client.operation.duration"


@pytest.fixture(scope="module")
def reader():
    """Of the one provider that a process may have."""
    reader = InMemoryMetricReader()
    metrics.set_meter_provider(MeterProvider(metric_readers=[reader]))
    return reader


@pytest.fixture
def switched_on(reader):
    telemetry.switch_on()
    yield
    reset_observability_instance()
    recorder.reset_collector()


def points(reader):
    """By metric: the attributes of each series, with how many were counted; and all of it."""
    text = reader.get_metrics_data().to_json()
    found = {}
    for resource in json.loads(text)["resource_metrics"]:
        for scope in resource["scope_metrics"]:
            for metric in scope["metrics"]:
                found[metric["name"]] = [
                    (point["attributes"], point.get("count", point.get("value")))
                    for point in metric["data"]["data_points"]
                ]
    return found, text


def test_commands_are_recorded_without_what_they_hold(
    switched_on, reader, make_store, redis, new_session
):
    """Name, server and time of each, and connections; no sid, identifier, prefix or password."""
    store = make_store(redis, prefix="telltale")
    session = new_session(store, login="somebody@example.com")
    store.save(session)
    for _time in range(3):
        assert store.get(session.sid)["login"] == "somebody@example.com"
    found, text = points(reader)
    counts = {attributes["db.operation.name"]: count for attributes, count in found[DURATION]}
    assert counts["HGET"] == 3
    assert {"EVALSHA", "EVAL"} & set(counts)
    assert all(attributes["db.system"] == "redis" for attributes, _count in found[DURATION])
    assert "db.client.connection.create_time" in found
    for secret in (session.sid, session.sid[:42], session.sid[42:], "telltale", "somebody"):
        assert secret not in text


def test_an_error_is_recorded_by_its_name(switched_on, reader):
    """And not by its words."""
    server = RedisServer(f"redis://:s3cret@127.0.0.1:{free_port()}/0", half="sessions", timeout=0.2)
    with pytest.raises(RedisUnavailableError):
        server.execute("HGETALL", "a telltale key")
    server.disconnect()
    found, text = points(reader)
    errors = {attributes.get("error.type") for attributes, _count in found[DURATION]}
    assert "ConnectionError" in errors
    assert "telltale" not in text
    assert "s3cret" not in text


def test_nothing_is_recorded_by_default(reader, make_store, redis, new_session):
    """Though there is a provider."""
    store = make_store(redis)
    before, _text = points(reader) if reader.get_metrics_data() else ({}, "")
    store.save(new_session(store))
    driver.Redis.from_url(redis.url).ping()
    after, _text = points(reader) if reader.get_metrics_data() else ({}, "")
    assert after.get(DURATION) == before.get(DURATION)


def test_a_server_says_that_it_is_on(tmp_path, redis):
    """By one line, once it may work."""
    code, output = start(tmp_path, {"url": redis.url, "opentelemetry": True})
    assert code == 0
    assert "redis-py's metrics go to OpenTelemetry" in output


def test_a_server_without_the_library_does_not_start(tmp_path, redis):
    """It says what to install."""
    (tmp_path / "opentelemetry.py").write_text("raise ImportError('no such module here')")
    outcome = start(tmp_path, {"url": redis.url, "opentelemetry": True}, libraries=[tmp_path])
    assert_stopped(outcome, "pip install 'opentelemetry-api>=1.39,<2'")
