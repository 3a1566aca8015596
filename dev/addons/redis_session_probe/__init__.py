"""Loaded server-wide after the addon: each response says how long it waited for Redis."""

import functools
import json
import os
import re
import threading
import time

from odoo import http

WAIT = "X-Redis-Wait"  # seconds
MODEL = "res.partner.industry"  # anybody's

_request = threading.local()


class Probe(http.Controller):
    """What tests ask a session."""

    @http.route("/probe/count", type="http", auth="user", readonly=True)
    def count(self, value=None, seconds=0):
        """The user, and what was counted to; ``value`` is saved instead, after so many seconds."""
        session = http.request.session
        counted = session.get("probe_count", 0)
        time.sleep(float(seconds))
        if value:
            session["probe_count"] = int(value)
        return f"{http.request.env.uid} {counted}"

    @http.route("/probe/session", type="http", auth="none")
    def session(self, update="{}"):
        """The content of the session, as JSON, after it was updated."""
        http.request.session.update(json.loads(update))
        return json.dumps(dict(http.request.session))

    @http.route("/probe/change", type="http", auth="user")
    def change(self, value):
        """Have a rule, an access right and a view, which are cached, say a number."""
        number, env = int(value), http.request.env(su=True)
        for model, name, values in (
            ("ir.rule", "probe", {"domain_force": f"[('id', '!=', -{number})]"}),
            ("ir.model.access", "probe", {"perm_unlink": number % 2 == 1}),
            (
                "ir.ui.view",
                "probe",
                {"arch": f"<form string='{number}'><field name='name'/></form>"},
            ),
        ):
            record = env[model].search([("name", "=", name)])
            if not record:
                values |= {"name": name, **self._constant(env, model)}
            record.write(values) if record else env[model].create(values)
        return f"{http.request.env.uid} {number}"

    @http.route("/probe/cached", type="http", auth="user", readonly=True)
    def cached(self):
        """The user, and what the rule, the access right and the view say here."""
        env = http.request.env
        domain = env["ir.rule"]._compute_domain(MODEL, "read")
        rule = re.search(r"-(\d+)", repr(domain))
        access = env["ir.model.access"].check(MODEL, "unlink", raise_exception=False)
        view = env["ir.ui.view"].sudo().search([("name", "=", "probe")])
        arch = env[MODEL].get_view(view.id, "form")["arch"] if view else ""
        shown = re.search(r'string="(\d+)"', arch)
        return f"{env.uid} {rule[1] if rule else 0} {int(access)} {shown[1] if shown else 0}"

    @staticmethod
    def _constant(env, model):
        """What else a new record needs."""
        if model == "ir.ui.view":
            return {"model": MODEL, "type": "form"}
        constant = {"model_id": env["ir.model"]._get_id(MODEL)}
        if model == "ir.model.access":
            constant |= {"group_id": env.ref("base.group_user").id, "perm_read": True}
        return constant


def post_load() -> None:
    """Measure what the addon asks of Redis, and tell it with each response.

    ``PROBE_DELETION_TIMER`` is how many seconds an old sid is valid after a soft rotation.
    """
    http.SESSION_DELETION_TIMER = float(
        os.environ.get("PROBE_DELETION_TIMER", http.SESSION_DELETION_TIMER)
    )
    from odoo.addons.redis_session_ormcache.connection import RedisServer

    for name in ("execute", "execute_many"):
        setattr(RedisServer, name, _timed(getattr(RedisServer, name)))
    http.Application.__call__ = _telling(http.Application.__call__)


def _timed(original):
    @functools.wraps(original)
    def timed(*arguments):
        began = time.monotonic()
        try:
            return original(*arguments)
        finally:
            waited = getattr(_request, "waited", 0.0)
            _request.waited = waited + time.monotonic() - began

    return timed


def _telling(original):
    @functools.wraps(original)
    def call(self, environ, start_response):
        _request.waited = 0.0

        def start(status, headers, *rest):
            headers.append((WAIT, f"{_request.waited:.3f}"))
            return start_response(status, headers, *rest)

        return original(self, environ, start)

    return call
