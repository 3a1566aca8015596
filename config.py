"""Settings: environment first, then the ``[redis]`` section of odoo.conf. Knows nothing of Odoo.

Each setting has one name: ``session_anonymous_ttl`` in the file is
``ODOO_REDIS_SESSION_ANONYMOUS_TTL`` in the environment. Whatever is not understood stops the
server: a mistyped setting that is passed over would be found out in production.
"""

import configparser
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from . import old_url
from .exceptions import ConfigurationError
from .url import EXAMPLES, masked, parse

SECTION = "redis"
ENV_PREFIX = "ODOO_REDIS_"
# Settings of camptocamp's session_redis, and what they are called here. None: nothing to set.
_LEGACY = {
    "REDIS_URL": "url",
    "ODOO_SESSION_REDIS": "session",
    "ODOO_SESSION_REDIS_URL": "url",
    "ODOO_SESSION_REDIS_PREFIX": "prefix",
    "ODOO_SESSION_REDIS_EXPIRATION_ANONYMOUS": "session_anonymous_ttl",
}

# What Kubernetes sets in every pod for a service, and docker for a link, whatever they are called:
# names that end so, and what is an address or a path of containers under a shorter name.
_is_platforms = re.compile(
    r"\w+_(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT_\d+_(TCP|UDP|SCTP)(_\w+)?|ENV_\w+)=.*"
    r"|\w+_PORT=(tcp|udp|sctp)://.*"
    r"|\w+_NAME=/[\w.-]+/[\w.-]+",
    re.DOTALL,
).fullmatch


def _url(text: str) -> str:
    parse(text)
    return text


def _old_sessions(text: str) -> str:
    old_url.parse(text)
    return text


def _prefix(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_.-]+(:[A-Za-z0-9_.-]+)*", text):
        raise ValueError("it has other characters")
    return text


def _secret(text: str) -> str:
    if len(text) < 32:
        raise ValueError("it is too short")
    return text


def _token(text: str) -> str:
    if not re.fullmatch(r"[!-~]{16,}", text):
        raise ValueError("it is too short, or has other characters")
    return text


def _switch(text: str) -> bool:
    try:
        return configparser.ConfigParser.BOOLEAN_STATES[text.lower()]
    except KeyError:
        raise ValueError("it is neither") from None


def _whole(least: int, most: int) -> Callable[[str], int]:
    """Parses a whole number in a range."""

    def parse_whole(text: str) -> int:
        if not (text.isascii() and text.isdigit() and least <= int(text) <= most):
            raise ValueError("it is not such a number")
        return int(text)

    return parse_whole


def _timeout(text: str) -> float:
    seconds = float(text)
    if not 0.05 <= seconds <= 60:
        raise ValueError("it is out of range")
    return seconds


def _setting(default: Any, parse: Callable[[str], Any], expected: str) -> Any:
    return field(default=default, metadata={"parse": parse, "expected": expected})


