"""Loaded server-wide: what ``LOGIN_PAGE`` names happens while the login page is made."""

import logging
import os
import time
import urllib.request

from odoo.addons.web.controllers.home import Home
from odoo.http import route
from odoo.tools import config

_logger = logging.getLogger(__name__)

HANGS = 20  # seconds


def _call() -> None:
    """As a page does that asks this server for a part of itself."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    opener.open(f"http://127.0.0.1:{config['http_port']}/web/health", timeout=HANGS).close()


def _exit() -> None:
    raise SystemExit("of a login page")


def _interrupt() -> None:
    raise KeyboardInterrupt


ACTIONS = {
    "call": _call,
    "hang": lambda: time.sleep(HANGS),
    "exit": _exit,
    "interrupt": _interrupt,
}


class LoginPage(Home):
    """Odoo's, but for what happens first."""

    @route()
    def web_login(self, *arguments: object, **options: object) -> object:
        """Says when it begins, and when it goes on."""
        _logger.info("The login page begins")
        ACTIONS.get(os.environ.get("LOGIN_PAGE", ""), lambda: None)()
        _logger.info("The login page goes on")
        return super().web_login(*arguments, **options)
