"""Odoo 19 on many nodes: HTTP sessions in Redis.

Importing this package patches nothing and imports nothing but the standard library: Odoo logs
what fails in an import and goes on, whereas a failure in ``post_load`` can stop the server.
"""

from .http_patch import post_load, require_loader

require_loader()

__all__ = ["post_load"]
