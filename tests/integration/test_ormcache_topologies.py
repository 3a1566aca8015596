"""The shared ormcache on every topology."""

import pytest

from odoo.addons.redis_session_ormcache.tests.support.cached import FIGURES, LOOK, MANY, figures
from odoo.addons.redis_session_ormcache.tests.support.topologies import TOPOLOGIES

RULES = "result = repr(env['ir.rule']._compute_domain('res.partner'))"


@pytest.mark.parametrize("name", TOPOLOGIES)
def test_processes_share(topologies, make_worker, lone_database, name):
    """A fresh process computes nothing that another did; a change reaches it."""
    redis = topologies(name)
    first, second = make_worker(redis, lone_database), make_worker(redis, lone_database)
    computed = first.run(LOOK)
    assert second.run(LOOK) == computed
    assert figures(first)["published"] >= MANY
    assert figures(second)["found"] >= MANY
    by_method = second.run(FIGURES)
    assert [method for method, figure in by_method.items() if figure["computed"]] == [], by_method
    for worker in (first, second):
        worker.run(RULES, uid=2)
    first.run("""
        env["ir.rule"].create({
            "name": "changed", "model_id": env["ir.model"]._get_id("res.partner"),
            "domain_force": [("name", "!=", "changed")],
        })
    """)
    assert "changed" in second.run(RULES, uid=2)
    assert first.run(RULES, uid=2) == second.run(RULES, uid=2)
    for worker in (first, second):
        log = worker.log.read_text()
        assert "is not shared" not in log
        assert "does not answer" not in log
        assert " ERROR " not in log
