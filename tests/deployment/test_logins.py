"""Ways to log in, each step on another node: what they keep meanwhile, all nodes find."""

import base64
import hashlib
import http.server
import itertools
import json
import os
import re
import struct
import threading
from urllib.parse import quote

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from odoo.addons.redis_session_ormcache.tests.support.browser import Browser
from stack.servers import init_database, start_all

SITE = "https://odoo.example.com"
MODULES = ["auth_oauth", "auth_passkey", "auth_signup", "auth_totp"]
TOKEN = "an access token"


@pytest.fixture(scope="module")
def database(postgres):
    name = f"test_logins_{os.getpid()}"
    postgres.dropdb(name)
    init_database(postgres, name, MODULES)
    values = {"web.base.url": SITE, "web.base.url.freeze": "True"}
    values |= {"auth_signup.invitation_scope": "b2c", "auth_signup.reset_password": "True"}
    for key, value in values.items():
        postgres.sql(
            name,
            f"INSERT INTO ir_config_parameter (key, value) VALUES ('{key}', '{value}')"
            f" ON CONFLICT (key) DO UPDATE SET value = '{value}'",
        )
    yield name
    postgres.dropdb(name)


@pytest.fixture(scope="module")
def nodes(make_node, module_redis, database):
    made = [make_node(module_redis, start=False) for _ in range(2)]
    start_all(*made)
    return made


@pytest.fixture
def turns(nodes):
    """The nodes in turn: each request goes to another one than the last."""
    return itertools.cycle(nodes)


@pytest.fixture
def browser(database):
    return Browser(database)


@pytest.fixture
def admin(nodes, database):
    found = Browser(database)
    found.login(nodes[0])
    return found


def call(admin, node, model, method, *args, **kwargs):
    params = {"model": model, "method": method, "args": args, "kwargs": kwargs}
    return admin.call(node, "/web/dataset/call_kw", **params)


def submit(browser, turns, path, **form):
    """Fill in a form that one node shows, and send it to the other."""
    page = browser.get(next(turns), path)
    assert page.status_code == 200, page.text[:300]
    token = re.search(r'name="csrf_token" value="(\w+)"', page.text)[1]
    answer = browser.http.post(
        next(turns).url + path,
        data={"csrf_token": token, **form},
        allow_redirects=False,
        timeout=30,
    )
    assert answer.status_code in (200, 303), answer.text[:300]
    return answer


def test_a_new_user_signs_up(turns, browser, nodes):
    """The form is from one node, its answer goes to the other; he is logged in on both."""
    form = {"login": "new@example.com", "name": "New", "password": "long enough"}
    submit(browser, turns, "/web/signup", confirm_password="long enough", **form)
    assert browser.uid(nodes[0]) == browser.uid(nodes[1])
    assert browser.uid(nodes[0])


def test_a_password_is_reset(turns, browser, nodes, admin, make_worker, module_redis, database):
    """The link that one node makes is good on the other."""
    values = {"name": "Forgetful", "login": "forgetful@example.com", "password": "the first one"}
    user = call(admin, nodes[0], "res.users", "create", values)
    worker = make_worker(module_redis, database)
    token = worker.run(
        f"partner = env['res.users'].browse({user}).partner_id\n"
        "partner.signup_prepare(signup_type='reset')\n"
        "env.cr.commit()\n"
        "result = partner._generate_signup_token()"
    )
    passwords = {"password": "the second one", "confirm_password": "the second one"}
    path = f"/web/reset_password?token={quote(token)}"
    answer = submit(
        browser, turns, path, token=token, name="Forgetful", login=values["login"], **passwords
    )
    assert "reset successfully" in answer.text, answer.text[:2000]
    for node in nodes:
        assert Browser(browser.database).login(node, values["login"], "the second one") == user


@pytest.fixture
def provider(nodes, admin):
    """A provider of OAuth, which says whose a token is."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            body = {"sub": "4711", "email": "oauth@example.com", "name": "OAuth"}
            data = json.dumps(
                body if quote(TOKEN) in self.path.replace("+", "%20") else {"error": "no"}
            )
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(data.encode())

        def log_message(self, *_words):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}"
    values = {
        "name": "Test",
        "client_id": "me",
        "enabled": True,
        "body": "Log in",
        "scope": "openid",
    }
    endpoints = {"auth_endpoint": f"{url}/auth", "validation_endpoint": f"{url}/me"}
    yield call(admin, nodes[0], "auth.oauth.provider", "create", values | endpoints)
    server.shutdown()


def test_oauth_comes_back_to_another_node(turns, browser, nodes, provider):
    """What it has to remember is in the address."""
    page = browser.get(next(turns), "/web/login")
    link = next(
        link
        for link in re.findall(r'href="([^"]+/auth\?[^"]+)"', page.text)
        if "client_id=me" in link
    )
    state = re.search(r"state=([^&]+)", link.replace("&amp;", "&"))[1]
    answer = browser.get(
        next(turns), f"/auth_oauth/signin?access_token={quote(TOKEN)}&state={state}"
    )
    assert answer.status_code == 303, answer.text[:300]
    assert "oauth_error" not in answer.headers["Location"]
    assert browser.uid(nodes[0]) == browser.uid(nodes[1])
    assert browser.uid(nodes[0])


def encoded(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


class Passkey:
    """What an authenticator does."""

    def __init__(self):
        self.key, self.id = ec.generate_private_key(ec.SECP256R1()), os.urandom(16)

    @property
    def public(self):
        """In COSE."""
        import cbor2

        numbers = self.key.public_key().public_numbers()
        point = {-2: numbers.x.to_bytes(32, "big"), -3: numbers.y.to_bytes(32, "big")}
        return encoded(cbor2.dumps({1: 2, 3: -7, -1: 1, **point}))

    def answer(self, challenge):
        told = {"type": "webauthn.get", "challenge": challenge, "origin": SITE}
        client = json.dumps(told).encode()
        host = SITE.partition("//")[2].encode()
        data = hashlib.sha256(host).digest() + b"\x05" + struct.pack(">I", 1)
        signed = data + hashlib.sha256(client).digest()
        response = {
            "clientDataJSON": encoded(client),
            "authenticatorData": encoded(data),
            "signature": encoded(self.key.sign(signed, ec.ECDSA(hashes.SHA256()))),
        }
        return {"id": encoded(self.id), "rawId": encoded(self.id), "type": "public-key",
                "response": response}  # fmt: skip


def test_a_passkey_answers_to_another_node(turns, browser, nodes, postgres, database):
    """The challenge of one node is in the session, where the other finds it; it is good once."""
    passkey = Passkey()
    postgres.sql(
        database,
        "INSERT INTO auth_passkey_key (name, credential_identifier, public_key, sign_count,"
        f" create_uid) VALUES ('key', '{encoded(passkey.id)}', '{passkey.public}', 0, 2)",
    )
    page = browser.get(next(turns), "/web/login")
    token = re.search(r'name="csrf_token" value="(\w+)"', page.text)[1]
    challenge = browser.call(next(turns), "/auth/passkey/start-auth")["challenge"]
    answer = json.dumps(passkey.answer(challenge))
    form = {"csrf_token": token, "type": "webauthn", "webauthn_response": answer}
    form |= {"login": "", "password": ""}
    done = browser.http.post(
        next(turns).url + "/web/login", data=form, allow_redirects=False, timeout=30
    )
    assert done.status_code == 303, done.text[:2000]
    for node in nodes:
        assert browser.uid(node) == 2
