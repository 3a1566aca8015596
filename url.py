"""The URL of a Redis, whichever its topology. Pure: no Odoo, no redis-py.

=================================================================  =====================
``redis://[user:password@]host[:6379][/0]``                        a server
``unix://[user:password@]/path/redis.sock[?db=0]``                 a server on this machine
``redis+sentinel://[user:password@]host[:26379],…/service[/0]``    what Sentinel watches
``redis+cluster://[user:password@]host[:6379],…``                  a Cluster, by some nodes
=================================================================  =====================

With ``rediss`` for ``redis`` the connections are encrypted.

>>> url = parse("rediss+sentinel://odoo:s3%2Fcret@one,[::1]:26380/main/2?sentinel_password=x")
>>> url.topology, url.hosts, url.service, url.database
('sentinel', (('one', 26379), ('::1', 26380)), 'main', 2)
>>> url.password, url.options
('s3/cret', {'sentinel_password': 'x'})
>>> str(url)
'rediss+sentinel://odoo:***@one,[::1]:26380/main/2'
>>> parse("redis+cluster://one/5")
Traceback (most recent call last):
    ...
ValueError: a Cluster has no numbered databases
"""

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

_TOPOLOGIES = {
    "redis": SINGLE,
    "rediss": SINGLE,
    "unix": SINGLE,
    "redis+sentinel": SENTINEL,
    "rediss+sentinel": SENTINEL,
    "redis+cluster": CLUSTER,
    "rediss+cluster": CLUSTER,
}
_LONGEST_PATH = 107  # bytes, of a socket: sockaddr_un
_PORTS = {SINGLE: 6379, SENTINEL: 26379, CLUSTER: 6379}
_TLS_OPTIONS = {"ssl_ca_certs", "ssl_certfile", "ssl_keyfile", "ssl_cert_reqs"}
_SENTINEL_OPTIONS = {"sentinel_username", "sentinel_password", "sentinel_tls"}
_VALUES = {
    "ssl_cert_reqs": {"none", "optional", "required"},
    "sentinel_tls": {"true", "false"},
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
    username: str | None
    password: str | None = field(repr=False)
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
    """``url`` without its password and options, for logs; it need not be a good one.

    >>> masked("redis://odoo:s3cret@cache:6379/1")
    'redis://odoo:***@cache:6379/1'
    >>> masked("unix://:s3cret@/run/redis.sock?db=2")
    'unix://:***@/run/redis.sock'
    >>> masked("redis://odoo:not:enc@ded@cache")
    'redis://odoo:***@cache'
    """
    parts = _Parts.of(url)
    if "@" in parts.path:  # the end of a password may have come to be there
        return f"{parts.scheme}://***"
    credentials, at, address = parts.authority.rpartition("@")
    user, colon, _password = credentials.partition(":")
    hidden = f"{user}{colon}{'***' if colon else ''}{at}"
    return f"{parts.scheme}://{hidden}{address}{parts.path}"


def parse(text: str) -> RedisURL:
    """The parts of a URL.

    :raises ValueError: with what is wrong with it; never with the password
    """
    if any(ord(character) < 32 for character in text):
        raise ValueError("it has a control character, such as a line break")
    parts = _Parts.of(text)
    topology = _TOPOLOGIES.get(parts.scheme)
    if topology is None:
        raise ValueError(f"its scheme is none of {', '.join(_TOPOLOGIES)}")
    if parts.fragment:
        raise ValueError("it has a '#' (in a password, write %23)")
    if "@" in parts.path + parts.query:  # the end of a password may have come to be there
        raise ValueError("it has a '@' after its host (in a password, percent-encode / ? @ :)")
    credentials, at, address = parts.authority.rpartition("@")
    username, _colon, password = credentials.partition(":")
    if at and not password:
        raise ValueError("its password is missing")
    path, service = "", ""
    hosts: tuple[tuple[str, int], ...] = ()
    options = _options(parts.query, parts.scheme)
    if parts.scheme == "unix":
        if address:
            raise ValueError("a socket has no host: three slashes before its path")
        path = unquote(parts.path)
        if not path:
            raise ValueError("the socket's path is missing")
        if len(path.encode()) > _LONGEST_PATH:
            raise ValueError("the socket's path is too long for one")
        database = options.pop("db", "0")
    else:
        hosts = tuple(_host(word, _PORTS[topology]) for word in address.split(","))
        if topology == SINGLE and len(hosts) > 1:
            raise ValueError("it has several hosts; those of Sentinel are redis+sentinel://…")
        words = [unquote(word) for word in parts.path.split("/") if word]
        if topology == SENTINEL:
            if not words:
                raise ValueError("the name of the service is missing: …host:26379/service/0")
            service = words.pop(0)
        database = words.pop(0) if words else "0"
        if words:
            raise ValueError("its path has too many parts")
    if not (database.isascii() and database.isdigit()):
        raise ValueError("its database is not a number")
    if topology == CLUSTER and int(database):
        raise ValueError("a Cluster has no numbered databases")
    url = RedisURL(
        topology=topology,
        tls=parts.scheme.startswith("rediss"),
        hosts=hosts,
        username=unquote(username) or None,
        password=unquote(password) or None,
        path=path,
        database=int(database),
        service=service,
        options=options,
        shown=masked(text),
    )
    if any(name.startswith("ssl_") for name in options) and not (url.tls or url.hosts_tls):
        raise ValueError(
            "it has ssl_… options and no TLS: rediss+sentinel://…, or sentinel_tls=true"
        )
    return url


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
    if bracket and ":" not in host:
        raise ValueError("what is in brackets is no IPv6 address")
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


def _options(query: str, scheme: str) -> dict[str, str]:
    known = {"db"} if scheme == "unix" else set()
    if scheme.startswith("rediss"):
        known |= _TLS_OPTIONS
    if scheme.endswith("sentinel"):
        known |= _SENTINEL_OPTIONS | _TLS_OPTIONS
    parts = [part.partition("=") for part in query.split("&") if part]
    pairs = [(unquote(name), unquote(value)) for name, _equals, value in parts]  # «+» is itself
    options = dict(pairs)
    for name, value in pairs:
        if name not in known:
            shown = f"its option {name!r}"
            if "sentinel_password" in options and name != "sentinel_password":
                shown = "one of its options"  # the rest of the password, it may be
            raise ValueError(f"{shown} is unknown (in a password, percent-encode &)")
        if not value:
            raise ValueError(f"its option {name!r} is empty")
        if name in _VALUES and value not in _VALUES[name]:
            raise ValueError(f"its option {name!r} is none of {', '.join(sorted(_VALUES[name]))}")
    if len(options) < len(pairs):
        raise ValueError("an option is there twice")
    if "ssl_keyfile" in options and "ssl_certfile" not in options:
        raise ValueError("it has an ssl_keyfile without an ssl_certfile")
    if "sentinel_username" in options and "sentinel_password" not in options:
        raise ValueError("it has a sentinel_username without a sentinel_password")
    return options
