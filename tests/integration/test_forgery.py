"""No content of a session is believed that no server sealed.

The attacker of these tests reads and writes all of Redis and knows this source code. He has cookies
of his own, so he knows which sids he presents. He is the administrator of another database of the
same PostgreSQL server, so he knows that one's ``database.secret``. He knows no secret of the
database that he attacks, and none of the nodes.
"""

import json
import os
import re
import socket
import time
from hashlib import blake2b
from typing import Any, NamedTuple

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from odoo.addons.redis_session_ormcache.codec import session as codec
from odoo.addons.redis_session_ormcache.keys import session_place
from odoo.addons.redis_session_ormcache.tests.conftest import SET_TIMEOUT
from odoo.addons.redis_session_ormcache.tests.support.browser import Browser
from stack.provision import environment
from stack.servers import LOAD, start_all, until

SECRET = "SELECT value FROM ir_config_parameter WHERE key = 'database.secret'"
CUSTOMER, PRODUCT = "Victoria Victim", "Very Private Present"


# -- forging ---------------------------------------------------------------------------------------


class Way(NamedTuple):
    """How a record is forged.

    :param secret: whether it is sealed under the secret of the attacker's own database; without
        any secret otherwise
    :param line: the database that the clear line names: ``OWN``, ``VICTIM``, None or a text
    :param content: the database that the content names
    :param version: instead of the format's version, in the clear line; "" for the format without
        one, whose key came from the sid alone
    """

    secret: bool
    line: str | None
    content: str | None
    version: str | None = None


OWN, VICTIM = "<the attacker's own database>", "<the database that is attacked>"
WAYS = {
    "by the sid alone": Way(False, VICTIM, VICTIM),
    "by the sid alone, of no database": Way(False, None, None),
    "by the sid alone, no database in the line": Way(False, None, VICTIM),
    "by the sid alone, no database in the content": Way(False, VICTIM, None),
    "under another secret": Way(True, VICTIM, VICTIM),
    "under another secret, its database in the line": Way(True, OWN, VICTIM),
    "under another secret, its database in the line, none in the content": Way(True, OWN, None),
    "under another secret, its database in the content": Way(True, VICTIM, OWN),
    "under another secret, of no database": Way(True, None, None),
    "of a missing database": Way(False, "missing_database", VICTIM),
    "of a system database": Way(False, "postgres", VICTIM),
    "of an empty name": Way(False, "", VICTIM),
    "of a very long name": Way(False, "x" * 100_000, VICTIM),
    "of a name with quotes": Way(False, "x' OR 1=1 --\" dbname=postgres", VICTIM),
    "of a name with a NUL": Way(False, "post\0gres", VICTIM),
    "of a path": Way(False, "../../etc/passwd", VICTIM),
    "of an older version": Way(False, VICTIM, VICTIM, "0"),
    "of a newer version": Way(False, VICTIM, VICTIM, "9999"),
    "of a format without versions": Way(False, VICTIM, VICTIM, ""),
    "of a format without versions, of no database": Way(False, None, None, ""),
}


def seal(sid: str, data: dict[str, Any], *, secret: str | None, line: str | None) -> bytes:
    """A record as the addon writes it: all that these tests know of the format.

    :param secret: the ``database.secret`` it is sealed under; None: an empty one
    :param line: the database that the clear line names
    """
    with pytest.MonkeyPatch.context() as forger:
        forger.setattr(codec, "database_of", lambda _data: line)
        place = session_place("odoo", sid)
        return codec.seal(place, secret or "", data, seen=time.time(), ttl=604800)


def seal_without_version(sid: str, data: dict[str, Any], *, line: str | None) -> bytes:
    """A record as the addon wrote it when the key came from the sid alone."""
    place = session_place("odoo", sid)
    digest = blake2b(sid.encode(), digest_size=48, person=b"odoo session").digest()
    state = "superseded" if "next_sid" in data else "live"
    uid = data.get("uid") or "-"
    header = f"{state} {int(time.time() * 1000)} 604800 {uid} {json.dumps(line)}\n".encode()
    nonce, bound = os.urandom(12), place.key.encode() + b"\0" + header
    return header + nonce + AESGCM(digest[16:]).encrypt(nonce, json.dumps(data).encode(), bound)


