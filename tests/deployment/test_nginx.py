"""What nginx does between browsers and nodes, which here only count or break off."""

import http.server
import socket
import ssl
import threading
from collections import Counter

import pytest
import requests

from stack.deployment import Balancer
from stack.servers.tls import Certificates


class Node(http.server.ThreadingHTTPServer):
    """Answers with what it was asked, or hangs up in the middle of a request."""

    daemon_threads = True

    def __init__(self):
        self.asked, self.breaks_off = Counter(), False
        super().__init__(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def address(self):
        return f"127.0.0.1:{self.server_port}"


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.asked[self.command] += 1
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.server.breaks_off:
            self.connection.shutdown(socket.SHUT_RDWR)
            return
        headers = "\n".join(f"{name}: {value}" for name, value in self.headers.items())
        self.send_response(200)
        self.send_header("Content-Length", str(len(headers)))
        self.end_headers()
        self.wfile.write(headers.encode())

    do_POST = do_GET

    def log_message(self, *_words):
        """Nothing."""


@pytest.fixture
def nodes():
    made = [Node(), Node()]
    yield made
    for node in made:
        node.shutdown()


@pytest.fixture
def make(tmp_path, nodes):
    """nginx before the nodes."""
    started = []

    def make(**options):
        one, other = (node.address for node in nodes)
        addresses = {"10.0.0.11:8069": one, "10.0.0.12:8069": other}
        addresses |= {"10.0.0.11:8072": one, "10.0.0.12:8072": other}
        certificates = Certificates(tmp_path / "tls")
        started.append(Balancer(tmp_path / "nginx", addresses, certificates, **options).start())
        return started[-1]

    yield make
    for nginx in started:
        nginx.stop()


def ask(nginx, method="GET", path="/odoo", **options):
    with requests.Session() as http:
        http.trust_env, http.verify = False, nginx.authority
        return http.request(method, nginx.url + path, timeout=20, allow_redirects=False, **options)


def test_requests_go_round(make, nodes):
    """Each node gets as many."""
    nginx = make()
    for _ in range(20):
        assert ask(nginx).status_code == 200
    assert [node.asked["GET"] for node in nodes] == [10, 10]


def test_an_office_behind_one_address_has_one_node_with_ip_hash(make, nodes):
    """All of its requests go there."""
    nginx = make(upstreams="upstreams-ip_hash.conf")
    for _ in range(20):
        assert ask(nginx).status_code == 200
    assert sorted(node.asked["GET"] for node in nodes) == [0, 20]


def test_a_write_is_never_repeated(make, nodes):
    """A node that hangs up may have carried it out; a read is asked of the next node."""
    nginx = make()
    nodes[0].breaks_off = True
    for _ in range(6):
        assert ask(nginx).status_code == 200
    nodes[1].breaks_off = True
    assert ask(nginx, "POST", data="name=value").status_code == 502
    assert sum(node.asked["POST"] for node in nodes) == 1


def test_a_write_goes_on_where_a_node_takes_no_connection(make, nodes):
    """Nothing of it was sent there."""
    nginx = make()
    nodes[0].shutdown()
    nodes[0].server_close()
    for _ in range(6):
        assert ask(nginx, "POST", data="name=value").status_code == 200
    assert nodes[1].asked["POST"] == 6


def test_logins_are_limited_and_pages_are_not(make):
    """Of one address: some at once, then one a second."""
    nginx = make()
    answers = Counter(ask(nginx, "POST", "/web/login", data="x").status_code for _ in range(40))
    assert answers[429] >= 10
    assert answers[200] >= 20
    assert {ask(nginx, path="/web/login").status_code for _ in range(40)} == {200}


def test_calls_of_programs_are_limited(make):
    nginx = make()
    with requests.Session() as http:
        http.trust_env, http.verify = False, nginx.authority
        answers = Counter(
            http.post(f"{nginx.url}/jsonrpc", data="{}").status_code for _ in range(150)
        )
    assert answers[429] >= 10
    assert answers[200] >= 40


def test_a_node_is_told_who_asks(make):
    """With what Odoo's proxy mode reads; a browser cannot say otherwise."""
    nginx = make()
    forged = {
        "X-Forwarded-Host": "evil.example",
        "X-Forwarded-Proto": "http",
        "X-Real-IP": "6.6.6.6",
    }
    told = dict(line.split(": ", 1) for line in ask(nginx, headers=forged).text.splitlines())
    assert told["X-Forwarded-Host"] == told["Host"] == f"localhost:{nginx.port}"
    assert told["X-Forwarded-Proto"] == "https"
    assert told["X-Real-IP"] == told["X-Forwarded-For"] == "127.0.0.1"


def test_databases_are_managed_elsewhere(make, nodes):
    """No node is asked."""
    nginx = make()
    for path in ("/web/database/manager", "/web/database/list", "/web/database/backup"):
        assert ask(nginx, path=path).status_code == 404
    assert not any(node.asked for node in nodes)


def test_old_tls_and_other_names_are_refused(make):
    """In the handshake."""
    nginx = make()

    def shake(name, version=ssl.TLSVersion.TLSv1_3):
        context = ssl.create_default_context(cafile=nginx.authority)
        context.check_hostname = False
        context.minimum_version = ssl.TLSVersion.TLSv1
        context.maximum_version = version
        context.set_ciphers("ALL:@SECLEVEL=0")
        with socket.create_connection(("127.0.0.1", nginx.port)) as connection:
            with context.wrap_socket(connection, server_hostname=name) as secure:
                return secure.version()

    assert shake("localhost") == "TLSv1.3"
    assert shake("localhost", ssl.TLSVersion.TLSv1_2) == "TLSv1.2"
    for name, version in (
        ("localhost", ssl.TLSVersion.TLSv1_1),
        ("other.example.com", ssl.TLSVersion.TLSv1_3),
    ):
        with pytest.raises((ssl.SSLError, ConnectionError)):
            shake(name, version)
