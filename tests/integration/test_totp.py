"""Two-factor authentication to its end: on two nodes all is as on one stock node."""

import base64
import time

import pytest
from odoo.http import STORED_SESSION_BYTES

from odoo.addons.redis_session_ormcache.tests.support.visitor import (
    STOCK,
    Visitor,
    compare,
    files_of,
)

KEY = b"12345678901234567890"
SECRET = base64.b32encode(KEY).decode()
ENABLE = f"UPDATE res_users SET totp_secret = '{SECRET}' WHERE id = 2"
FORGET = "UPDATE res_users SET totp_last_counter = NULL WHERE id = 2"  # when a code was used last
LOGIN, CODE = "/web/login", "/web/login/totp"


class User(Visitor):
    """The administrator's browser; he has an authenticator."""

    def __init__(self, nodes, store, postgres, database):
        super().__init__(nodes, store, database)
        self.postgres, self.password = postgres, "admin"

    def sql(self, query):
        return self.postgres.sql(self.database, query)

    def give_password(self):
        """The first step of a login; whether the second one wants a code."""
        self.ask(LOGIN, form={"login": "admin", "password": self.password})
        assert self.seen[-1]["location"].startswith(CODE)
        return self.ask(CODE).status_code == 200

    def give_code(self, wrong=0, remember=False):
        """The second step of a login; where it leads, None if nowhere."""
        from odoo.addons.auth_totp.models.totp import hotp

        code = (hotp(KEY, int(time.time() / 30)) + wrong) % 10**6
        self.sql(FORGET) if not wrong else None
        form = {"totp_token": f"{code:06}"} | ({"remember": "1"} if remember else {})
        return self.ask(CODE, form=form).headers.get("Location")

    def log_out(self):
        self.ask("/web/session/logout")
        assert self.info() is None

    def call(self, model, method, *args, **kwargs):
        call = {"model": model, "method": method, "args": args, "kwargs": kwargs}
        return self.ask("/web/dataset/call_kw", call=call).json()

    def confirmed(self, model, method, *args):
        """A call that asks for the password before it is made."""
        result = self.call(model, method, *args)["result"]
        if isinstance(result, dict) and result.get("res_model") == "res.users.identitycheck":
            check = [result["res_id"]]
            self.call("res.users.identitycheck", "write", check, {"password": self.password})
            context = {"password": self.password}
            self.call("res.users.identitycheck", "run_check", check, context=context)


@pytest.fixture(scope="module")
def servers(make_node, redis, make_database, postgres):
    """A stock node and two of ours, each side with a database of its own."""
    made = []
    for load in ([STOCK], [None, None]):
        database = make_database()
        postgres.sql(database, ENABLE)
        options = [{"load": name} if name else {} for name in load]
        made.append((database, [make_node(redis, database=database, **o) for o in options]))
    return made


@pytest.fixture
def users(servers, make_store, redis, postgres):
    (there, stock), (here, ours) = servers
    store = make_store(redis, prefix="odoo")
    return User(stock, files_of(stock[0]), postgres, there), User(ours, store, postgres, here)


def test_a_trusted_device_needs_no_code(users):
    """On any node, until it is revoked; a login without its code is none, on any node."""

    def act(user):
        assert user.give_password()
        half = user.sid
        assert user.info() is None
        user.ask("/odoo")
        assert user.give_code(wrong=1) is None
        assert user.ask(CODE, form={"totp_token": "not a code"}).status_code == 200
        user.ask("/odoo")
        assert user.give_code(remember=True) == "/odoo"
        assert user.info()[0] == 2
        assert user.give_code() == "/odoo"  # is there already
        whole, user.cookies["session_id"] = user.sid, half
        assert user.ask(CODE).headers["Location"] == LOGIN  # the sid changed with the login
        user.cookies["session_id"] = whole
        user.log_out()

        for _time in range(2):
            assert not user.give_password()
            assert user.info()[0] == 2
            user.log_out()
        trusted = user.cookies.pop("td_id")
        assert user.give_password()
        user.cookies["td_id"] = trusted[:-1] + "x"
        assert user.ask(CODE).status_code == 200
        user.cookies["td_id"] = trusted
        assert not user.give_password()

        user.confirmed("res.users", "revoke_all_devices", [2])
        assert user.info()[0] == 2
        user.log_out()
        assert user.give_password()
        assert user.give_code() == "/odoo"

    compare(act, *users)


def test_a_login_that_waits_for_its_code_may_end(users, raw):
    """Then the code is worth nothing, wherever it comes; and it has an expiry like others."""

    def act(user):
        user.give_password()
        user.store.delete(user.store.get(user.sid))
        assert user.ask(CODE).headers["Location"] == LOGIN
        assert user.give_code() == LOGIN
        assert user.info() is None
        user.give_password()

    compare(act, *users)
    key = f"odoo:session:{users[1].sid[:STORED_SESSION_BYTES]}"
    assert 0 < raw.ttl(key) <= 604800


def test_another_password_ends_the_trust(users):
    """And all sessions of the user, on any node, as it does on stock."""
    others = [User(user.nodes, user.store, user.postgres, user.database) for user in users]

    def act(user):
        other = others[users.index(user)]
        for one in (user, other):
            one.give_password()
            assert one.give_code(remember=True) == "/odoo"
        assert user.call("res.users", "change_password", "admin", "other")["result"] is True
        for one in (user, other):
            assert [one.info(), one.info()] == [None, None]
            one.password = "other"
            one.ask(LOGIN)  # the first page's CSRF token is of the sid that ends with it
            assert one.give_password()
        assert other.give_code() == "/odoo"

    compare(act, *users)
    compare(lambda _user: None, *others)