class Attacker:
    """Reads and writes all of Redis.

    :param redis: a redis-py client
    :param own, victim: names of databases
    :param secret: of his own database
    """

    def __init__(self, redis: Any, own: str, victim: str, secret: str) -> None:
        self.redis, self.own, self.victim, self.secret = redis, own, victim, secret

    def forge(self, sid: str, data: dict[str, Any], way: Way) -> None:
        """Put a record under a sid of his own, with these keys and those of every session."""
        content, line = self._name(way.content), self._name(way.line)
        data, secret = session(content, **data), self.secret if way.secret else None
        if way.version == "":
            record = seal_without_version(sid, data, line=line)
        else:
            record = seal(sid, data, secret=secret, line=line)
        if way.version:
            record = re.sub(rb"^\S+", way.version.encode(), record)
        self.write(sid, record)

    def read(self, sid: str) -> bytes:
        """The record that is stored under a sid of his own."""
        place = session_place("odoo", sid)
        record: bytes = self.redis.hget(place.key, place.field)
        assert record
        return record

    def write(self, sid: str, record: bytes) -> None:
        """Store it, for ever."""
        place = session_place("odoo", sid)
        self.redis.delete(place.key)
        self.redis.hset(place.key, place.field, record)

    def _name(self, name: str | None) -> str | None:
        return {OWN: self.own, VICTIM: self.victim}.get(name or "", name)


def session(database: str | None, **values: Any) -> dict[str, Any]:
    """A session's content, with what every session has (``odoo.http.get_default_session``)."""
    default = {
        "context": {"lang": "en_US"}, "create_time": time.time(), "db": database, "debug": "",
        "login": None, "uid": None, "session_token": None, "_trace": [],
    }  # fmt: skip
    return {**default, **values}


class Key(NamedTuple):
    """A key of a session that a module of Odoo reads or writes.

    :param value: one that does harm, or at least can be recognised
    :param sight: the request that shows that it was believed, and how
    """

    name: str
    module: str
    value: Any
    sight: str


