"""Odoo's own tests pass with this addon as they do without it."""

import pytest

from odoo.addons.redis_session_ormcache.tests.suites.odoo import SUITES, run_suite
from odoo.addons.redis_session_ormcache.tests.support.dose import LONG
from stack.provision import environment


@pytest.mark.parametrize(
    "suite", [suite for suite in SUITES if LONG or not suite.long], ids=lambda suite: suite.name
)
def test_a_suite_of_odoo(suite, postgres, redis):
    """What fails is what is listed, with the reason."""
    folder = environment.home() / "test/suites"
    folder.mkdir(parents=True, exist_ok=True)
    said, problems = run_suite(suite, postgres, redis, folder)
    print(said)
    assert not problems, "\n".join(problems)
