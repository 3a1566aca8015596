"""Two Odoo nodes behind nginx share sessions and caches in Redis: shown live, each claim checked.

    dev/demo            make everything, show it, then stay up for a browser until Ctrl-C
    dev/demo --check    the same, then stop; the exit code is 0 if every claim holds

Nodes A and B are prefork servers with a data folder each, as on two machines; a third Odoo serves
the websockets. The addon's settings are passed on (ODOO_REDIS_..., but for the URL):
`ODOO_REDIS_SESSION=false dev/demo --check` shows how the same nodes fare with sessions in files.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import json
import os
import re
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from . import servers
from .provision import environment
from .provision.apt import SetupError
from .servers import listens

DATABASE, LOGIN, PASSWORD = "demo", "admin", "admin"
OTHER = {"A": "B", "B": "A"}
FOLDER = environment.home() / "demo"
PATIENCE = 60  # seconds: the first request to a worker loads the registry
SESSION_EXPIRED = "close 4001"
SIGNALS = signal.SIGINT, signal.SIGTERM, signal.SIGHUP
REFUSED = {"scan", "hscan", "keys", "flushall", "flushdb"}  # commands with no place in production


class ClaimError(Exception):
    """A claim does not hold; the message names it."""


class Demo:
    """The servers, and what a browser does with them."""

    def __init__(self, port: int) -> None:
        FOLDER.mkdir(parents=True, exist_ok=True)
        lock = os.open(FOLDER / "lock", os.O_CREAT | os.O_WRONLY)
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # until this process ends
        self.postgres = servers.PostgreSQL(FOLDER / "postgresql")
        self.redis = servers.Redis(FOLDER / "redis")
        settings = {name: v for name, v in os.environ.items() if name.startswith("ODOO_REDIS_")}
        settings["ODOO_REDIS_URL"] = self.redis.url

        def odoo(name: str, **options: Any) -> servers.Odoo:
            options |= {"database": DATABASE, "env": settings}
            return servers.Odoo(name, FOLDER / name, self.postgres, **options)

        self.nodes = {name: odoo(name, workers=2) for name in ("A", "B")}
        self.evented = odoo("evented", command="gevent")
        self.names = {node.address: name for name, node in self.nodes.items()}
        nodes, evented = [*self.names], self.evented.websocket
        self.nginx = servers.Nginx(FOLDER / "nginx", nodes=nodes, websocket=evented, port=port)

    def __enter__(self) -> Demo:
        with step("start PostgreSQL and Redis"):
            servers.start_all(self.postgres, self.redis)
        with step("make a database with base, web and bus"):
            self.postgres.dropdb(DATABASE)
            servers.init_database(self.postgres, DATABASE, ["base", "web", "bus"])
        with step("start Odoo A and B, the evented Odoo, nginx"):
            servers.start_all(*self.nodes.values(), self.evented, self.nginx)
        self.redis.cli("CONFIG", "RESETSTAT")
        return self

    def __exit__(self, *_: object) -> None:
        for number in SIGNALS:
            signal.signal(number, signal.SIG_IGN)
        with step("\nstop"):
            nodes = *self.nodes.values(), self.evented
            servers.stop_all(self.postgres, self.redis, *nodes, self.nginx)

    def request(self, path: str, sid: str = "", url: str = "", **options: Any) -> tuple[str, Any]:
        """Who answers the cookie `sid`, and the answer: of nginx, or of a node's own `url`."""
        import requests

        with requests.Session() as session:
            session.trust_env = False  # no proxy
            method = "POST" if {"data", "json"} & set(options) else "GET"
            headers = {"Cookie": f"session_id={sid}"} if sid else {}
            options |= {"headers": headers, "timeout": PATIENCE, "allow_redirects": False}
            answer = session.request(method, (url or self.nginx.url) + path, **options)
        node = self.names.get(answer.headers.get("X-Served-By", ""), "?")
        check(answer.ok, f"{path} is refused by {node}: HTTP {answer.status_code} {answer.reason}")
        return node, answer

    def rpc(self, sid: str, path: str, params: Any, url: str = "") -> tuple[str, Any]:
        """Who served a JSON route, and its result; None if the session is not known there."""
        node, answer = self.request(path, sid, url, json={"jsonrpc": "2.0", "params": params})
        error = answer.json().get("error")
        check(not error or error["code"] == 100, f"{path}: {error}")  # 100: session expired
        return node, answer.json().get("result")

    def uid(self, sid: str, url: str = "") -> tuple[str, int | None]:
        """Who served a cookie, and for which user."""
        node, info = self.rpc(sid, "/web/session/get_session_info", {}, url)
        return node, info and info["uid"]

    def log_in(self) -> tuple[str, str]:
        """Send the login form; who took it, and the cookie that came back."""
        page = self.request("/web/login")[1]
        token = page.text.partition('name="csrf_token" value="')[2].partition('"')[0]
        form = {"login": LOGIN, "password": PASSWORD, "csrf_token": token}
        node, answer = self.request("/web/login", page.cookies.get("session_id"), data=form)
        check(answer.status_code == 303, f"{node} does not take the login and password")
        return node, answer.cookies["session_id"]

    def notify(self, sid: str, text: str) -> str:
        """Notify the cookie's user on the bus, by a server action; who did it."""

        def call(model: str, method: str, argument: object) -> tuple[str, Any]:
            params = {"model": model, "method": method, "args": [argument], "kwargs": {}}
            return self.rpc(sid, "/web/dataset/call_kw", params)

        model = call("ir.model", "search", [("model", "=", "res.users")])[1]
        code = f"env['bus.bus']._sendone(env.user.partner_id, 'demo', {text!r})"
        action = {"name": "demo", "model_id": model[0], "state": "code", "code": code}
        return call("ir.actions.server", "run", call("ir.actions.server", "create", [action])[1])[0]

    @contextlib.contextmanager
    def websocket(self, sid: str) -> Iterator[Callable[[], str]]:
        """A subscribed websocket: what receives its next notification, or how it is closed."""
        import websocket

        options: Any = {"cookie": f"session_id={sid}", "origin": self.nginx.url}
        address = "127.0.0.1", self.nginx.port
        options["socket"] = socket.create_connection(address, PATIENCE)  # past any proxy
        url = f"{self.nginx.url.replace('http', 'ws')}/websocket"
        client = websocket.create_connection(url, **options)

        def receive() -> str:
            opcode, data = client.recv_data()
            if opcode == websocket.ABNF.OPCODE_CLOSE:
                return f"close {int.from_bytes(data[:2], 'big')}"
            return str(json.loads(data)[0]["message"]["payload"])

        last = int(self.postgres.sql(DATABASE, "SELECT coalesce(max(id), 0) FROM bus_bus"))
        subscribe = {"event_name": "subscribe", "data": {"channels": [], "last": last}}
        listening = (
            "SELECT 1 FROM pg_stat_activity WHERE datname = 'postgres' AND state = 'idle'"
            f" AND application_name = 'odoo-{self.evented.pid}' AND query ILIKE 'commit%'"
        )
        with contextlib.closing(client):
            client.send(json.dumps(subscribe))  # the first one makes it listen to PostgreSQL
            any(self.postgres.sql("postgres", listening) for _ in range(200))  # at most 10 s
            yield receive


