"""Loaded server-wide, on a stock node too: requests as slow and as faulty as tests want."""

import os
import sys
import threading
import time

import psycopg2
import werkzeug.exceptions
from odoo import http
from odoo.exceptions import AccessError

_failed: set[str] = set()


def post_load() -> None:
    """Let a superseded sid go after ``DELETION_TIMER`` seconds."""
    http.SESSION_DELETION_TIMER = float(os.environ.get("DELETION_TIMER", "120"))


class Probe(http.Controller):
    """Requests that tests make."""

    @http.route("/request/work", type="http", auth="user")
    def work(self, seconds="0", value=None, commit="0", rotate=None):
        """The user, and what is in the session; ``value`` is put there.

        :param seconds: which it takes
        :param commit: seconds that its commit takes
        :param rotate: whether its session is due for a rotation at its end
        """
        session = http.request.session
        found = session.get("probe")
        time.sleep(float(seconds))
        http.request.env.cr.precommit.add(lambda: time.sleep(float(commit)))
        if value is not None:
            session["probe"] = value
        if rotate:
            session["create_time"] -= http.SESSION_ROTATION_INTERVAL
        return f"{http.request.env.uid} {found}"

    @http.route("/request/not_saved", type="http", auth="user", save_session=False)
    def not_saved(self, seconds="0"):
        """The user; it is no activity."""
        time.sleep(float(seconds))
        return f"{http.request.env.uid}"

    @http.route("/request/end/<how>", type="http", auth="public")
    def end(self, how):
        """End in one of many ways."""
        return getattr(self, f"_end_{how}")()

    @http.route("/request/call/<how>", type="jsonrpc", auth="public")
    def call(self, how):
        """The same, of a call."""
        return getattr(self, f"_end_{how}")()

    @http.route("/request/at_work", type="http", auth="none", save_session=False)
    def at_work(self):
        """How many requests of this process are known to be at work, and threads for them."""
        application = sys.modules["odoo.addons.redis_session_ormcache.http_patch.application"]
        names = [thread.name for thread in threading.enumerate()]
        return f"{len(application.at_work)} {names.count('redis-at-work')}"

    def _end_well(self):
        return "well"

    def _end_error(self):
        raise ZeroDivisionError("of a request")

    def _end_denied(self):
        raise AccessError("of a request")

    def _end_abort(self):
        werkzeug.exceptions.abort(http.Response("aborted", status=418))

    def _end_missing(self):
        raise werkzeug.exceptions.NotFound

    def _end_expired(self):
        raise http.SessionExpiredException("of a request")

    def _end_exit(self):
        raise SystemExit("of a request")

    def _end_retry(self):
        sid = http.request.session.sid
        if sid not in _failed:
            _failed.add(sid)
            raise psycopg2.errors.SerializationFailure("of a request")
        return "retried"

    def _end_broken(self):
        http.request.env.cr.execute("SELECT nonsense")

    def _end_redirect(self):
        return http.request.redirect("/web/login")

    def _end_stream(self):
        def parts():
            yield b"a part"
            raise ZeroDivisionError("of a stream")

        return http.Response(parts(), direct_passthrough=True)
