"""Nodes restart one after the other, with other code too, while people work."""

import functools
import re
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from odoo.addons.redis_session_ormcache.tests.deployment.person import Person
from stack.deployment import DEPLOY, Deployment
from stack.provision import environment
from stack.servers import until

SCRIPT = DEPLOY / "rolling/deploy"
PEOPLE = 4
MODULE = "rolling_probe"
# Asks this process to restart a node, and waits until that is done.
RESTART = """
import pathlib, sys, time
folder, port = pathlib.Path(sys.argv[1]), sys.argv[2]
(folder / f"restart-{port}").touch()
while not (folder / f"restarted-{port}").exists():
    time.sleep(0.1)
(folder / f"restarted-{port}").unlink()
"""


class Worker(threading.Thread):
    """Somebody who clicks all the time, and notes what was wrong."""

    def __init__(self, person, partner):
        super().__init__(daemon=True)
        self.person, self.partner, self.sid = person, partner, person.sid
        self.leaves, self.wrong, self.clicks = threading.Event(), [], 0

    def run(self):
        while not self.leaves.is_set():
            for what in (self.page, self.read, self.write):
                try:
                    what()
                except Exception as error:
                    self.wrong.append(f"{what.__name__}: {error!r}"[:500])
                self.clicks += 1
                time.sleep(0.05)

    def page(self):
        answer = self.person.get("/odoo")
        assert answer.status_code == 200, f"{answer.status_code} {answer.headers}"

    def read(self):
        assert self.person.call("res.partner", "read", [self.partner], ["name"])

    def write(self):
        self.person.call("res.partner", "write", [self.partner], {"comment": str(self.clicks)})

    def check(self):
        """Leave; nothing was wrong, and the session is the same."""
        self.leaves.set()
        self.join(60)
        assert not self.wrong, self.wrong[:3]
        assert self.person.sid == self.sid
        assert self.clicks > 20


@pytest.fixture(scope="module")
def addons(tmp_path_factory):
    """A folder with one module, whose code changes."""
    folder = tmp_path_factory.mktemp("addons")
    module = folder / MODULE
    module.mkdir()
    (module / "__manifest__.py").write_text(
        "{'name': 'Rolling', 'author': 'Rolling', 'license': 'LGPL-3', 'version': '19.0.1.0.0'}"
    )
    (module / "__init__.py").write_text("VERSION = 1\n")
    return folder


@pytest.fixture(scope="module")
def deployment(tmp_path_factory, postgres, module_redis, shop, addons):
    env = {"ODOO_ADDONS_PATH": f"{environment.addons_path()},{addons}"}
    folder = tmp_path_factory.mktemp("rolling")
    with Deployment(folder, postgres, module_redis.url, database=shop, env=env) as running:
        yield running


@pytest.fixture
def people(deployment):
    """Some who work, until the test is over."""
    workers = []
    for _ in range(PEOPLE):
        person = Person(deployment.nginx)
        person.login("admin", "admin")
        [partner] = person.call("res.partner", "create", [{"name": "Somebody"}])
        workers.append(Worker(person, partner))
    for worker in workers:
        worker.start()
    yield workers
    for worker in workers:
        worker.leaves.set()


def test_a_reload_is_not_noticed(deployment, people):
    """``systemctl reload`` of one node, then of the other."""
    for node in deployment.web:
        reloads = stopped(node)
        node.reload()
        until(functools.partial(has_stopped_again, node, reloads), "the end of the old workers", 90)
        time.sleep(1)
    for worker in people:
        worker.check()


def stopped(node):
    """How often it has ended its old workers."""
    return node.log.read_text(errors="replace").count("Old server stopped")


def has_stopped_again(node, before):
    return stopped(node) > before


def fingerprint(node):
    """Of the code that a node shares values with."""
    found = re.findall(r"processes of fingerprint (\w+)", node.log.read_text(errors="replace"))
    return found[-1]


def test_a_rolling_deploy_is_not_noticed(deployment, addons, people, tmp_path):
    """With changed code, by the script: nobody is logged out, nothing fails, nothing is shared
    between the two versions."""
    admin = people[0].person
    admin.call("ir.module.module", "update_list")
    admin.install(MODULE)
    for node in deployment.web:
        admin.get("/web/login", node=node)
    before = set(map(fingerprint, deployment.web))
    assert len(before) == 1
    (addons / MODULE / "__init__.py").write_text("VERSION = 2\n")
    warm = f"{sys.executable} -c \"open('{tmp_path}/warmed', 'a').write('{{port}} ')\""
    done = roll(deployment, tmp_path, "--warm", warm)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "warmed").read_text() == f"{deployment.web[0].http_port} "
    assert done.stdout.count("back after") == len(deployment.web)
    after = set(map(fingerprint, deployment.web))
    assert len(after) == 1
    assert after != before
    for worker in people:
        worker.check()


def roll(deployment, folder, *options):
    """Run the script; this process restarts the nodes that it asks for."""
    ended = threading.Event()

    def serve():
        while not ended.wait(0.1):
            for node in deployment.web:
                asked = folder / f"restart-{node.http_port}"
                if asked.exists():
                    asked.unlink()
                    deployment.restart(node)
                    (folder / f"restarted-{node.http_port}").touch()

    script = folder / "restart.py"
    script.write_text(RESTART)
    server = threading.Thread(target=serve, daemon=True)
    server.start()
    try:
        return subprocess.run(
            [
                str(SCRIPT),
                "--upstreams", str(deployment.nginx.folder / "odoo/upstreams.conf"),
                "--reload", f"kill -HUP {deployment.nginx.pid}",
                "--restart", f"{sys.executable} {script} {folder} {{port}}",
                "--grace", "2",
                *options,
                *map(deployment.address, deployment.web),
            ],
            capture_output=True, text=True, timeout=300, check=False,
        )  # fmt: skip
    finally:
        ended.set()
        server.join(60)


def test_a_node_that_does_not_come_back_stays_out(deployment, people, tmp_path):
    """The rest serves, and the script says so."""
    done = roll(deployment, tmp_path, "--page", "/not/there", "--patience", "3")
    assert done.returncode == 1
    [first, second] = map(deployment.address, deployment.web)
    assert (
        f"{first}: http://{first}/not/there does not answer within 3 s: HTTP Error 404"
        in done.stderr
    )
    text = Path(deployment.nginx.folder / "odoo/upstreams.conf").read_text()
    assert f"server {first} max_fails=1 fail_timeout=5s down;" in text
    assert f"server {second} max_fails=1 fail_timeout=5s;" in text
    for worker in people:
        worker.check()


def test_the_last_node_is_not_taken_out(deployment):
    """Whoever asks for it."""
    [first, second] = map(deployment.address, deployment.web)
    path = deployment.nginx.folder / "odoo/upstreams.conf"
    path.write_text(re.sub(f"server {first}.*;", f"server {first} down;", path.read_text()))
    commands = ["--upstreams", str(path), "--restart", "true", "--reload", "true"]
    refused = subprocess.run(
        [str(SCRIPT), *commands, second], capture_output=True, text=True, check=False
    )
    assert refused.returncode == 1
    assert f"{second} is the last one that serves" in refused.stderr