def show(demo: Demo) -> None:
    """Show each claim; raises ClaimError at the first that does not hold."""
    print()
    row("what is done", "served by", "result")
    with claim("1. A login made on one node holds on the other"):
        maker, sid = demo.log_in()
        row("log in with the password", maker)
        ask_often(demo, sid, "A", "B")
    with claim("2. A websocket gets what another process notifies"), demo.websocket(sid) as receive:
        row("open, subscribe", "evented")
        row("send a notification", demo.notify(sid, "hello"))
        received = receive()
        row("receive it", "evented", received, received == "hello")
    with claim(f"3. Node {maker}, which took the login, is killed: nobody is logged out"):
        demo.nodes[maker].kill()
        row("kill -9", maker)
        ask_often(demo, sid, OTHER[maker])
        demo.nodes[maker].start()
        # nginx leaves a node that failed alone for a second.
        servers.until(lambda: demo.uid(sid)[0] == maker, f"a request to {maker}", PATIENCE)
        row("start again", maker)
        ask_often(demo, sid, "A", "B")
    with claim("4. A logout on one node ends the session everywhere"):
        second = show_logout(demo, sid)
    with claim(f"5. The cache: the new workers of {maker} found what others had computed"):
        show_cache(demo, maker)
    with claim("6. Redis: everything expires, nothing is searched for"):
        show_redis(demo, ended=sid, alive=second)


def ask_often(demo: Demo, sid: str, *nodes: str) -> None:
    """Six requests with one cookie: served by all of `nodes` and no other, always for one user."""
    served, users = zip(*(demo.uid(sid) for _ in range(6)), strict=True)
    result = "uid " + " ".join(str(user or "-") for user in users)
    holds = set(served) == set(nodes) and all(users) and len(set(users)) == 1
    row("6 requests, same cookie", " ".join(served), result, holds)


def show_logout(demo: Demo, sid: str) -> str:
    """End a session; the cookie of another one of the same user, which goes on."""
    node, second = demo.log_in()
    row("log in from another browser", node)
    with demo.websocket(sid) as receive:
        node = demo.request("/web/session/logout", sid)[0]
        row("log out the first browser", node)
        user = demo.uid(sid, demo.nodes[OTHER[node]].url)[1]
        row("its old cookie", OTHER[node], f"uid {user}" if user else "session expired", not user)
        demo.notify(second, "after")
        received = receive()
        row("its websocket, when notified", "evented", received, received == SESSION_EXPIRED)
    node, user = demo.uid(second)
    row("the other browser", node, f"uid {user}", user)
    return second


