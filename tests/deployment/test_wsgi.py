"""Odoo under gunicorn and uWSGI, with and without loading it before the fork."""

import os
import signal
import sys

import pytest

from odoo.addons.redis_session_ormcache.tests.support.browser import Browser
from stack.deployment import DEPLOY
from stack.provision import environment
from stack.servers import Server, free_port, listens, odoo_environment, until, write_conf

WSGI = DEPLOY / "wsgi"
COMMANDS = {
    "gunicorn": ["gunicorn", "-c", "gunicorn.conf.py", "odoo_wsgi:application"],
    "uwsgi": ["uwsgi", "--ini", "uwsgi.ini"],
}
WORKERS = 2


class Application(Server):
    """A WSGI server with the files of ``deploy/wsgi``."""

    timeout = 60.0
    stop_signal = signal.SIGTERM

    def __init__(self, name, folder, conf, preload):
        super().__init__(name, folder)
        self.port, self.conf, self.preload = free_port(), conf, preload
        self.url = f"http://127.0.0.1:{self.port}"

    def command(self):
        program, *arguments = COMMANDS[self.name]
        if self.name == "uwsgi":
            arguments += ["--processes", str(WORKERS)]
        return [str(environment.python().with_name(program)), *arguments]

    def environment(self):
        return odoo_environment(
            {
                "ODOO_RC": str(self.conf),
                "ODOO_BIND": f"127.0.0.1:{self.port}",
                "ODOO_WORKERS": str(WORKERS),
                "PYTHONPATH": os.pathsep.join(sys.path),
                **({"ODOO_PRELOAD": "1"} if self.preload else {}),
            }
        )

    def options(self):
        return {"cwd": WSGI}

    def ready(self):
        return listens(self.port)


@pytest.mark.parametrize("preload", [False, True], ids=["each", "preload"])
@pytest.mark.parametrize("name", COMMANDS)
def test_it_is_served(tmp_path, postgres, module_redis, website_database, name, preload):
    """Logins, pages of the website, and the shared cache, in each worker."""
    import redis as driver

    conf = write_conf(
        tmp_path / "odoo.conf", postgres, tmp_path, redis={"url": module_redis.url},
        options={"db_name": website_database, "proxy_mode": True},
    )  # fmt: skip
    raw = driver.Redis.from_url(module_redis.url)
    raw.flushall()
    with Application(name, tmp_path / name, conf, preload) as server:
        browser = Browser(website_database)
        for _ in range(4 * WORKERS):
            page = browser.get(server, "/?x=1")
            assert page.status_code == 200, page.text[:300]
        assert browser.login(server)
        for _ in range(4 * WORKERS):
            assert browser.uid(server) == 2
        until(lambda: raw.keys("odoo:ormcache:*"), "that values are sent")
        assert "Traceback" not in server.log.read_text(errors="replace")
