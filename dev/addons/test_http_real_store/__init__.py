"""Loaded server-wide, before Odoo imports the tests of test_http."""

import odoo.http


def post_load() -> None:
    """Let ``TestHttpBase`` swap in the store that is there."""
    from odoo.addons.test_http import utils

    def real_store(session_class: object = None) -> object:
        store = odoo.http.root.session_store
        store.store = {}  # which its setUp clears
        return store

    utils.MemorySessionStore = real_store