FAR = 4e9  # seconds since the epoch
# All of Odoo 19's; `db` is in each record, see `Way`.
KEYS = [
    # Identity. Odoo compares session_token with the user's, so a wrong uid ends the session.
    Key("uid", "base", 2, "POST /web/session/get_session_info; without its token logged out"),
    Key("login", "base", "admin", "POST /web/session/get_session_info"),
    Key("session_token", "base", "0" * 64, "logged out where it is another one"),
    Key("pre_uid", "auth_totp", 2, "GET /web/login/totp: the form of that user; mails a code"),
    Key("pre_login", "base", "admin", "the login that finalize() writes after a second factor"),
    Key("context", "base", {"lang": "en_US", "active_test": False, "website_id": 2},
        "any page of auth='public': its environment's context"),
    Key("debug", "web", "assets,tests", "GET /: bundles of assets for developers"),
    Key("create_time", "base", FAR, "no rotation, no lock_timeout of auth_timeout, ever"),
    Key("_trace", "base", [{"platform": "linux", "browser": "firefox", "ip_address": "127.0.0.1",
                           "first_activity": 0, "last_activity": FAR}],
        "GET /odoo: no line in res.device.log"),
    Key("_trace_disable", "base", True, "GET /odoo: the device is never logged"),
    Key("next_sid", "bus", "A" * 84, "a websocket goes on as that session"),
    Key("deletion_time", "base", 1, "logged out at once"),
    Key("gc_previous_sessions", "base", True, "any page: the family's other sids are deleted"),
    Key("identity-check-last", "base", FAR, "a new API key without the password"),
    Key("identity-check-next", "auth_timeout", FAR, "no check of identity after inactivity"),
    Key("identity-check-1fa", "auth_timeout", [FAR, "password"], "one factor where two are asked"),
    Key("webauthn_challenge", "auth_passkey", "AAAA", "POST /web/login: an old assertion again"),
    Key("auth_login", "web", "admin", "GET /web/login: the login that is filled in"),
    Key("auth_signup_token", "auth_signup", "AAAA", "GET /web/signup: name and mail of its owner"),
    Key("is_websocket_session", "bus", True, "POST /websocket/peek_notifications: HTTP 200"),
    # The profiler
    Key("profile_session", "base", "forged", "ir_profile has a line for each request"),
    Key("profile_expiration", "base", "9999-12-31", "the profiler does not end"),
    Key("profile_collectors", "base", ["sql"], "POST /web/session/get_session_info"),
    Key("profile_params", "base", {"entry_count_limit": 1}, "the same"),
    # The shop
    Key("sale_last_order_id", "website_sale", 1, "GET /shop/confirmation, /shop/print: any order"),
    Key("sale_order_id", "website_sale", 1, "GET /shop/cart, /shop/checkout: anybody's cart"),
    Key("sale_transaction_id", "website_sale", 1, "none: it is only written"),
    Key("__website_sale_last_tx_id", "website_sale", 1, "none: it is only written"),
    Key("website_sale_cart_quantity", "website_sale", 4711, "GET /shop: the number at the cart"),
    Key("website_sale_current_pl", "website_sale", 1, "GET /shop: prices of a list of others"),
    Key("website_sale_selected_pl_id", "website_sale", 1, "POST /shop/cart/add: the same"),
    Key("website_sale_pricelist_time", "website_sale", FAR, "GET /shop: that list stays"),
    Key("fiscal_position_id", "website_sale", 1, "GET /shop: no taxes"),
    Key("website_sale_shop_layout_mode", "website_sale", "list", "GET /shop: its layout"),
    Key("attribute_values", "website_sale", ["1-1"], "GET /shop/<product>: chosen attributes"),
    Key("affiliate_id", "website_sale", 2, "a cart's salesperson, where it is read"),
    Key("__payment_monitored_tx_id__", "payment", 1, "GET /payment/status: anybody's payment"),
    Key("pending_coupon_code", "website_sale_loyalty", "FORGED", "GET /shop/cart: it is tried"),
    Key("successful_code", "website_sale_loyalty", "FORGED", "GET /shop/cart: a notice"),
    Key("error_promo_code", "website_sale_loyalty", "forged", "GET /shop/cart: a text"),
    Key("wishlist_ids", "website_sale_wishlist", [1], "GET /shop/wishlist: anybody's; a "
        "login takes them"),
    Key("product_with_stock_notification_enabled", "website_sale_stock", [1],
        "GET /shop/<product>: a notice"),
    Key("stock_notification_email", "website_sale_stock", "x@example.com",
        "GET /shop/<product>: the address filled in"),
    # The website
    Key("force_website_id", "website", 1, "GET /: that website's page, whatever the host"),
    Key("views_unlock", "website", [1], "GET of a page with a password: without it"),
    Key("form_builder_model_model", "website", "res.users", "GET of a page that thanks for a form"),
    Key("form_builder_model", "website", "User", "none: it is only written"),
    Key("form_builder_id", "website", 2, "the record of form_builder_model_model that it shows"),
    Key("website_1_layout_mode", "website", "list", "GET /model/<page>: its layout"),
    Key("partner_id", "website_mail", 3, "POST /website_mail/is_follower: anybody's address"),
    Key("mass_mailing_email", "website_mass_mailing", "x@example.com",
        "POST /website_mass_mailing/is_subscriber: whether that address is subscribed"),
    Key("mass_mailing_mobile", "website_mass_mailing_sms", "+15550100", "the same of a number"),
    Key("posts_viewed", "website_blog", [1], "GET /blog/..: the visit is not counted"),
    Key("viewed_slides", "website_slides", {"1": 1}, "GET /slides/..: the visit is not counted"),
    Key("slide_answer_quiz", "website_slides", '{"1": [1]}', "GET /slides/..: answers given"),
    Key("validation_email_sent", "website_profile", True, "GET /profile/..: a notice"),
    Key("validation_email_done", "website_profile", True, "GET /profile/..: a notice"),
    Key("website_hr_recruitment_error", "website_hr_recruitment", {},
        "GET /jobs/apply/..: HTTP 200"),
    Key("website_hr_recruitment_default", "website_hr_recruitment", {"email_from": "x@example.com"},
        "GET /jobs/apply/..: what is filled in"),
    # The portal: where a record of this list is shown, links to the ones beside it
    Key("portal_counters", "portal", {"order_count": True}, "GET /my: sections that are shown"),
    *(
        Key(f"my_{what}_history", module, [1, 2, 3], f"GET /my/{what}/2: links to 1 and 3")
        for what, module in {
            "invoices": "account", "quotations": "sale", "orders": "sale", "rfqs": "purchase",
            "purchases": "purchase", "projects": "project", "tasks": "project",
            "project_tasks": "project",
        }.items()
    ),
    Key("view_quote_1", "sale", "2099-01-01", "GET /my/orders/1: that it was seen is not noted"),
]  # fmt: skip
# Forged apart from the others: they change what becomes of the record, or end the session.
APART = ({"next_sid", "deletion_time", "gc_previous_sessions"}, {"uid", "session_token"})


