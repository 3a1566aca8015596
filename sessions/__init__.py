"""The session store: what ``odoo.http.root.session_store`` is with this addon."""

from .secrets import ServerSecrets
from .session import RedisSession
from .store import RedisSessionStore, SessionStoreUnavailable

__all__ = ["ServerSecrets", "RedisSession", "RedisSessionStore", "SessionStoreUnavailable"]
