"""Ways to log in, each step on another node: what they keep meanwhile, all nodes find."""

import base64
import hashlib
import html
import http.server
import itertools
import json
import os
import re
import struct
import threading
from urllib.parse import parse_qs, quote, urlsplit

import pytest
import saml2.config
import saml2.metadata
import saml2.saml
import saml2.server
import trustme
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from jose import jwk, jwt

from odoo.addons.redis_session_ormcache.tests.support.browser import Browser
from odoo.addons.redis_session_ormcache.tests.support.field import field_addons, set_parameter
from stack.provision import environment
from stack.servers import init_database, install, start_all

SITE = "https://odoo.example.com"
MODULES = ["auth_oauth", "auth_passkey", "auth_signup", "auth_totp"]
OF_OTHERS = ["auth_oidc", "auth_saml"]
TOKEN = "an access token"


@pytest.fixture(scope="module")
def of_others():
    return field_addons("xmlsec1")


@pytest.fixture(scope="module")
def database(postgres, of_others):
    name = f"test_logins_{os.getpid()}"
    postgres.dropdb(name)
    init_database(postgres, name, MODULES)
    values = {"web.base.url": SITE, "web.base.url.freeze": "True"}
    values |= {"auth_signup.invitation_scope": "b2c", "auth_signup.reset_password": "True"}
    install(postgres, name, OF_OTHERS, of_others["config"], of_others["env"])
    for key, value in values.items():
        set_parameter(postgres, name, key, value)
    yield name
    postgres.dropdb(name)


@pytest.fixture(scope="module")
def nodes(make_node, module_redis, database, of_others):
    made = [make_node(module_redis, start=False, **of_others) for _ in range(2)]
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


def call(browser, node, model, method, *args, **kwargs):
    params = {"model": model, "method": method, "args": args, "kwargs": kwargs}
    return browser.call(node, "/web/dataset/call_kw", **params)


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
def serve():
    """Have an HTTP server of its own answer as `answer(path, body)` says; its URL."""
    servers = []

    def start(answer):
        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                data = json.dumps(answer(self.path, body.decode())).encode()
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.end_headers()
                self.wfile.write(data)

            do_POST = do_GET

            def log_message(self, *_words):
                pass

        servers.append(http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler))
        threading.Thread(target=servers[-1].serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{servers[-1].server_port}"

    yield start
    for server in servers:
        server.shutdown()


def link_of(page, client):
    """The address that the login page sends a browser to, for the provider that knows Odoo so."""
    links = [html.unescape(link) for link in re.findall(r'href="([^"]+)"', page.text)]
    return next(link for link in links if f"client_id={client}&" in f"{link}&")


def assert_logged_in(browser, nodes, answer, login):
    """On both nodes, as one user."""
    assert answer.status_code == 303, answer.text[:2000]
    assert "error" not in answer.headers["Location"]
    assert browser.uid(nodes[0])
    assert browser.uid(nodes[0]) == browser.uid(nodes[1])
    [user] = call(browser, nodes[0], "res.users", "read", [browser.uid(nodes[0])], ["login"])
    assert user["login"] == login


@pytest.fixture
def provider(nodes, admin, serve):
    """A provider of OAuth, which says whose a token is."""

    def answer(path, _body):
        if quote(TOKEN) in path.replace("+", "%20"):
            return {"sub": "4711", "email": "oauth@example.com", "name": "OAuth"}
        return {"error": "no"}

    url = serve(answer)
    values = {
        "name": "Test", "client_id": "oauth", "enabled": True, "body": "Log in", "scope": "openid",
        "auth_endpoint": f"{url}/auth", "validation_endpoint": f"{url}/me",
    }  # fmt: skip
    return call(admin, nodes[0], "auth.oauth.provider", "create", values)


@pytest.mark.usefixtures("provider")
def test_oauth_comes_back_to_another_node(turns, browser, nodes):
    """What it has to remember is in the address."""
    link = link_of(browser.get(next(turns), "/web/login"), "oauth")
    state = quote(parse_qs(urlsplit(link).query)["state"][0])
    path = f"/auth_oauth/signin?access_token={quote(TOKEN)}&state={state}"
    assert_logged_in(browser, nodes, browser.get(next(turns), path), "oauth@example.com")


@pytest.fixture
def openid_provider(nodes, admin, serve):
    """A provider of OpenID Connect, with the authorization code flow."""
    key = rsa.generate_private_key(65537, 2048)
    pem = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    ).decode()
    verifier = "a verifier"

    def answer(path, body):
        if path == "/keys":
            return {"keys": [{**jwk.construct(pem, "RS256").public_key().to_dict(), "kid": "1"}]}
        form = {name: values[0] for name, values in parse_qs(body).items()}
        assert (path, form["code"], form["code_verifier"]) == ("/token", "a code", verifier)
        claims = {"sub": "4712", "email": "oidc@example.com", "name": "OIDC", "aud": "oidc"}
        token = jwt.encode(claims, pem, "RS256", headers={"kid": "1"}, access_token=TOKEN)
        return {"access_token": TOKEN, "id_token": token}

    url = serve(answer)
    values = {
        "name": "OpenID Connect", "client_id": "oidc", "enabled": True, "body": "Log in",
        "scope": "openid email", "flow": "id_token_code", "auth_endpoint": f"{url}/auth",
        "token_endpoint": f"{url}/token", "jwks_uri": f"{url}/keys", "code_verifier": verifier,
    }  # fmt: skip
    return call(admin, nodes[0], "auth.oauth.provider", "create", values)


