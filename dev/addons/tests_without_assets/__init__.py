"""Loaded server-wide: Odoo's tests begin without making all bundles of assets first."""

from odoo.tests.suite import OdooSuite


def post_load() -> None:
    """Have ``odoo.service.server`` expect no browser. A page still makes the bundles it needs."""
    OdooSuite.has_http_case = lambda self: False