@dataclass(frozen=True)
class Settings:
    """All settings, checked.

    :param url: the Redis server
    :param session_url: another one for the sessions; None: ``url``
    :param ormcache_url: another one for the ormcache; None: ``url``
    :param prefix: what every key in Redis starts with
    :param timeout: seconds that a request may wait for one answer of Redis
    :param session: whether sessions are stored in Redis
    :param secret: of the nodes, for sessions without a database; the same on all of them. None: the
        hash of the master password, or one that each process makes at its start
    :param session_anonymous_ttl: seconds that the session of somebody who did not log in lives
        without activity; None: as long as the others
    :param old_sessions: where sessions were kept before, for as long as some of them are only there
    :param ormcache: whether the ormcache is shared through Redis
    :param ormcache_max_bytes: how much of a database's cached values Redis holds at most, without
        the values of states of the database that are past: these go within a minute
    :param ormcache_verify: of so many cached values that a process takes from Redis, one is
        computed again and compared; 0: none
    :param metrics_token: that whoever reads ``/redis/metrics`` has to show; None: there is no such
        page
    :param opentelemetry: whether redis-py's own metrics go to the MeterProvider of the process
    """

    url: str = _setting("redis://localhost:6379/0", _url, EXAMPLES)
    session_url: str | None = _setting(None, _url, EXAMPLES)
    ormcache_url: str | None = _setting(None, _url, EXAMPLES)
    prefix: str = _setting("odoo", _prefix, "letters, digits, '_', '.', '-', parted by ':'")
    timeout: float = _setting(2.0, _timeout, "seconds from 0.05 to 60")
    session: bool = _setting(True, _switch, "true or false")
    secret: str | None = _setting(
        None, _secret, "at least 32 characters, such as «openssl rand -hex 32» prints"
    )
    session_anonymous_ttl: int | None = _setting(
        None, _whole(1, 10**9), "a whole number of seconds, at least 1"
    )
    old_sessions: str | None = _setting(None, _old_sessions, old_url.EXAMPLES)
    ormcache: bool = _setting(True, _switch, "true or false")
    ormcache_verify: int = _setting(
        2_000, _whole(0, 10**9), "0 for never, or a whole number up to 10^9"
    )
    metrics_token: str | None = _setting(
        None, _token, "at least 16 visible characters of ASCII, without spaces"
    )
    opentelemetry: bool = _setting(False, _switch, "true or false")
    ormcache_max_bytes: int = _setting(
        128 * 2**20, _whole(2**20, 2**40), "a whole number of bytes, from 1048576"
    )

    def __repr__(self) -> str:
        shown = {f.name: getattr(self, f.name) for f in fields(self)}
        shown |= {name: masked(url) for name, url in shown.items() if name.endswith("url") and url}
        shown |= {name: "***" for name in ("secret", "metrics_token") if shown[name]}
        if self.old_sessions:
            shown["old_sessions"] = old_url.masked(self.old_sessions)
        return f"Settings({', '.join(f'{name}={value!r}' for name, value in shown.items())})"

    @classmethod
    def from_environment(
        cls, environ: Mapping[str, str], rcfile: str | Path | None = None
    ) -> tuple["Settings", list[str]]:
        """The settings in force, and what the administrator should be told about them.

        :param environ: ``os.environ``
        :param rcfile: Odoo's configuration file (``config['config']``), read if it exists
        :raises ConfigurationError: with one line: which setting, and what is expected
        """
        known = {f.name: f for f in fields(cls)}
        environ = {
            variable: value
            for variable, value in environ.items()
            if value and not _is_platforms(f"{variable}={value}")
        }
        # name: (value, where it was set); what other addons call theirs comes last
        texts, notices = _legacy_options(environ)
        for name, value in _file_options(rcfile).items():
            if name not in known:
                raise ConfigurationError(
                    f"[{SECTION}] {name} in {rcfile}: unknown; expected one of {', '.join(known)}"
                )
            texts[name] = value, f"[{SECTION}] {name} in {rcfile}"
        for variable, value in environ.items():
            if not variable.startswith(ENV_PREFIX):
                continue
            name = variable.removeprefix(ENV_PREFIX).lower()
            if name not in known:
                expected = ", ".join(ENV_PREFIX + option.upper() for option in known)
                raise ConfigurationError(f"{variable}: unknown; expected one of {expected}")
            texts[name] = value, variable
        values = {}
        for name, (text, where) in texts.items():
            metadata = known[name].metadata
            try:
                values[name] = metadata["parse"](text.strip())
            except ValueError as error:
                why = "" if isinstance(error, UnicodeError) else f": {error}"
                raise ConfigurationError(
                    f"{where} is wrong{why}; expected {metadata['expected']}"
                ) from None
        return cls(**values), notices


def _file_options(rcfile: str | Path | None) -> dict[str, str]:
    """The ``[redis]`` section; a file that is not there has none."""
    parser = configparser.RawConfigParser()
    try:
        parser.read([rcfile] if rcfile else [], encoding="utf-8")
        return dict(parser[SECTION]) if parser.has_section(SECTION) else {}
    except (configparser.Error, UnicodeError, OSError) as error:
        first_line = str(error).partition("\n")[0]
        raise ConfigurationError(f"{rcfile} cannot be read: {first_line}") from error


def _legacy_options(environ: Mapping[str, str]) -> tuple[dict[str, tuple[str, str]], list[str]]:
    """What variables of other session addons say, under our names, with a notice for each."""
    options: dict[str, tuple[str, str]] = {}
    notices = []
    for variable, name in _LEGACY.items():
        if variable in environ:
            options[name] = environ[variable], variable
            notices.append(f"{variable} is understood; its name here is {ENV_PREFIX}{name.upper()}")
    rest = sorted(
        variable
        for variable in environ
        if variable.startswith("ODOO_SESSION_REDIS") and variable not in _LEGACY
    )
    for variable in rest:
        if variable == "ODOO_SESSION_REDIS_EXPIRATION":
            notices.append(
                f"{variable} has no effect: a session lives as long as the system parameter "
                "sessions.max_inactivity_seconds of its database says"
            )
        else:
            raise ConfigurationError(
                f"{variable}: not a setting of this addon; expected {ENV_PREFIX}URL={EXAMPLES}"
            )
    return options, notices
