"""Tests that need no server."""

import pytest


@pytest.fixture(scope="session", autouse=True)
def load_registry():
    """Instead of pytest-odoo's: there is no database here."""
