"""The deployment of ``deploy/``, with a shop."""

import os

import pytest

from stack.deployment import Deployment
from stack.servers import init_database

MODULES = ["website_sale", "auth_totp"]  # as tests/integration/test_forgery.py has


@pytest.fixture(scope="module")
def shop(postgres):
    """A database with a website and a shop."""
    name = f"test_shop_{os.getpid()}"
    postgres.dropdb(name)
    init_database(postgres, name, MODULES)
    # Else no cart before a login.
    postgres.sql(name, "UPDATE website SET ecommerce_access = 'everyone'")
    yield name
    postgres.dropdb(name)


@pytest.fixture(scope="module")
def deployment(tmp_path_factory, postgres, module_redis, shop):
    """Two web nodes, a cron node and two websocket processes behind nginx."""
    folder = tmp_path_factory.mktemp("deployment")
    with Deployment(folder, postgres, module_redis.url, database=shop) as running:
        yield running


@pytest.fixture
def admin(deployment):
    """Somebody who has logged in, by way of nginx."""
    from odoo.addons.redis_session_ormcache.tests.deployment.person import Person

    person = Person(deployment.nginx)
    person.login("admin", "admin")
    return person
