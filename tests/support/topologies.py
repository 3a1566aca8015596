"""Redis in each supported topology, by a name; some with the user that the documentation asks for.

``TOPOLOGY=cluster dev/test ...`` has all tests use that one that need no particular one.
"""

import contextlib
import os
import re
from pathlib import Path
from types import SimpleNamespace

from stack.servers import (
    Certificates,
    Cluster,
    OldRedis,
    Redis,
    Sentinels,
    TLSRedis,
    UnixRedis,
    Valkey,
    add_user,
    as_user,
)

TOPOLOGIES = ("old", "valkey", "unix", "tls", "access", "sentinel", "cluster")
RESTRICTED = ("access", "sentinel", "cluster")
TOPOLOGY = os.environ.get("TOPOLOGY")
USER, PASSWORD = "odoo", "s3/cr#t"
README = Path(__file__).parents[2] / "readme/CONFIGURE.md"
PLAIN = {"old": OldRedis, "valkey": Valkey, "unix": UnixRedis}


@contextlib.contextmanager
def restricted(name, folder):
    """The URL of a Redis for the user that the documentation says is enough."""
    rule = access_rule()
    if name == "access":
        with Redis(folder) as redis:
            add_user(redis, USER, PASSWORD, rule)
            yield as_user(redis.url, USER, PASSWORD)
    elif name == "sentinel":
        with Sentinels(folder, password="theirs", sentinel_password="0ther") as redis:
            for server in redis.servers:
                add_user(server, USER, PASSWORD, rule)
            for sentinel in redis.sentinels:
                add_user(sentinel, "watch", PASSWORD, access_rule("on the sentinels"))
            url = as_user(redis.url, USER, PASSWORD).partition("?")[0]
            yield f"{url}?sentinel_username=watch&sentinel_password={PASSWORD.replace('#', '%23')}"
    else:
        with Cluster(folder) as redis:
            for node in redis.nodes:
                add_user(node, USER, PASSWORD, f"{rule} {access_rule('In a Cluster')}")
            yield as_user(redis.url, USER, PASSWORD)


def access_rule(place=None):
    """What the documentation says that a user needs: in all, or in one place besides."""
    text = README.read_text()
    if place:
        return re.search(rf"{place}[^`]*`([^`]+)`", text)[1].replace("\n", " ")
    return re.search(r"ACL SETUSER odoo on >password (.+)", text)[1]


@contextlib.contextmanager
def topology(name, folder):
    """The server of a name in ``TOPOLOGIES``; it has a ``url`` at least."""
    if name == "tls":
        with TLSRedis(folder, Certificates(folder / "certificates")) as redis:
            yield redis
    elif name in PLAIN:
        with PLAIN[name](folder) as redis:
            yield redis
    else:
        with restricted(name, folder) as url:
            yield SimpleNamespace(url=url)
