"""``odoo.http.Application.__call__``: a request from its beginning to its end.

Whatever comes of a request, it ends here, and its response goes through here after the transaction
was committed: an error's or a redirection's too, and that of a request without a database.

* A request at work keeps its session: see ``sessions.at_work``.
* A response carries no sid of a session that has ended meanwhile.
* The browser keeps its cookie for a year. Odoo gives it the timeout of the session, which starts
  again with each activity: the cookie would have to be sent again with each, on responses that Odoo
  sends none with. One that is late would put an old sid back, and a cache might keep it. The server
  alone says when a session ends; a cookie that outlives it harms nobody.
"""

import functools
import re
from collections.abc import Callable
from typing import Any

from odoo import http
from odoo.http import _request_stack

from ..exceptions import ReplacedError
from ..sessions import SESSION_COUNTERS, RedisSessionStore
from ..sessions.at_work import RequestsAtWork
from . import in_force, session_store
from .shape import name_of, require_signature

OWN = "redis_session_ormcache.own"  # in the environ of a request that the process makes itself
YEAR = 365 * 24 * 60 * 60  # seconds; the age that Odoo gives to other cookies
_COOKIE = "session_id="
_age = re.compile(r"(?<=; Max-Age=)[1-9][0-9]*")  # 0 deletes it
_Headers = list[tuple[str, str]]
_store: RedisSessionStore
_ours: Any
at_work: RequestsAtWork
serving: Callable[[], None]  # is called when a request begins


def check() -> None:
    """Refuse an Odoo whose application is called in another way."""
    call = type(session_store.application()).__call__
    require_signature("Application.__call__", call, "self", "environ", "start_response")


def apply(store: RedisSessionStore) -> None:
    """Patch the class of the application.

    :param store: where the sessions are
    """
    global _store, _ours, at_work, serving
    _store, at_work, serving = store, RequestsAtWork(store), lambda: None
    cls = type(session_store.application())
    cls.__call__ = _ours = _from_beginning_to_end(cls.__call__)


def replaced() -> str | None:
    """What stands there and does not lead to ours; a sentence."""
    try:
        cls = type(session_store.application())
    except ReplacedError as error:
        return str(error)
    if in_force.inherits(cls, "__call__", _ours):
        return None
    return (
        f"{http.__name__}.Application.__call__ was replaced by {name_of(cls.__call__)}, which "
        "does not call what it replaced"
    )


def _from_beginning_to_end(original: Any) -> Any:
    counter = SESSION_COUNTERS[""]

    @functools.wraps(original)
    def __call__(self: Any, environ: Any, start_response: Callable[..., Any]) -> Any:
        def start(status: str, headers: _Headers, *rest: Any) -> Any:
            return start_response(status, _sent(headers), *rest)

        serving()
        if OWN not in environ:
            counter.requests += 1
        outer = at_work.enter()
        try:
            return original(self, environ, start)
        finally:
            at_work.leave(outer)

    return __call__


def _sent(headers: _Headers) -> _Headers:
    """The headers of a response, with the cookie of its session as the browser is to have it."""
    if not any(value.startswith(_COOKIE) for _name, value in headers):
        return headers
    ended = {sid for sid in map(_sid_in, headers) if sid and _has_ended(sid)}
    return [
        (name, _age.sub(_years, value) if sid else value)
        for name, value in headers
        if (sid := _sid_in((name, value))) not in ended
    ]


def _sid_in(header: tuple[str, str]) -> str:
    """The sid that a header gives the browser; "" where it gives none."""
    name, value = header
    is_sid = value.startswith(_COOKIE) and name.lower() == "set-cookie"
    return value.partition(";")[0].removeprefix(_COOKIE) if is_sid else ""


def _years(age: re.Match[str]) -> str:
    return str(max(int(age[0]), YEAR))


def _has_ended(sid: str) -> bool:
    """Whether a sid that is new to the browser is that of a session that has ended.

    It was written before the transaction was committed. Since then another request may have ended
    the session, and its response have given the browser another sid, which this one would
    overwrite.
    """
    request = _request_stack.top
    if not hasattr(getattr(request, "session", None), "redis_record"):
        return False
    had = request.httprequest.cookies.get("session_id")
    # In place of none, or of what is no sid, a session need not be stored yet.
    is_new = bool(had) and sid != had and _store.is_valid_key(had) and _store.is_valid_key(sid)
    return is_new and not _store.is_stored(sid)
