"""Reads the settings, builds both halves, checks every target, and only then patches any."""

import logging
import os
from collections.abc import Callable
from secrets import token_hex
from typing import Any

from odoo.tools import config

from .. import old_url
from ..config import Settings
from ..connection import RedisServer, telemetry
from ..exceptions import (
    OldStoreUnavailableError,
    RedisUnavailableError,
    ReplacedError,
    UnsupportedOdooError,
)
from ..migration import OldStore, open_old_store
from ..operation import Books
from ..ormcache import Outbox, RemoteTier, Sampling, SharedOrmcache
from ..sessions import RedisSessionStore, ServerSecrets
from . import (
    STOPS,
    application,
    bookkeeping,
    cached_values,
    cursor,
    database_secret,
    in_force,
    ir_config_parameter,
    ir_cron,
    ormcache,
    ormcache_log,
    registry,
    request,
    session_store,
    verification,
    warm_up,
    websocket,
)
from .shape import ADDON

_logger = logging.getLogger(__name__)
_installed: "Installed | None" = None

WITHOUT_ORMCACHE = "do without that addon, or set ormcache = false"
ORMCACHE_TIMEOUT = 0.5  # seconds at most that computing a value is put off by asking for it
_CONTAINERS = 8  # of Odoo's ormcache: each may take its share of a database's bytes

_SESSION_TARGETS = (session_store, application, request, websocket)
_ORMCACHE_TARGETS = (
    ormcache,
    registry,
    cursor,
    ir_cron,
    ir_config_parameter,
    cached_values,
    ormcache_log,
    warm_up,
)


class Installed:
    """What is in force in this process.

    :param sessions: None where sessions stay in files
    :param remote: None where the ormcache stays local, as is ``outbox``
    :param sampling: of the values that are computed again
    :param books: None where neither is in Redis
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.sessions: RedisSessionStore | None = None
        self.remote: RemoteTier | None = None
        self.outbox: Outbox | None = None
        self.sampling = Sampling(settings.ormcache_verify, verification.own_folders())
        self.books: Books | None = None

    def disconnect(self) -> None:
        """Close this process's connections to Redis; the next call opens one."""
        if self.outbox:
            self.outbox.close()
        for half in (self.sessions, self.remote):
            if half:
                half.disconnect()


def install() -> Installed | None:
    """Apply the patches, once per process.

    :return: None where the addon is not to do anything
    :raises Error: when a setting is wrong, or Odoo has another shape; nothing is patched then
    """
    global _installed
    if _installed:
        return _installed
    if ADDON not in config["server_wide_modules"]:
        # Found through a database only, when other requests were served already.
        _logger.warning(
            "%s is installed but not in server_wide_modules: this node keeps its sessions in files "
            "and its ormcache to itself",
            ADDON,
        )
        return None
    settings, notices = Settings.from_environment(os.environ, config["config"])
    for notice in notices:
        _logger.warning(notice)
    in_force.check()
    bookkeeping.check(settings)
    for target in _SESSION_TARGETS if settings.session else ():
        try:
            target.check()
        except ReplacedError as error:
            raise ReplacedError(f"{error}; {request.WITHOUT_SESSIONS}") from error
    for target in _ORMCACHE_TARGETS if settings.ormcache else ():
        try:
            target.check()
        except (ReplacedError, UnsupportedOdooError) as error:
            raise type(error)(f"{error}; with ormcache = false it is not touched") from error
    if settings.opentelemetry:
        telemetry.switch_on()
        _logger.info("redis-py's metrics go to OpenTelemetry")
    installed = Installed(settings)
    if settings.session:
        installed.sessions = _session_store(settings)
    else:
        _logger.info("Sessions are not stored in Redis (session = false)")
    if settings.ormcache:
        installed.remote = _remote_tier(settings)
    else:
        _logger.info("The ormcache is not shared (ormcache = false)")
    # Nothing below fails.
    in_force.forget()
    if installed.sessions:
        session_store.apply(installed.sessions)
        application.apply(installed.sessions)
        request.apply(installed.sessions)
        websocket.apply()
    if installed.remote:
        installed.outbox = Outbox(installed.remote)
        _share_ormcache(installed.remote, installed.outbox, installed.sampling, settings)
        warm_up.apply(installed.disconnect)
    if servers := [half.server for half in (installed.sessions, installed.remote) if half]:
        installed.books = Books(servers[0], settings.prefix)
        bookkeeping.apply(installed.books, settings, installed.sessions, servers)
    in_force.apply(_at_start, _loaded)
    _installed = installed
    return installed


def current() -> Installed | None:
    """All that is in force in this process; None where this is no server-wide module."""
    return _installed


def _at_start() -> None:
    """Stop a server in which another addon replaced what was installed.

    :raises SystemExit: naming it
    """
    if not _installed:
        return
    if _installed.sessions:
        if problem := request.problem():
            raise SystemExit(STOPS.format(f"{problem}; {request.WITHOUT_SESSIONS}"))
        if changed := session_store.without_effect():
            _logger.warning("Sessions in Redis do without %s", ", ".join(changed))
    for problem in in_force.replaced(in_force.ORMCACHE):
        raise SystemExit(STOPS.format(f"{problem}; {WITHOUT_ORMCACHE}"))


