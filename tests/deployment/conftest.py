"""The deployment of ``deploy/``, with a shop."""

import pytest

from stack.deployment import Deployment


@pytest.fixture(scope="module")
def deployment(tmp_path_factory, postgres, module_redis, shop):
    """Two web nodes, a cron node and two websocket processes behind nginx."""
    folder = tmp_path_factory.mktemp("deployment")
    with Deployment(
        folder, postgres, module_redis.url, database=shop, programs=["wkhtmltopdf"]
    ) as running:
        yield running


@pytest.fixture
def admin(deployment):
    """Somebody who has logged in, by way of nginx."""
    from odoo.addons.redis_session_ormcache.tests.deployment.person import Person

    person = Person(deployment.nginx)
    person.login("admin", "admin")
    return person
