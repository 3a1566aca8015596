"""Odoo 19 on many nodes: HTTP sessions in Redis.

Importing this package patches nothing and imports nothing but the standard library: Odoo logs
what fails in an import and goes on, whereas a failure in ``post_load`` can stop the server.
"""

from .http_patch import post_load as _patch
from .http_patch import require_loader

require_loader()


def post_load() -> None:
    """Entry point named by the manifest: patch Odoo, and only then define the models.

    Odoo calls it with the import, once, and builds the models where the addon is installed.
    """
    _patch()
    from . import models  # noqa: F401


__all__ = ["post_load"]