def _loaded(database: Any) -> None:
    """The same when a database was loaded: its addons are imported while others are served.

    :param database: its registry
    """
    if not _installed or config["test_enable"]:
        return
    if _installed.sessions:
        request.check_again()
    problems = in_force.replaced(in_force.ORMCACHE)
    if _installed.remote and (other := ir_cron.overridden(database)):
        problems.append(other)
    for problem in problems:
        registry.refuse(f"{problem}: the ormcache is not shared; {WITHOUT_ORMCACHE}")


def make_session_store(settings: Settings) -> RedisSessionStore:
    """The store as the settings say it; Redis is not asked for anything."""
    server = RedisServer(
        settings.session_url or settings.url,
        half="sessions",
        timeout=settings.timeout,
        request=request.at_hand,
    )
    secrets = ServerSecrets(
        _node_secret(settings), read=database_secret.read, at_hand=database_secret.at_hand
    )
    old = settings.old_sessions and open_old_store(
        settings.old_sessions, timeout=settings.timeout, request=request.at_hand
    )
    return RedisSessionStore(
        server,
        prefix=settings.prefix,
        secrets=secrets,
        anonymous_ttl=settings.session_anonymous_ttl,
        lifetime_of=request.request_lifetime,
        session_at_hand=request.session_at_hand,
        old=old or None,
        read_lifetime=database_secret.read_lifetime,
    )


def make_remote_tier(settings: Settings) -> RemoteTier:
    """The shared tier as the settings say it; Redis is not asked for anything."""
    server = RedisServer(
        settings.ormcache_url or settings.url,
        half="ormcache",
        timeout=min(settings.timeout, ORMCACHE_TIMEOUT),
        request=request.at_hand,
    )
    return RemoteTier(server, max_bytes=settings.ormcache_max_bytes // _CONTAINERS)


def _session_store(settings: Settings) -> RedisSessionStore:
    store = make_session_store(settings)
    _check(
        store.server,
        store.check,
        durable=True,
        otherwise="requests that need a session get HTTP 503 until it answers",
    )
    _logger.info(
        "Sessions are stored in Redis at %s under %s:session:*",
        store.server.shown_url,
        settings.prefix,
    )
    if store.old and settings.old_sessions:
        _check_old(store.old, old_url.masked(settings.old_sessions))
    return store


def _check_old(old: OldStore, shown: str) -> None:
    try:
        old.check()
    except OldStoreUnavailableError as error:
        _logger.warning("%s: a session that is not in Redis gets HTTP 503 until it answers", error)
    finally:
        old.close()
    _logger.info("Sessions that are not in Redis are moved from %s", shown)


def shared_secret(settings: Settings) -> str | None:
    """The secret of sessions without a database, where it is that of all nodes."""
    if settings.secret:
        return settings.secret
    # A hash holds a salt, which nobody can guess; a password may be guessed from what it sealed.
    master = config["admin_passwd"] or ""
    return str(master) if master.startswith("$pbkdf2") else None


def _node_secret(settings: Settings) -> str:
    """The same, or one of this process."""
    if secret := shared_secret(settings):
        return secret
    if len(config["db_name"]) != 1:
        _logger.warning(
            "Set ODOO_REDIS_SECRET, or secret in [redis], the same on all nodes: until then a "
            "session without a database is known to one process and its forks only"
        )
    return token_hex(32)


def _remote_tier(settings: Settings) -> RemoteTier:
    remote = make_remote_tier(settings)
    _check(
        remote.server,
        lambda: remote.check(f"{settings.prefix}:ormcache:check"),
        durable=False,
        otherwise="the ormcache is not shared until it answers",
    )
    _logger.info(
        "The ormcache is shared in Redis at %s under %s:ormcache:*",
        remote.server.shown_url.removesuffix(" (ormcache)"),
        settings.prefix,
    )
    return remote


def _check(server: RedisServer, use: Callable[[], None], *, durable: bool, otherwise: str) -> None:
    """Warn of what is dangerous or away; refuse what will never work. Leaves no connection.

    :param use: does once what will be done
    :param otherwise: what comes of a server that does not serve now
    """
    try:
        for danger in server.check(durable=durable):
            _logger.warning("%s", danger)
        server.try_out(use)
    except RedisUnavailableError as error:
        _logger.warning("%s: %s", error, otherwise)
    finally:
        server.disconnect()


def _share_ormcache(
    remote: RemoteTier, outbox: Outbox, sampling: Sampling, settings: Settings
) -> None:
    def make_shared(database: str, caches: Any) -> SharedOrmcache:
        codecs = cached_values.codecs()
        return SharedOrmcache(remote, outbox, database, settings.prefix, codecs, caches, sampling)

    registry.apply(make_shared)
    for target in (
        cursor,
        ir_cron,
        ir_config_parameter,
        cached_values,
        ormcache_log,
        ormcache,
    ):
        target.apply()