# -- servers ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def redis(module_redis):
    return module_redis


@pytest.fixture(scope="module")
def own(make_database, postgres):
    """The attacker's own database."""
    name = make_database()
    postgres.sql(name, SET_TIMEOUT.format(3))
    return name


@pytest.fixture(scope="module")
def make_probed(make_node, redis, shop):
    """A node, not started, that tells what a session holds."""
    path = f"{environment.addons_path()},{environment.CHECKOUT / 'dev/addons'}"
    load = f"{LOAD},redis_session_probe"

    def make(**config):
        config = {"addons_path": path, **config}
        return make_node(redis, database=shop, load=load, config=config, start=False)

    return make


@pytest.fixture(scope="module")
def nodes(make_probed, shop, own):
    """One node of the attacked database alone, and one of both, with default settings."""
    nodes = make_probed(), make_probed(db_name=f"{shop},{own}", dbfilter="")
    start_all(*nodes)
    return nodes


@pytest.fixture(params=["of one database", "of two databases"])
def node(request, nodes):
    return nodes[request.param == "of two databases"]


@pytest.fixture
def attacker(raw, own, shop, postgres):
    return Attacker(raw, own, shop, postgres.sql(own, SECRET))


@pytest.fixture
def browser(shop):
    return Browser(shop)


@pytest.fixture(scope="module")
def customer(nodes, shop):
    """A customer with an order and a cart: their ids and his."""
    admin = Browser(shop)
    assert admin.login(nodes[0])

    def create(model, **values):
        arguments = {"model": model, "method": "create", "args": [[values]], "kwargs": {}}
        return admin.call(nodes[0], "/web/dataset/call_kw", **arguments)[0]

    partner = create("res.partner", name=CUSTOMER, street="1 Secret Street", email="v@example.com")
    product = create("product.product", name=PRODUCT, sale_ok=True, website_published=True)
    line = [(0, 0, {"product_id": product, "product_uom_qty": 1})]
    common = {"partner_id": partner, "website_id": 1, "order_line": line}
    ids = {"order": create("sale.order", **common), "cart": create("sale.order", **common)}
    arguments = {"model": "sale.order", "method": "action_confirm", "args": [[ids["order"]]]}
    admin.call(nodes[0], "/web/dataset/call_kw", **arguments, kwargs={})
    return {**ids, "partner": partner, "product": product}


def anonymous(node):
    """A browser with a cookie of nobody's."""
    browser = Browser()
    response = browser.get(node, "/probe/session", params={"update": '{"mark": "genuine"}'})
    assert response.ok
    assert browser.sid
    return browser


def content(browser, node, **update):
    """The content of this browser's session by what a node answers; {} if that is HTTP 503."""
    options = {"params": {"update": json.dumps(update)}} if update else {}
    response = browser.get(node, "/probe/session", **options)
    assert response.status_code in (200, 503), response.text
    return response.json() if response.ok else {}


# -- forged content --------------------------------------------------------------------------------


@pytest.mark.parametrize("way", WAYS)
def test_no_key_is_believed(way, node, attacker):
    """Of what a forger writes under a sid of his own, a node believes no key; nor is it an error,
    or a reason to log what he wrote at length."""
    before = node.log.stat().st_size
    assert believed(node, attacker, WAYS[way]) == []
    with node.log.open(errors="replace") as log:
        log.seek(before)
        lines = log.read()
    assert "Traceback" not in lines
    assert sum(len(line) for line in lines.splitlines() if "redis_session" in line) < 20_000


