"""The URL of a Redis, whichever its topology. Pure: no Odoo, no redis-py.

=================================================================  =====================
``redis://[user:password@]host[:6379][/0]``                        a server
``unix://[user:password@]/path/redis.sock[?db=0]``                 a server on this machine
``redis+sentinel://[user:password@]host[:26379],…/service[/0]``    what Sentinel watches
``redis+cluster://[user:password@]host[:6379],…``                  a Cluster, by some nodes
=================================================================  =====================

With ``rediss`` for ``redis`` the connections are encrypted. What other libraries write for the same
is understood where it means one thing: ``valkey`` for ``redis``, ``-`` for ``+``, ``+ssl`` and
``+tls`` for the second ``s``, ``redis+socket`` and ``redis+unix`` for ``unix``, and their names of
options. ``user:@`` is a user without a password.

>>> url = parse("rediss+sentinel://odoo:s3%2Fcret@one,[::1]:26380/main/2?sentinel_password=x")
>>> url.topology, url.hosts, url.service, url.database
('sentinel', (('one', 26379), ('::1', 26380)), 'main', 2)
>>> url.password, url.options
('s3/cret', {'sentinel_password': 'x'})
>>> str(url)
'rediss+sentinel://odoo:***@one,[::1]:26380/main/2'
>>> parse("valkeys-sentinel://one,two/2?sentinelMasterId=main") == RedisURL(
...     "sentinel", True, (("one", 26379), ("two", 26379)), service="main", database=2,
...     shown="valkeys-sentinel://one,two/2")
True
>>> parse("redis+cluster://one/5")
Traceback (most recent call last):
    ...
ValueError: a Cluster has no numbered databases
"""

import ipaddress
import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple
from urllib.parse import unquote

SINGLE, SENTINEL, CLUSTER = "single", "sentinel", "cluster"
EXAMPLES = (
    "redis://[user:password@]host:6379/0, rediss://… (TLS), unix:///path/redis.sock?db=0, "
    "redis+sentinel://host:26379,host:26379/service/0 or redis+cluster://host:6379,host:6379"
)

_SCHEMES = "redis, rediss, unix, redis+sentinel, rediss+sentinel, redis+cluster, rediss+cluster"
_scheme = re.compile(
    r"(?:redis|valkey)(?P<tls>s|[+-](?:ssl|tls))?(?:[+-](?P<kind>sentinel|cluster|socket|unix))?"
).fullmatch
_LONGEST_PATH = 107  # bytes, of a socket: sockaddr_un
_PORTS = {SINGLE: 6379, SENTINEL: 26379, CLUSTER: 6379}
_OPTIONS = {"db", "username", "password"}
_TLS_OPTIONS = {"ssl_ca_certs", "ssl_certfile", "ssl_keyfile", "ssl_cert_reqs"}
_SENTINEL_OPTIONS = {"service", "sentinel_username", "sentinel_password", "sentinel_tls"}
_OTHER_NAMES = {
    "database": "db",  # Lettuce
    "virtual_host": "db",  # Celery
    "user": "username",  # redis-rs
    "pass": "password",
    "sentinelMasterId": "service",  # Lettuce
    "sentinelServiceName": "service",  # fred
    "sentinelUsername": "sentinel_username",
    "sentinelPassword": "sentinel_password",
    "master": "service",  # asynq
    "master_name": "service",  # go-redis, Celery
    "service_name": "service",  # redis-py
}
_VALUES = {
    "ssl_cert_reqs": {
        **{word: word for word in ("none", "optional", "required")},
        **{f"cert_{word}": word for word in ("none", "optional", "required")},  # Celery
    },
    "sentinel_tls": {word: word for word in ("true", "false")},
}


class _Parts(NamedTuple):
    """The parts of any URL, as text (RFC 3986, appendix B).

    Not by ``urllib``: some releases of Python take a list of hosts for one, and refuse an IPv6
    address in it.
    """

    scheme: str
    authority: str
    path: str
    query: str
    fragment: str

    @classmethod
    def of(cls, text: str) -> "_Parts":
        found = re.fullmatch(
            r"(?:([^:/?#]*):)?(?://([^/?#]*))?([^?#]*)(?:\?([^#]*))?(?:#(.*))?", text, re.DOTALL
        )
        assert found, "this matches any text"
        scheme, *others = found.groups(default="")
        return cls(scheme.lower(), *others)


