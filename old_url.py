"""Where sessions were kept before, as one URL. Pure: no Odoo, no redis-py, no psycopg2.

=======================================================  =====================================
``file:///var/lib/odoo/sessions``                        Odoo's own files: ``<data_dir>/sessions``
``camptocamp+redis://host:6379/0?prefix=production``     camptocamp's ``session_redis``
``mangono+redis://host:6379/0?prefix=production``        mangono's ``redis_session_store``
``session_db+postgresql://user:password@host/database``  OCA's ``session_db``
=======================================================  =====================================

After ``camptocamp+`` and ``mangono+`` comes the URL of a Redis of any topology, after
``session_db+`` what ``SESSION_DB_URI`` was.

>>> url = parse("camptocamp+rediss://:s3cret@cache/1?prefix=main")
>>> url.kind, url.address, url.prefix
('camptocamp', 'rediss://:s3cret@cache/1', 'main')
>>> url
OldURL('camptocamp+rediss://***@cache/1')
>>> parse("session_db+postgresql://odoo:s3cret@db/sessions?sslmode=require")
OldURL('session_db+postgresql://***@db/sessions')
>>> parse("file:///var/lib/odoo/sessions").address
'/var/lib/odoo/sessions'
>>> parse("file://sessions")
Traceback (most recent call last):
    ...
ValueError: it has no absolute path: three slashes before it
"""

import re
from typing import NamedTuple
from urllib.parse import unquote

from . import url as redis_url

FILES, CAMPTOCAMP, MANGONO, SESSION_DB = "file", "camptocamp", "mangono", "session_db"
EXAMPLES = (
    "file:///var/lib/odoo/sessions, camptocamp+redis://host:6379/0?prefix=…, "
    "mangono+redis://host:6379/0?prefix=… or session_db+postgresql://user:password@host/database"
)
_POSTGRESQL = ("postgresql://", "postgres://")  # which libpq takes for a URI


class OldURL(NamedTuple):
    """A parsed URL; as text it has neither password nor options.

    :param kind: which store it is
    :param address: a folder, or the URL of a Redis, or of a database of PostgreSQL
    :param prefix: of the keys in Redis, as that addon was told it
    :param shown: for logs
    """

    kind: str
    address: str
    prefix: str
    shown: str

    def __repr__(self) -> str:
        return f"OldURL({self.shown!r})"

    def __str__(self) -> str:
        return self.shown


def masked(text: str) -> str:
    """A URL for logs; of one that is not good its kind alone is left.

    >>> masked("mangono+redis://:s3cret@cache/zero"), masked("s3cret")
    ('mangono+***', '***')
    """
    try:
        return parse(text).shown
    except ValueError:
        kind, plus, _address = text.partition("+")
        return f"{kind}+***" if plus and kind in (CAMPTOCAMP, MANGONO, SESSION_DB) else "***"


def parse(text: str) -> OldURL:
    """The parts of a URL.

    :raises ValueError: with what is wrong with it; never with the password
    """
    if text.startswith("file:"):
        return _files(text)
    kind, _plus, address = text.partition("+")
    if kind in (CAMPTOCAMP, MANGONO):
        return _redis(kind, address)
    if kind == SESSION_DB:
        return _postgresql(address)
    raise ValueError("it names no store that is known")


def _files(text: str) -> OldURL:
    path = unquote(text.removeprefix("file://").removeprefix("file:"))
    if not path.startswith("/"):
        raise ValueError("it has no absolute path: three slashes before it")
    if "\0" in path:
        raise ValueError("it has a control character")
    return OldURL(FILES, path, "", f"file://{path}")


def _redis(kind: str, address: str) -> OldURL:
    base, _question, query = address.partition("?")
    prefix, rest = "", []
    for part in query.split("&"):
        name, _equals, value = part.partition("=")
        if name != "prefix":
            rest.append(part)
        elif prefix or not value:
            raise ValueError("its prefix is empty, or there twice")
        else:
            prefix = unquote(value)
    address = "?".join([base, *filter(None, ["&".join(rest)])])
    shown = re.sub(r"//[^/@]*@", "//***@", redis_url.parse(address).shown, count=1)
    return OldURL(kind, address, prefix, f"{kind}+{shown}")


def _postgresql(address: str) -> OldURL:
    """libpq's own form: ``postgresql://[user[:password]@][host][:port][/database][?options]``."""
    scheme = next((scheme for scheme in _POSTGRESQL if address.startswith(scheme)), None)
    if scheme is None:
        raise ValueError("after session_db+ comes postgresql://…")
    place = address.removeprefix(scheme).partition("?")[0]
    credentials, at, place = place.rpartition("@")
    if any(mark in credentials for mark in "/?#@") or any(ord(mark) < 32 for mark in address):
        raise ValueError("in a password, percent-encode / # ? @ :")
    hidden = "***@" if at else ""
    return OldURL(SESSION_DB, address, "", f"{SESSION_DB}+{scheme}{hidden}{place}")
