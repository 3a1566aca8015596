"""``odoo.http.Request``: sessions of a request.

* ``_save_session`` ends a request: that is the activity which extends a session.
* ``_inject_future_response`` gives the response its cookies: a user's lives as long as the session.
* ``_get_session_and_dbname`` begins it: what needs no session is served without Redis.
"""

import functools
from typing import Any

import psycopg2
from odoo.http import (
    Request,
    _request_stack,
    get_default_session,
    get_session_max_inactivity,
    root,
)

from ..sessions import RedisSessionStore, SessionStoreUnavailable
from .shape import require_signature

_SESSIONLESS_PATHS = {"/web/health"}


def check() -> None:
    """Refuse an Odoo whose requests handle sessions in another way."""
    require_signature(Request._save_session, "self", "env")
    require_signature(Request._inject_future_response, "self", "response")
    require_signature(Request._get_session_and_dbname, "self")


def apply() -> None:
    """Patch the methods."""
    Request._save_session = _noting_activity(Request._save_session)
    Request._inject_future_response = _renewing_cookie(Request._inject_future_response)
    Request._get_session_and_dbname = _serving_without_redis(Request._get_session_and_dbname)


def at_hand() -> Any:
    """The request that this thread serves; None outside of one."""
    return _request_stack.top


def request_lifetime(session: Any) -> int | None:
    """``sessions.max_inactivity_seconds`` of the session's database, in seconds.

    None where no request is at work on that database: it cannot be read then.
    """
    current = _request_stack.top
    env = current.env if current else None
    if not env or env.cr._closed or env.cr.dbname != session.db:
        return None
    try:
        return int(get_session_max_inactivity(env))
    except psycopg2.Error:  # a transaction that failed already
        return None


def _noting_activity(original: Any) -> Any:
    @functools.wraps(original)
    def _save_session(self: Any, env: Any = None) -> None:
        store = root.session_store
        if not isinstance(store, RedisSessionStore):  # a test's own
            original(self, env)
            return
        if env:  # of another database than the request's
            store.learn(env.cr.dbname, get_session_max_inactivity(env))
        original(self, env)
        if self.session.can_save:
            self.renewed_lifetime = store.touch(self.session)

    return _save_session


def _renewing_cookie(original: Any) -> Any:
    """Send the cookie again when activity was noted; core does so when the session changed.

    Only a user's: a visitor's response may be kept and shown to others (``website_page``), and one
    that says it is public may be kept by any cache.
    """

    @functools.wraps(original)
    def _inject_future_response(self: Any, response: Any) -> Any:
        lifetime = vars(self).pop("renewed_lifetime", None)
        public = "public" in response.headers.get("Cache-Control", "")
        if lifetime and self.session.uid and not public:
            self.future_response.set_cookie(
                "session_id", self.session.sid, max_age=lifetime, httponly=True
            )
        return original(self, response)

    return _inject_future_response


def _serving_without_redis(original: Any) -> Any:
    @functools.wraps(original)
    def _get_session_and_dbname(self: Any) -> tuple[Any, str | None]:
        try:
            found: tuple[Any, str | None] = original(self)
            return found
        except SessionStoreUnavailable:
            path = self.httprequest.path
            if path not in _SESSIONLESS_PATHS and not root.get_static_file(path):
                raise
        session = root.session_store.new()
        session.update(get_default_session())
        session.context["lang"] = self.default_lang()
        session.can_save = False
        return session, None

    return _get_session_and_dbname