@pytest.mark.usefixtures("openid_provider")
def test_openid_connect_comes_back_to_another_node(turns, browser, nodes):
    """The code that the provider gives out is exchanged by the node that did not ask for it."""
    link = link_of(browser.get(next(turns), "/web/login"), "oidc")
    query = parse_qs(urlsplit(link).query)
    assert query["response_type"] == ["code"]
    assert query["nonce"]
    path = f"/auth_oauth/signin?code=a+code&state={quote(query['state'][0])}"
    assert_logged_in(browser, nodes, browser.get(next(turns), path), "oidc@example.com")


class IdentityProvider:
    """A provider of SAML 2."""

    def __init__(self, folder):
        self.authority, self.folder = trustme.CA(key_type=trustme.KeyType.RSA), folder
        self.files = {name: self._pair(name) for name in ("idp", "odoo")}

    def _pair(self, name):
        """Files: a certificate, and its key."""
        pair = self.authority.issue_cert(f"{name}.example.com", key_type=trustme.KeyType.RSA)
        certificate, key = self.folder / f"{name}.crt", self.folder / f"{name}.key"
        pair.cert_chain_pems[0].write_to_path(certificate)
        pair.private_key_pem.write_to_path(key)
        return certificate, key

    def server(self, *metadata):
        certificate, key = self.files["idp"]
        sign_on = ("https://idp.example.com/sso", saml2.BINDING_HTTP_REDIRECT)
        settings = {
            "entityid": "https://idp.example.com/metadata",
            "xmlsec_binary": str(environment.program_folder("xmlsec1") / "xmlsec1"),
            "service": {"idp": {"endpoints": {"single_sign_on_service": [sign_on]}}},
            "cert_file": str(certificate), "key_file": str(key),
            "metadata": {"inline": list(metadata)},
        }  # fmt: skip
        return saml2.server.Server(config=saml2.config.IdPConfig().load(settings))

    def metadata(self):
        return str(saml2.metadata.entity_descriptor(self.server().config))

    def answer(self, metadata, request, name):
        """Say that the one who comes with a request is `name`; in base64."""
        server = self.server(metadata)
        asked = server.parse_authn_request(request, saml2.BINDING_HTTP_REDIRECT).message
        who = saml2.saml.NameID(format=saml2.saml.NAMEID_FORMAT_UNSPECIFIED, text=name)
        response = server.create_authn_response(
            {}, name_id=who, userid=name, authn={"class_ref": saml2.saml.AUTHN_PASSWORD},
            sign_response=True, sign_assertion=True, **server.response_args(asked),
        )  # fmt: skip
        return base64.b64encode(str(response).encode()).decode()


def test_saml_comes_back_to_another_node(turns, browser, nodes, admin, tmp_path):
    """The identifier of the request that one node made is known to the other."""
    identity, name = IdentityProvider(tmp_path), "saml@example.com"
    certificate, key = (
        base64.b64encode(path.read_bytes()).decode() for path in identity.files["odoo"]
    )
    values = {
        "name": "SAML", "idp_metadata": identity.metadata(), "sig_alg": "SIG_RSA_SHA256",
        "sp_pem_public": certificate, "sp_pem_private": key, "sp_baseurl": SITE, "body": "Log in",
    }  # fmt: skip
    provider = call(admin, nodes[0], "auth.saml.provider", "create", values)
    user = call(admin, nodes[0], "res.users", "create", {"name": "SAML", "login": name})
    link = {"saml_ids": [[0, 0, {"saml_provider_id": provider, "saml_uid": name}]]}
    call(admin, nodes[0], "res.users", "write", [user], link)
    metadata = browser.get(
        next(turns), f"/auth_saml/metadata?p={provider}&d={browser.database}&valid=24"
    ).text
    asked = browser.get(next(turns), f"/auth_saml/get_auth_request?pid={provider}")
    assert asked.status_code == 303, asked.text[:2000]
    query = parse_qs(urlsplit(asked.headers["Location"]).query)
    answer = identity.answer(metadata, query["SAMLRequest"][0], name)
    form = {"SAMLResponse": answer, "RelayState": query["RelayState"][0]}
    done = browser.http.post(
        next(turns).url + "/auth_saml/signin", data=form, allow_redirects=False, timeout=30
    )
    assert_logged_in(browser, nodes, done, name)


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