def test_no_name_leads_to_another_server(nodes, attacker):
    """No node connects to an address that a record names as its database."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        where = f"127.0.0.1:{listener.getsockname()[1]}"
        for name in (f"postgresql://{where}/x", f"postgres://odoo:odoo@{where}/x", f"host={where}"):
            for node in nodes:
                assert believed(node, attacker, Way(True, name, VICTIM)) == []
                assert believed(node, attacker, Way(True, name, name)) == []
        with pytest.raises(BlockingIOError):
            listener.accept()


def believed(node, attacker, way):
    """The keys of `KEYS` that a node believes if they are forged in this way."""
    names = []
    together = {key.name for key in KEYS}.difference(*APART)
    for group in (together, *APART):
        keys = [key for key in KEYS if key.name in group]
        browser = anonymous(node)
        forged = {key.name: key.value for key in keys}
        attacker.forge(browser.sid, forged, way)
        seen = content(browser, node)
        names += [key.name for key in keys if seen.get(key.name) == key.value]
    return names


def test_the_forger_knows_the_format(nodes, attacker, shop, postgres):
    """With the right secret a forged record is believed, each key of it but a user with a
    wrong token: the forger of these tests fails for the want of that secret alone."""
    attacker.secret = postgres.sql(shop, SECRET)
    expected = {key.name for key in KEYS} - {"uid", "session_token"}
    assert set(believed(nodes[0], attacker, Way(True, VICTIM, VICTIM))) == expected
    assert "mark" in content(anonymous(nodes[0]), nodes[0])


SIGHTS = {
    "sale_last_order_id": ("order", "/shop/confirmation", CUSTOMER),
    "sale_order_id": ("cart", "/shop/cart", PRODUCT),
    "pre_uid": (None, "/web/login/totp", "totp_token"),
    "partner_id": ("partner", "/website_mail/is_follower", "v@example.com"),
}


@pytest.mark.parametrize("key", SIGHTS)
def test_a_forged_key_shows_nothing(key, nodes, attacker, customer):
    """An anonymous visitor who forges his own session sees no order, cart or address of another
    customer, and is not asked for an administrator's second factor."""
    what, path, secret = SIGHTS[key]
    value = customer[what] if what else 2
    for way in WAYS.values():
        browser = anonymous(nodes[0])
        attacker.forge(browser.sid, {key: value, "pre_login": "admin"}, way)
        if path.startswith("/website_mail"):
            response = browser.post(nodes[0], path, records={})
        else:
            response = browser.get(nodes[0], path)
        assert secret not in response.text
        assert response.status_code in (200, 303, 503)


def test_a_user_adds_nothing_to_his_session(nodes, attacker, browser, shop):
    """A key that a user adds to his own session, all of which he knows, is not believed."""
    assert browser.login(nodes[0])
    data = content(browser, nodes[0])
    assert data.pop("db") == shop
    for way in WAYS.values():
        attacker.forge(browser.sid, {**data, "sale_last_order_id": 1}, way)
        for node in nodes:
            assert "sale_last_order_id" not in content(browser, node)


def test_the_administrator_of_a_database_stays_in_it(nodes, attacker):
    """A record that the attacker may well seal, since it is of his own database, is nothing to a
    node that does not serve that; Odoo lets ``debug`` outlive a session that ends."""
    assert set(believed(nodes[0], attacker, Way(True, OWN, OWN))) <= {"debug"}


def test_a_record_opens_nowhere_else(nodes, attacker):
    """A genuine record that is moved to another sid of the same owner is refused there."""
    one, other = anonymous(nodes[0]), anonymous(nodes[0])
    assert content(one, nodes[0], mark="moved")["mark"] == "moved"
    attacker.write(other.sid, attacker.read(one.sid))
    assert [content(other, node).get("mark") for node in nodes] == [None, None]


# -- an old record again ---------------------------------------------------------------------------


def test_how_long_an_old_record_can_be_put_back(nodes, attacker, own):
    """An old record of the same sid is believed again, also after a logout; but not once it was
    idle for longer than its own timeout, which a writer to Redis cannot change."""
    browser = Browser(own)
    assert browser.login(nodes[1])
    content(browser, nodes[1], mark=1)
    old, sid, began = attacker.read(browser.sid), browser.sid, time.monotonic()
    content(browser, nodes[1], mark=2)
    attacker.write(sid, old)
    assert content(browser, nodes[1])["mark"] == 1
    browser.call(nodes[1], "/web/session/destroy")
    attacker.write(sid, old)
    browser.sid = sid
    seen = content(browser, nodes[1])
    assert seen.get("mark") == 1 or time.monotonic() - began > 2.9
    time.sleep(max(0.0, began + 3.3 - time.monotonic()))
    attacker.write(sid, old)
    browser.sid = sid
    assert "mark" not in content(browser, nodes[1])
    later = re.sub(rb"\d{13}", str(int(time.time() * 1000)).encode(), old, count=1)
    assert later != old
    attacker.write(sid, later)
    browser.sid = sid
    assert "mark" not in content(browser, nodes[1])


