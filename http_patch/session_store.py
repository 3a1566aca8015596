"""``odoo.http.Application.session_store``: where the store is made.

Core resolves it as a ``cached_property`` and drops the cached instance at times
(``reset_cached_properties``), so the property is replaced, and gives one store for good.
"""

import functools
import inspect
from typing import Any

from odoo.http import Application, FilesystemSessionStore, Session, root

from ..sessions import RedisSessionStore
from .shape import require, require_signature

# What only makes sense with files.
_FILES_ONLY = {"get_session_filename", "list"}
# What sessions.session.RedisSession.from_record sets.
_SESSION_SLOTS = {"can_save", "_Session__data", "is_dirty", "is_new", "should_rotate", "sid"}


def check() -> None:
    """Refuse an Odoo whose store does other things than ours."""
    require(
        isinstance(vars(Application).get("session_store"), functools.cached_property),
        "Application.session_store is a cached_property",
    )
    require(set(Session.__slots__) == _SESSION_SLOTS, f"Session has {sorted(_SESSION_SLOTS)}")
    for name, function in inspect.getmembers(FilesystemSessionStore, inspect.isfunction):
        if name.startswith("_") or name in _FILES_ONLY:
            continue
        require(hasattr(RedisSessionStore, name), f"a session store has no method {name}")
        ours = inspect.signature(getattr(RedisSessionStore, name))
        require_signature(function, *ours.parameters)


def apply(store: RedisSessionStore) -> None:
    """Make ``odoo.http.root.session_store`` this store."""

    def session_store(self: Any) -> RedisSessionStore:
        return store

    replaced = functools.cached_property(session_store)
    replaced.__set_name__(Application, "session_store")
    Application.session_store = replaced
    vars(root).pop("session_store", None)