@dataclass(frozen=True)
class RedisURL:
    """A parsed URL; as text it has neither password nor options.

    :param topology: "single", "sentinel" or "cluster"
    :param tls: whether connections are encrypted
    :param hosts: names or addresses, and ports: of the server, the sentinels, or some of a
        Cluster's nodes; none with a socket
    :param path: of the socket
    :param database: its number
    :param service: what the sentinels call what they watch
    :param options: ``ssl_…`` as redis-py has them, ``sentinel_…``
    """

    topology: str
    tls: bool
    hosts: tuple[tuple[str, int], ...]
    username: str | None = field(default=None, repr=False)  # shown, where it is surely one
    password: str | None = field(default=None, repr=False)
    path: str = ""
    database: int = 0
    service: str = ""
    options: Mapping[str, str] = field(default_factory=dict, repr=False)
    shown: str = ""

    def __str__(self) -> str:
        return self.shown

    @property
    def hosts_tls(self) -> bool:
        """Whether connections to ``hosts`` are encrypted; what sentinels watch may differ."""
        told = self.options.get("sentinel_tls")
        return self.tls if told is None else told == "true"


def masked(url: str) -> str:
    """``url`` without its password and options, for logs.

    Of one that is not good its scheme alone is left: a password may be anywhere in it.

    >>> masked("redis://odoo:s3cret@cache:6379/1")
    'redis://odoo:***@cache:6379/1'
    >>> masked("unix://:s3cret@/run/redis.sock?db=2")
    'unix://:***@/run/redis.sock'
    >>> masked("redis://odoo:not:enc@ded@cache")
    'redis://odoo:***@cache'
    >>> masked("redis:odoo:s3cret@cache"), masked("s3cret@cache")
    ('redis://***', '***')
    """
    try:
        return parse(url).shown
    except ValueError:
        scheme = url.partition(":")[0].lower()
        return f"{scheme}://***" if _kind(scheme) else "***"


def parse(text: str) -> RedisURL:
    """The parts of a URL.

    :raises ValueError: with what is wrong with it; never with the password
    """
    if any(ord(character) < 32 for character in text):
        raise ValueError("it has a control character, such as a line break")
    parts = _Parts.of(text)
    kind = _kind(parts.scheme)
    if kind is None:
        raise ValueError(f"its scheme is none of {_SCHEMES}")
    topology, is_socket, tls = kind
    service = parts.fragment  # as older Lettuce has it; otherwise a password was cut off
    if service and (
        topology != SENTINEL or parts.query or "@" in service or parts.path.strip("/0123456789")
    ):
        raise ValueError("it has a '#' (in a password, write %23)")
    if "@" in parts.path + parts.query:  # the end of a password may have come to be there
        raise ValueError("it has a '@' after its host (in a password, percent-encode / ? @ :)")
    options = _options(parts.query, topology, tls)
    service = options.pop("service", service)
    credentials, at, address = parts.authority.rpartition("@")
    user, colon, secret = credentials.partition(":")
    username, password = _account(user, colon, secret, options)
    if at and not (username or password):
        raise ValueError("its password is missing")
    # Whose password is empty may have written it in the place of the user.
    hidden = f"{user}:***@" if secret else "***@" if at else ""
    path = ""
    hosts: tuple[tuple[str, int], ...] = ()
    words: list[str] = []
    if is_socket:
        if address:
            raise ValueError("a socket has no host: three slashes before its path")
        path = unquote(parts.path)
        if not path:
            raise ValueError("the socket's path is missing")
        if len(path.encode()) > _LONGEST_PATH:
            raise ValueError("the socket's path is too long for one")
    else:
        hosts = tuple(_host(word, _PORTS[topology]) for word in address.split(","))
        if topology == SINGLE and len(hosts) > 1:
            raise ValueError("it has several hosts; those of Sentinel are redis+sentinel://…")
        words = [unquote(word) for word in parts.path.split("/") if word]
        if topology == SENTINEL and not service:
            if not words:
                raise ValueError("the name of the service is missing: …host:26379/service/0")
            service = words.pop(0)
        if len(words) > 1:
            raise ValueError("its path has too many parts")
    database = _database(words, options)
    if topology == CLUSTER and database:
        raise ValueError("a Cluster has no numbered databases")
    url = RedisURL(
        topology=topology,
        tls=tls,
        hosts=hosts,
        username=username,
        password=password,
        path=path,
        database=database,
        service=service,
        options=options,
        shown=f"{parts.scheme}://{hidden}{address}{parts.path}",
    )
    if any(name.startswith("ssl_") for name in options) and not (url.tls or url.hosts_tls):
        raise ValueError(
            "it has ssl_… options and no TLS: rediss+sentinel://…, or sentinel_tls=true"
        )
    return url


