"""Reads the settings, builds the store, checks every target, and only then patches any."""

import logging
import os

from odoo.tools import config

from ..config import Settings, masked
from ..connection import RedisServer
from ..exceptions import RedisUnavailableError
from ..sessions import RedisSessionStore
from . import request, session_store

_logger = logging.getLogger(__name__)
_installed: RedisSessionStore | None = None

ADDON = "redis_session_ormcache"


def install() -> RedisSessionStore | None:
    """Apply the patches, once per process.

    :return: the store in force; None where sessions stay in files
    :raises Error: when a setting is wrong, or Odoo has another shape; nothing is patched then
    """
    global _installed
    if _installed:
        return _installed
    if ADDON not in config["server_wide_modules"]:
        # Found through a database only, when other requests were served already.
        _logger.warning(
            "%s is installed but not in server_wide_modules: this node keeps its sessions in files",
            ADDON,
        )
        return None
    settings, notices = Settings.from_environment(os.environ, config["config"])
    for notice in notices:
        _logger.warning(notice)
    if not settings.session:
        _logger.info("Sessions are stored in files in %s (session = false)", config.session_dir)
        return None
    session_store.check()
    request.check()
    server = RedisServer(settings.url, shown_url=masked(settings.url), timeout=settings.timeout)
    try:
        server.check()
    except RedisUnavailableError as error:
        _logger.warning("%s: requests that need a session get HTTP 503 until it answers", error)
    _installed = RedisSessionStore(
        server,
        prefix=settings.prefix,
        anonymous_ttl=settings.session_anonymous_ttl,
        lifetime_of=request.request_lifetime,
    )
    session_store.apply(_installed)
    request.apply()
    _logger.info(
        "Sessions are stored in Redis at %s under %s:session:*", server.shown_url, settings.prefix
    )
    return _installed
