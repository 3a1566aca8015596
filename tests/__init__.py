"""Tests for pytest with pytest-odoo; see conftest.py for the servers they use."""
