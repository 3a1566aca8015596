"""Odoo as a WSGI application, for gunicorn and uWSGI: web nodes without Odoo's own server.

It reads odoo.conf like the command `odoo` (`ODOO_RC` names it), `workers` and ports excepted. Cron
jobs and websockets are in processes of their own: `odoo-cron` and `odoo-websocket@`.
"""

import os

from odoo.http import root
from odoo.modules.registry import Registry
from odoo.sql_db import close_all
from odoo.tools import config

config.parse_config(["-c", os.environ.get("ODOO_RC", "/etc/odoo/odoo.conf")], setup_logging=True)
root.initialize()

if os.environ.get("ODOO_PRELOAD"):  # before workers are forked: they share what was loaded
    for name in config["db_name"]:
        Registry(name)
    close_all()  # a connection to PostgreSQL is of one process


def application(environ, start_response):
    """Odoo's, which needs the address as the browser sent it; gunicorn calls it RAW_URI."""
    environ.setdefault("REQUEST_URI", environ.get("RAW_URI") or environ.get("PATH_INFO", "/"))
    return root(environ, start_response)
