"""``odoo.http.Application.session_store``: where the store is made.

Core resolves it as a ``cached_property`` and drops the cached instance at times
(``reset_cached_properties``), so the property is replaced, and gives one store for good.

Another addon may have wrapped the application, or put a subclass in its place: what is patched is
the class of the object that has the sessions.
"""

import functools
import inspect
from typing import Any

from odoo import http

from ..exceptions import ReplacedError
from ..sessions import RedisSessionStore, session_class
from . import in_force
from .shape import name_of, replaced_by, require, require_signature

# What sessions.session.read_session sets.
_SESSION_SLOTS = {"can_save", "_Session__data", "is_dirty", "is_new", "should_rotate", "sid"}
_store: RedisSessionStore


def check() -> None:
    """Refuse an Odoo whose store does other things than ours, or another addon's store."""
    _require_odoos_own(application())
    _class_of_sessions()
    for name, function in _public(http.FilesystemSessionStore):
        other = replaced_by(function)
        if not hasattr(RedisSessionStore, name):
            if other:
                raise ReplacedError(f"{other} adds FilesystemSessionStore.{name}, for files only")
            require(False, f"a session store has no method {name}")
        elif not other:
            ours = inspect.signature(getattr(RedisSessionStore, name))
            require_signature(f"FilesystemSessionStore.{name}", function, *ours.parameters)


def apply(store: RedisSessionStore) -> None:
    """Make ``odoo.http.root.session_store`` this store."""
    global _store
    _store = store

    def session_store(self: Any) -> RedisSessionStore:
        return store

    found = application()
    replaced = functools.cached_property(session_store)
    replaced.__set_name__(type(found), "session_store")
    type(found).session_store = replaced
    vars(found).pop("session_store", None)


def elsewhere() -> str | None:
    """Where sessions are kept if not in our store, as a sentence."""
    try:
        found = http.root.session_store
    except Exception as error:
        return f"{_who()} gives no sessions: {error!r}"
    if not in_force.leads_to(found, _store):
        return f"sessions are kept by {name_of(found)}, not in Redis"
    return None


def follow() -> str | None:
    """Have sessions inherit what ``odoo.http.Session`` is now; why that cannot be, as a sentence.

    Odoo looks at that name when it needs its store for the first time, so another addon may replace
    it until then.
    """
    try:
        _store.session_class = _class_of_sessions()
    except ReplacedError as error:
        return str(error)
    return None


def without_effect() -> list[str]:
    """What other addons changed in Odoo's store, which is not in use; names."""
    found = (
        (name, replaced_by(function)) for name, function in _public(http.FilesystemSessionStore)
    )
    return [f"{other} (for FilesystemSessionStore.{name})" for name, other in found if other]


def application() -> Any:
    """The application itself, whatever is wrapped around it."""
    try:
        return http.root.initialize.__self__
    except AttributeError as error:
        raise ReplacedError(
            f"odoo.http.root was replaced by {name_of(http.root)}, which does not pass on its "
            f"attributes: {error}"
        ) from error


def _class_of_sessions() -> Any:
    """A class of sessions that is Odoo's, and another addon's if there is one.

    :raises ReplacedError: when what another addon put there cannot be inherited from
    """
    bases = getattr(http.Session, "__mro__", ())
    odoos = next((base for base in bases if name_of(base) == "odoo.http.Session"), None)
    replaced = f"odoo.http.Session was replaced by {name_of(http.Session)}, which"
    if odoos is None:
        raise ReplacedError(f"{replaced} does not inherit from it")
    slots = set(odoos.__slots__)
    require(slots == _SESSION_SLOTS, f"Session has {sorted(_SESSION_SLOTS)}")
    try:
        return session_class(http.Session)
    except Exception as error:  # of a metaclass, or of __init_subclass__
        raise ReplacedError(f"{replaced} cannot be inherited from: {error}") from error


def _require_odoos_own(application: Any) -> None:
    """Refuse another addon's store: the sessions would be in two places."""
    found = inspect.getattr_static(type(application), "session_store", None)
    made_by = getattr(found, "func", getattr(found, "fget", found))
    unused = "session_store" not in vars(application)
    if replaced_by(made_by) is None and replaced_by(http.FilesystemSessionStore) is None and unused:
        is_property = isinstance(found, functools.cached_property)
        require(is_property, "Application.session_store is a cached_property")
        return
    try:
        store = http.root.session_store
    except Exception as error:
        raise ReplacedError(f"{_who()} gives no sessions: {error!r}") from error
    if name_of(store) != "odoo.http.FilesystemSessionStore":  # one that only may be another one's
        raise ReplacedError(f"sessions are kept by {name_of(store)}, not in Redis")


def _who() -> str:
    """Who answers for ``odoo.http.root.session_store``."""
    found = inspect.getattr_static(type(http.root), "session_store", None)
    return name_of(getattr(found, "func", getattr(found, "fget", found)) or http.root)


def _public(cls: Any) -> list[tuple[str, Any]]:
    members = inspect.getmembers(cls, inspect.isfunction)
    return [(name, function) for name, function in members if not name.startswith("_")]
