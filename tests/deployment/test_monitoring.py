"""The queries of ``deploy/monitoring``, by ``promtool`` and by the metrics of the page."""

import itertools
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from odoo.addons.redis_session_ormcache.connection import RedisServer
from odoo.addons.redis_session_ormcache.operation import Books, metrics
from stack.deployment import DEPLOY
from stack.provision import environment

MONITORING = DEPLOY / "monitoring"
RULES = yaml.safe_load((MONITORING / "alerts.yml").read_text())["groups"][0]["rules"]
PANELS = json.loads((MONITORING / "dashboard.json").read_text())["panels"]
QUERIES = [target["expr"] for panel in PANELS for target in panel["targets"]]


def promtool(*words):
    """Run it; what it printed, which is for people."""
    done = subprocess.run(
        [environment.binary("promtool"), *words], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_prometheus_takes_the_configuration(tmp_path):
    """With its rules, and a token beside it."""
    folder = Path(shutil.copytree(MONITORING, tmp_path / "monitoring"))
    (folder / "metrics_token").write_text("a token")
    told = promtool("check", "config", str(folder / "prometheus.yml"))
    assert f"{len(RULES)} rules found" in told


def test_each_alert_comes_and_stays_away():
    """In time, and in words that name the node; nothing does where all is well."""
    path = Path(__file__).with_name("alerts.test.yml")
    promtool("test", "rules", str(path))
    tested = path.read_text()
    for rule in RULES:
        assert rule.get("alert", rule.get("record")) in tested


def test_the_dashboard_asks_in_promql(tmp_path):
    """Each query of a panel is one that Prometheus takes."""
    rules = [
        {"record": f"query:number{number}", "expr": filled(query)}
        for number, query in enumerate(QUERIES)
    ]
    path = tmp_path / "queries.yml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}))
    assert f"{len(QUERIES)} rules found" in promtool("check", "rules", str(path))


def filled(query):
    """With something for Grafana's variables."""
    found = query.replace("$__rate_interval", "5m").replace("$database", ".*")
    assert "$" not in found
    return found


@pytest.fixture(scope="module")
def shown(module_redis):
    """Names of what the page has, in a node's first minute."""
    books = Books(RedisServer(module_redis.url, half="sessions", timeout=2.0), "odoo")
    text = metrics.exposition(books).decode()
    types = dict(re.findall(r"^# TYPE (\w+) (\w+)$", text, re.MULTILINE))
    names = set(types)
    for name, kind in types.items():
        if kind == "histogram":
            names |= {f"{name}_{suffix}" for suffix in ("bucket", "sum", "count")}
    return names


def test_each_metric_that_is_asked_for_is_there(shown):
    """By the dashboard and by the alerts; and each panel has a title and a text."""
    recorded = {rule["record"] for rule in RULES if "record" in rule}
    for query in itertools.chain(QUERIES, (rule["expr"] for rule in RULES)):
        names = set(re.findall(r"\bodoo_redis[\w:]*", query))
        assert names
        assert names <= shown | recorded, query
    for panel in PANELS:
        assert panel["title"]
        assert panel["description"]


def test_each_alert_is_in_the_page():
    """With what to do; and no other is."""
    page = (MONITORING / "README.md").read_text()
    told = set(re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE))
    assert told == {rule["alert"] for rule in RULES if "alert" in rule}
