"""Calls that only read go to a node of their own, which reads from a replica."""

import re
import subprocess

import pytest

from odoo.addons.redis_session_ormcache.tests.deployment.shell import shell
from stack.deployment import DEPLOY, Deployment
from stack.servers import PostgreSQL, Standby, until

SPLIT = DEPLOY / "split"
POINTS = 5  # by which the predicted share may be wrong
READS = ("web_search_read", "web_read", "name_search", "read", "search_read", "get_views")


@pytest.fixture(scope="module")
def primary(tmp_path_factory):
    """A server with a replica has a cluster of its own."""
    with PostgreSQL(tmp_path_factory.mktemp("primary")) as server:
        yield server
    server.remove()


@pytest.fixture(scope="module")
def database(primary, postgres, shop, tmp_path_factory):
    """The shop's database, on that server."""
    dump = postgres.dump(shop, tmp_path_factory.mktemp("dump") / "shop.dump")
    primary.restore("shop", dump)
    return "shop"


@pytest.fixture(scope="module")
def replica(primary, database, tmp_path_factory):
    with Standby(tmp_path_factory.mktemp("replica"), primary) as server:
        yield server
    server.remove()


@pytest.fixture(scope="module")
def methods(tmp_path_factory, primary, database):
    """The list, as the page has one make it."""
    done = shell(tmp_path_factory.mktemp("methods"), primary, database, SPLIT / "methods.py")
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def deployment(tmp_path_factory, primary, replica, database, module_redis, methods):
    folder = tmp_path_factory.mktemp("split")
    with Deployment(
        folder, primary, module_redis.url, database=database, replica=replica, methods=methods
    ) as running:
        yield running


def test_the_list_is_what_odoo_decorates(methods):
    """Methods of every model, and those of some."""
    general = methods.splitlines()[1]
    for name in READS:
        assert re.search(rf"\b{name}\b", methods), name
    for name in ("write", "create", "web_save", "unlink", "action_confirm", "message_post"):
        assert not re.search(rf"\b{name}\b", methods), name
    assert "web_search_read" in general
    assert max(map(len, methods.splitlines())) < 4000  # nginx takes no longer ones


def served_by(deployment, marker):
    """The addresses of the node that served the requests with a mark in their address."""
    until(lambda: marker in deployment.nginx.access_log.read_text(), "that nginx has logged it")
    found = [
        line for line in deployment.nginx.access_log.read_text().splitlines() if marker in line
    ]
    return {re.findall(r'"([^"]*)"', line)[3].split(", ")[-1] for line in found}


def test_reads_go_to_the_read_node_and_writes_do_not(deployment, admin):
    """By nginx's log."""
    [read] = map(deployment.address, deployment.read)
    ids = admin.call("res.partner", "search", [], limit=3)
    for number in range(6):
        admin.call("res.partner", "read", ids, ["name"])
        admin.call("res.partner", "write", ids[:1], {"comment": str(number)})
        admin.call("res.partner", "web_search_read", [], {"name": {}})
    assert served_by(deployment, "/res.partner/read ") == {read}
    assert served_by(deployment, "/res.partner/web_search_read ") == {read}
    web = set(map(deployment.address, deployment.web))
    assert served_by(deployment, "/res.partner/write ") == web


def test_what_writes_all_the_same_is_right(deployment, admin, primary, database):
    """Core runs it again, on the primary: slow, not wrong."""
    [read] = deployment.read
    [partner] = admin.call("res.partner", "create", [{"name": "Before"}])
    name = admin.call("res.partner", "write", [partner], {"name": "After"}, node=read)
    assert name is True
    query = f"SELECT name FROM res_partner WHERE id = {partner}"
    assert primary.sql(database, query) == "After"


def test_without_the_read_node_the_others_serve(deployment, admin):
    """Nobody notices that it is gone, nor that it is back."""
    [read] = deployment.read
    read.stop()
    try:
        for _ in range(20):
            assert admin.call("res.partner", "search_read", [], ["name"], limit=1)
    finally:
        read.start()
    [address] = map(deployment.address, deployment.read)

    def serves():
        admin.call("res.partner", "search_read", [], ["name"], limit=1)
        return f'"{address}"' in deployment.nginx.access_log.read_text().splitlines()[-1]

    until(serves, "that nginx sends it calls again")


def test_the_split_moves_what_was_predicted(deployment, admin):
    """``share`` says from nginx's log which share of requests moves."""
    log = deployment.nginx.access_log
    before = len(log.read_text().splitlines())
    ids = admin.call("res.partner", "search", [], limit=3)
    for number in range(10):
        admin.get("/odoo")
        admin.call("res.partner", "get_views", [[False, "list"], [False, "search"]])
        admin.call("res.partner", "web_search_read", [], {"name": {}})
        admin.call("res.partner", "write", ids[:1], {"comment": str(number)})
    until(lambda: len(log.read_text().splitlines()) >= before + 41, "that nginx has logged all")
    lines = log.read_text().splitlines()[before:]
    sample, methods = deployment.folder / "sample.log", deployment.folder / "methods.map"
    sample.write_text("\n".join(lines))
    methods.write_text((deployment.nginx.folder / "odoo/read-methods.map").read_text())
    done = subprocess.run(
        [str(SPLIT / "share"), str(methods), str(sample)],
        capture_output=True,
        text=True,
        check=True,
    )
    predicted = float(re.search(r"^requests.* ([\d.]+)%", done.stdout, re.MULTILINE)[1])
    [read] = map(deployment.address, deployment.read)
    moved = 100 * sum(f'"{read}"' in line for line in lines) / len(lines)
    assert 20 < moved < 80
    assert abs(moved - predicted) <= POINTS


@pytest.mark.parametrize(
    ("log", "says"),
    [("", "no request"), ("nonsense\n", "no request"), (None, "No such file")],
    ids=["empty", "another format", "not there"],
)
def test_share_says_what_is_wrong_with_a_log(tmp_path, log, says):
    """With one line, and an exit code."""
    path, methods = tmp_path / "a.log", tmp_path / "methods.map"
    methods.write_text("/web/action/load odoo_read;\n")
    if log is not None:
        path.write_text(log)
    done = subprocess.run(
        [str(SPLIT / "share"), str(methods), str(path)], capture_output=True, text=True, check=False
    )
    assert done.returncode in (1, 2)
    assert says in done.stderr
