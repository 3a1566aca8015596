"""When calls are let through."""

from odoo.addons.redis_session_ormcache.connection import Breaker


def test_a_breaker_that_another_thread_closes_lets_calls_pass():
    """Whatever another thread does between two steps of this one."""

    def clock():
        if opened:
            breaker.succeed()
        return 10.0

    opened = False
    breaker = Breaker(1.0, clock)
    opened = breaker.fail()
    breaker.allows()
    assert breaker.allows()