# -- genuine records -------------------------------------------------------------------------------


def test_a_cart_survives_a_change_of_node(nodes, customer, shop):
    """The cart of a visitor who did not log in is the same on a node that serves two databases."""
    browser = Browser(shop)
    assert browser.get(nodes[0], "/shop").status_code == 200
    product = {"product_template_id": template(nodes[0], shop, customer["product"])}
    browser.call(nodes[0], "/shop/cart/add", product_id=customer["product"], quantity=2, **product)
    for node in nodes[::-1]:
        assert PRODUCT in browser.get(node, "/shop/cart").text
        assert content(browser, node)["website_sale_cart_quantity"] == 2


def template(node, database, product):
    """The id of a product's template."""
    admin = Browser(database)
    admin.login(node)
    arguments = {"model": "product.product", "method": "read", "args": [[product]]}
    fields = {"fields": ["product_tmpl_id"]}
    (values,) = admin.call(node, "/web/dataset/call_kw", **arguments, kwargs=fields)
    return values["product_tmpl_id"][0]


def test_a_new_record_is_neither_lost_nor_overwritten(node, attacker, browser):
    """A record of a newer format is answered with HTTP 503 and left as it is; the session goes on
    once it can be read."""
    assert browser.login(node)
    known = attacker.read(browser.sid)
    version = re.match(rb"\D{0,2}(\d+) ", known)
    assert version, f"no version in {known[:30]!r}"
    newer = known.replace(version[1], b"%d" % (int(version[1]) + 1), 1)
    place = session_place("odoo", browser.sid)
    attacker.redis.hset(place.key, place.field, newer)
    for path in ("/probe/session", "/probe/session?update={}", "/web/login?debug=1"):
        response = browser.get(node, path)
        assert response.status_code == 503
        assert "Set-Cookie" not in response.headers
    assert browser.post(node, "/web/session/check").status_code == 503
    assert attacker.read(browser.sid) == newer
    attacker.redis.hset(place.key, place.field, known)
    assert browser.is_logged_in(node)


def test_sessions_without_a_database_are_shared_by_a_secret(nodes, make_probed, shop, own):
    """Nodes with the same setting, or else the same hashed master password, read each other's
    sessions of no database; one that has neither asks for the setting, and reads none of them."""
    both = {"db_name": f"{shop},{own}", "dbfilter": ""}
    hashed = "$pbkdf2-sha512$600000$c2FsdHNhbHRzYWx0$" + "A" * 86
    groups = {
        "setting": [make_probed(**both, **extra) for extra in ({}, {"admin_passwd": hashed})],
        "password": [make_probed(**both, admin_passwd=hashed) for _node in range(2)],
        "nothing": [nodes[1]],
    }
    for node in groups["setting"]:
        node.env["ODOO_REDIS_SECRET"] = "correct horse battery staple, and more"
    start_all(*groups["setting"], *groups["password"])
    every = [node for group in groups.values() for node in group]
    for name, group in groups.items():
        browser = anonymous(group[0])
        assert content(browser, group[0])["db"] is None
        for node in every:
            assert ("mark" in content(browser, node)) == (node in group), name
        for node in group:
            asked = "ODOO_REDIS_SECRET" in node.log.read_text()
            assert asked == (name == "nothing"), name


def test_only_the_database_s_secret_ends_its_sessions(nodes, make_probed, browser, shop, postgres):
    """Another master password and another password of the database server log nobody out; another
    ``database.secret`` everybody, as in stock, who can log in again."""
    uid = browser.login(nodes[0])
    assert browser.uid(nodes[1]) == uid
    changed = make_probed(admin_passwd="another", db_password="another")
    changed.start()
    assert browser.uid(changed) == uid
    assert "ODOO_REDIS_SECRET" not in nodes[0].log.read_text()
    parameter = {"model": "ir.config_parameter", "method": "set_param"}
    arguments = {"args": ["database.secret", "another"], "kwargs": {}}
    browser.post(nodes[0], "/web/dataset/call_kw", **parameter, **arguments)
    assert postgres.sql(shop, SECRET) == "another"
    sid = browser.sid
    for node in (*nodes, changed):
        browser.sid = sid
        assert not browser.is_logged_in(node)
    again = Browser(shop)
    assert again.login(nodes[1]) == uid
    for node in (*nodes, changed):
        until(lambda node=node: again.uid(node) == uid, "the new session is known", 5)
