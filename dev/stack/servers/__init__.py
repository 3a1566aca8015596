"""Real servers on free loopback ports, each in a folder of its own.

All are context managers::

    with PostgreSQL(folder / "pg") as postgres, Redis(folder / "redis") as redis:
        init_database(postgres, "shop", ["web"])
        with Odoo("one", folder / "one", postgres, database="shop") as node:
            urllib.request.urlopen(node.url)
"""

from .chromium import Chromium
from .cluster import Cluster
from .island import Island
from .nginx import Nginx, NginxServer
from .odoo import (
    LOAD,
    Odoo,
    Worker,
    init_database,
    install,
    odoo_environment,
    run_command,
    write_conf,
)
from .postgresql import PostgreSQL, Standby, digest
from .process import (
    Server,
    ServerError,
    alive,
    free_port,
    listens,
    start_all,
    stop_all,
    until,
)
from .proxy import LyingProxy, Proxy, StrictProxy
from .redis import OldRedis, Redis, UnixRedis, Valkey, add_user, as_user
from .resolver import Resolver
from .sentinels import SERVICE, Sentinels
from .tls import Certificates, TLSRedis

__all__ = [
    "LOAD", "SERVICE", "Certificates", "Chromium", "Cluster", "Island", "LyingProxy", "Nginx",
    "NginxServer", "Odoo",
    "OldRedis", "PostgreSQL", "Proxy", "Redis", "Resolver", "Sentinels", "Server", "ServerError",
    "Standby", "StrictProxy", "TLSRedis", "UnixRedis", "Valkey", "Worker", "add_user", "alive",
    "as_user", "digest", "free_port", "init_database", "install", "listens",
    "odoo_environment", "run_command", "start_all", "stop_all", "until", "write_conf",
]  # fmt: skip
