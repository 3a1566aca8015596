"""``odoo.http.Request``: sessions of a request.

* ``_save_session`` ends a request: that is the activity which extends a session.
* ``_get_session_and_dbname`` begins it: what needs no session is served without Redis; and what
  needs one is not served where another addon keeps the sessions elsewhere.
"""

import functools
import logging
from typing import Any

import psycopg2
from odoo import http
from odoo.http import _request_stack
from odoo.tools import config

from ..sessions import RedisSessionStore, SessionStoreUnavailable
from . import application, in_force, session_store
from .shape import require_signature

# Other names of odoo.http are looked up when they are used: other addons replace them.

_logger = logging.getLogger(__name__)

_PARAMETERS = {
    "_save_session": ("self", "env"),
    "_get_session_and_dbname": ("self",),
}
_SESSIONLESS_PATHS = {"/web/health", "/redis/metrics"}
_store: RedisSessionStore
WITHOUT_SESSIONS = "do without that addon, or set session = false"
_NOTHING = object()
_accepted: Any = _NOTHING  # what was found to be in force since addons were imported
_logged: set[str] = set()


def check() -> None:
    """Refuse an Odoo whose requests handle sessions in another way."""
    for name, parameters in _PARAMETERS.items():
        require_signature(f"Request.{name}", getattr(http.Request, name), *parameters)


def apply(store: RedisSessionStore) -> None:
    """Patch the methods.

    :param store: where the sessions are
    """
    global _store
    _store = store
    for name, patch in (
        ("_save_session", _noting_activity),
        ("_get_session_and_dbname", _serving_without_redis),
    ):
        patched = patch(getattr(http.Request, name))
        in_force.put(in_force.SESSIONS, http, f"Request.{name}", patched)


def problem() -> str | None:
    """Why what was installed for sessions is not in force, if so; a sentence."""
    return (
        next(iter(in_force.replaced(in_force.SESSIONS)), None)
        or session_store.elsewhere()
        or session_store.follow()
        or application.replaced()
    )


def check_again() -> None:
    """Have the next request find out whether all of it is in force: addons were imported."""
    global _accepted
    _accepted = _NOTHING


def at_hand() -> Any:
    """The request that this thread serves; None outside of one."""
    return _request_stack.top


def session_at_hand() -> Any:
    """The session of that request, if it has one yet."""
    return getattr(_request_stack.top, "session", None)


def environment_of(db: str | None) -> Any:
    """The environment of the request at hand, if it is at work on a database; None otherwise."""
    env = getattr(_request_stack.top, "env", None)
    return env if env and not env.cr._closed and env.cr.dbname == db else None


def request_lifetime(session: Any) -> int | None:
    """``sessions.max_inactivity_seconds`` of the session's database, in seconds.

    None where no request is at work on that database: it cannot be read then.
    """
    env = environment_of(session.db)
    try:
        return int(http.get_session_max_inactivity(env)) if env else None
    except psycopg2.Error:  # a transaction that failed already
        return None


def _noting_activity(original: Any) -> Any:
    @functools.wraps(original)
    def _save_session(self: Any, env: Any = None) -> None:
        if env:  # of another database than the request's
            _store.learn(env.cr.dbname, http.get_session_max_inactivity(env))
        original(self, env)
        if self.session.can_save:
            application.at_work.adopt(self.session)
            _store.touch(self.session)

    return _save_session


def _serving_without_redis(original: Any) -> Any:
    @functools.wraps(original)
    def _get_session_and_dbname(self: Any) -> tuple[Any, str | None]:
        try:
            _require_store()
            session, database = _found(self, original)
        except SessionStoreUnavailable:
            path = self.httprequest.path
            if path not in _SESSIONLESS_PATHS and not http.root.get_static_file(path):
                raise
        else:
            application.at_work.begin(session)
            return session, database
        session = _store.new()
        session.update(http.get_default_session())
        session.context["lang"] = self.default_lang()
        session.can_save = False
        return session, None

    return _get_session_and_dbname


def _found(request: Any, original: Any) -> tuple[Any, str | None]:
    """The session of the sid that the browser sent, or of the one that never reached it."""
    session, database = original(request)
    http_request = request.httprequest
    if http_request._session_id__ == http_request.cookies.get("session_id"):
        issued = _store.presented(session)
        if issued is None:
            return session, database
        http_request._session_id__ = issued  # also if the request is tried again
        session, database = original(request)
    session.redis_is_awaited = True
    return session, database


def _require_store() -> None:
    """Refuse a request that would find or leave its session elsewhere.

    Only Odoo's tests bring a store of their own.

    :raises SessionStoreUnavailable: the log says why
    """
    global _accepted
    try:
        found = http.root.session_store
    except Exception:
        found = None
    if found is _accepted or config["test_enable"]:
        return
    reason = problem()
    if reason is not None:
        if reason not in _logged:
            _logged.add(reason)
            _logger.critical(
                "%s: requests that need a session get HTTP 503; %s", reason, WITHOUT_SESSIONS
            )
        raise SessionStoreUnavailable("The sessions of this server are not where they belong.")
    _accepted = found