def _kind(scheme: str) -> tuple[str, bool, bool] | None:
    """Of a scheme: the topology, whether it is a socket, whether connections are encrypted."""
    if scheme == "unix":
        return SINGLE, True, False
    found = _scheme(scheme)
    if not found:
        return None
    kind, tls = found["kind"], bool(found["tls"])
    is_socket = kind in ("socket", "unix")
    topology = kind if kind in (SENTINEL, CLUSTER) else SINGLE
    return None if is_socket and tls else (topology, is_socket, tls)


def _account(
    user: str, colon: str, secret: str, options: dict[str, str]
) -> tuple[str | None, str | None]:
    """User and password, from before the ``@`` and from the options, where they are taken out."""
    names = {"username": user, "password": secret}
    if any(text and name in options for name, text in names.items()):
        raise ValueError("its user or its password is there twice")
    if user and not colon and "password" not in options:
        raise ValueError(
            "its password is missing, or its user: some take the one word before its '@' for the "
            "former; expected user:password@, :password@, or user:@ for a user without a password"
        )
    username, password = (options.pop(name, unquote(text)) or None for name, text in names.items())
    return username, password


def _database(words: list[str], options: dict[str, str]) -> int:
    """The number, from the path or the options, where it is taken out."""
    told = {*words}
    if "db" in options:
        told.add(options.pop("db"))
    database = told.pop() if told else "0"
    if told:
        raise ValueError("it has two databases")
    if not (database.isascii() and database.isdigit()):
        raise ValueError("its database is not a number")
    return int(database)


def _host(text: str, default_port: int) -> tuple[str, int]:
    """``host``, ``host:port`` or ``[IPv6]:port``."""
    host, bracket, rest = text.removeprefix("[").partition("]")
    if not text.startswith("["):
        if "[" in text or bracket:
            raise ValueError("its brackets are not around an address")
        host, colon, port = text.partition(":")
    elif bracket and rest[:1] in ("", ":"):
        colon, port = rest[:1], rest[1:]
    else:
        raise ValueError("an address in brackets is not complete")
    if bracket:
        try:
            ipaddress.IPv6Address(unquote(host))
        except ValueError:  # which some releases of urllib, where redis-py asks it, refuse too
            raise ValueError("what is in brackets is no IPv6 address") from None
    if not host:
        raise ValueError("its host is missing")
    number = int(port) if port.isascii() and port.isdigit() else 0
    if colon and not 1 <= number <= 65535:
        raise ValueError(
            "a port is not a number from 1 to 65535 (in a password, percent-encode / # ? @ :)"
        )
    try:
        unquote(host).encode("idna")
    except UnicodeError:
        raise ValueError("its host is none") from None
    # Such as the wide form of @, behind which a password may be.
    if not bracket and set(unicodedata.normalize("NFKC", host)) & set("/?#@:"):
        raise ValueError("its host is none")
    return unquote(host), number or default_port


def _options(query: str, topology: str, tls: bool) -> dict[str, str]:
    """By our names, and in our words."""
    known = set(_OPTIONS)
    if tls or topology == SENTINEL:
        known |= _TLS_OPTIONS
    if topology == SENTINEL:
        known |= _SENTINEL_OPTIONS
    parts = [part.partition("=") for part in query.split("&") if part]
    pairs = [(unquote(name), unquote(value)) for name, _equals, value in parts]  # «+» is itself
    options: dict[str, str] = {}
    for shown, value in pairs:
        name = _OTHER_NAMES.get(shown, shown)
        if name not in known:
            told = f"its option {shown!r}"
            if any("password" in other for other in options):
                told = "one of its options"  # the rest of the password, it may be
            raise ValueError(f"{told} is unknown (in a password, percent-encode &)")
        if not value:
            raise ValueError(f"its option {shown!r} is empty")
        if name in options:
            raise ValueError("an option is there twice")
        words = _VALUES.get(name)
        if words and value.lower() not in words:
            expected = ", ".join(sorted({*words.values()}))
            raise ValueError(f"its option {shown!r} is none of {expected}")
        options[name] = words[value.lower()] if words else value
    if "ssl_keyfile" in options and "ssl_certfile" not in options:
        raise ValueError("it has an ssl_keyfile without an ssl_certfile")
    if "sentinel_username" in options and "sentinel_password" not in options:
        raise ValueError("it has a sentinel_username without a sentinel_password")
    return options