def show_cache(demo: Demo, name: str) -> None:
    """What the workers of a node, started when others were warm, log at SIGUSR1."""
    node = demo.nodes[name]
    for pid in Path(f"/proc/{node.pid}/task/{node.pid}/children").read_text().split():
        os.kill(int(pid), signal.SIGUSR1)
    found: list[tuple[int, float]] = []
    deadline = time.monotonic() + 10
    while not found and time.monotonic() < deadline:
        time.sleep(0.5)
        statistics = node.log.read_text().partition("Shared cache stats:")[2]
        lines = re.findall(r"^ *\d+, *(\d+), *([\d.]+),(?: *[\d.]+,){6}  odoo", statistics, re.M)
        found = [(int(values), float(seconds)) for values, seconds in lines]
    values, seconds = sum(n for n, _ in found), sum(s for _, s in found)
    row("values taken from Redis", name, str(values), values)
    row("time to compute, saved", name, f"{seconds:.2f} s", seconds)


def show_redis(demo: Demo, ended: str, alive: str) -> None:
    statistics = demo.redis.cli("INFO", "commandstats")  # before this function's own commands
    calls = {name: int(n) for name, n in re.findall(r"cmdstat_(\w+):calls=(\d+)", statistics)}
    counts = [calls.get(name, 0) for name in ("hget", "evalsha", "eval")]
    scripts = int(demo.redis.cli("INFO", "memory").partition("cached_scripts:")[2].split()[0])
    ttls = {key: int(demo.redis.cli("TTL", key)) for key in demo.redis.cli("KEYS", "*").split()}
    present = [any(sid[:42] in key for key in ttls) for sid in (alive, ended)]
    row("keys", "", f"{len(ttls)}, the ended session's not among them", present == [True, False])
    row("the shortest TTL", "", f"{min(ttls.values())} s", min(ttls.values()) > 0)
    row("HGET, EVALSHA", "", f"{counts[0]}, {counts[1]}")
    processes = 2 * len(demo.nodes) + 2  # each may be the first to run it
    few = counts[2] <= scripts * processes
    row("EVAL, to load a script", "", f"{counts[2]} for {scripts} scripts", few)
    refused = sorted(REFUSED & set(calls))
    row("SCAN, KEYS, FLUSH...", "", ", ".join(refused) or "none", not refused)


def check(holds: object, otherwise: str) -> None:
    if not holds:
        raise ClaimError(otherwise)


def row(what: str, node: str, result: str = "done", holds: object = True) -> None:
    """Show a step, who served it and what came of it; stop if that is not as claimed."""
    print(f"   {what:32}{node:14}{result}")
    check(holds, f"{what}: {node} {result}")


@contextlib.contextmanager
def claim(title: str) -> Iterator[None]:
    """Show the claim, and name it in whatever fails inside."""
    print(f"\n{title}")
    try:
        yield
    except Exception as error:
        reason = f"{str(error) or repr(error)}\n    Logs: {FOLDER}/*/*.log"
        raise ClaimError(f"FAILED: {title}\n    {reason}") from error


@contextlib.contextmanager
def step(title: str) -> Iterator[None]:
    print(f"{title} ...")
    start = time.monotonic()
    yield
    print(f"    {time.monotonic() - start:.0f} s")


def main() -> None:
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("dev/demo", description=__doc__, formatter_class=form)
    parser.add_argument("--check", action="store_true", help="stop when everything was shown")
    parser.add_argument("--port", type=int, help="nginx's port (8069, or a free one)")
    arguments = parser.parse_args()
    if arguments.port and listens(arguments.port):
        parser.error(f"port {arguments.port} is not free")
    port = arguments.port or (servers.free_port() if listens(8069) else 8069)
    for number in SIGNALS:
        signal.signal(number, signal.default_int_handler)
    shown = False
    try:
        environment.setup()
        with Demo(port) as demo:
            show(demo)
            shown = True
            print("\nAll claims hold.")
            if not arguments.check:
                print(f"Open {demo.nginx.url}, login {LOGIN}, password {PASSWORD}; Ctrl-C stops.")
                signal.pause()
    except BlockingIOError:
        sys.exit(f"dev/demo: another one is at work in {FOLDER}")
    except (ClaimError, servers.ServerError, SetupError) as error:
        sys.exit(f"\ndev/demo: {error}")
    except KeyboardInterrupt:
        sys.exit(0 if shown else 130)


if __name__ == "__main__":
    main()
