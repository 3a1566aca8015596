"""The session store: what ``odoo.http.root.session_store`` is with this addon."""

from .counters import SESSION_COUNTERS
from .secrets import ServerSecrets
from .session import session_class
from .store import RedisSessionStore, SessionStoreUnavailable

__all__ = [
    "SESSION_COUNTERS",
    "RedisSessionStore",
    "ServerSecrets",
    "SessionStoreUnavailable",
    "session_class",
]
