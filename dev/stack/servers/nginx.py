"""nginx before several nodes."""

from __future__ import annotations

import os
from pathlib import Path

from ..provision import environment
from .process import LOOPBACK, Server, free_port, listens


class NginxServer(Server):
    """nginx with the configuration that a subclass writes, listening on `port`."""

    port: int

    def __init__(self, folder: Path | str) -> None:
        super().__init__("nginx", folder)

    def write(self) -> Path:
        """Write the configuration; its main file."""
        raise NotImplementedError

    def program(self) -> list[str]:
        """nginx with its configuration."""
        nginx, conf = environment.binary("nginx"), self.write()
        return [str(nginx), "-p", str(self.folder), "-c", str(conf), "-e", "stderr"]

    def command(self) -> list[str]:
        return [*self.program(), "-g", "daemon off;"]

    def environment(self) -> dict[str, str]:
        return {**os.environ, **environment.library_path(environment.binary("nginx"))}

    def ready(self) -> bool:
        return listens(self.port)

    def write_main(self, http: str) -> Path:
        """Write nginx.conf, for one that leaves no files outside its folder.

        :param http: the directives of its block of that name
        """
        kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        temporary = "\n    ".join(f'{kind}_temp_path "{self.folder}/{kind}";' for kind in kinds)
        conf = self.folder / "nginx.conf"
        conf.write_text(f"""{"user root root;" if os.geteuid() == 0 else ""}
worker_processes 1;
worker_rlimit_nofile 4096;
pid "{self.folder}/nginx.pid";
error_log stderr warn;
events {{
    worker_connections 1024;
}}
http {{
    {temporary}
    access_log "{self.folder}/access.log";
{http}
}}
""")
        return conf


class Nginx(NginxServer):
    """A load balancer: round-robin over `nodes`, `/websocket` to the evented process (`host:port`).

    The header `X-Served-By` of a response names the node. A dead node is passed over.
    """

    def __init__(
        self,
        folder: Path | str,
        *,
        nodes: list[str],
        websocket: str,
        port: int | None = None,
        read_timeout: int = 120,
    ) -> None:
        super().__init__(folder)
        self.nodes, self.websocket = nodes, websocket
        self.port, self.read_timeout = port or free_port(), read_timeout

    @property
    def url(self) -> str:
        """http://127.0.0.1:port"""
        return f"http://{LOOPBACK}:{self.port}"

    def write(self) -> Path:
        servers = "\n        ".join(
            f"server {node} max_fails=1 fail_timeout=1s;" for node in self.nodes
        )
        return self.write_main(f"""    client_max_body_size 128m;
    upstream nodes {{
        {servers}
    }}
    upstream evented {{
        server {self.websocket} max_fails=0;
    }}
    map $http_upgrade $connection_upgrade {{
        default upgrade;
        "" "";
    }}
    # "a, b" when a was dead and b answered
    map $upstream_addr $served_by {{
        default $upstream_addr;
        "~(?<last>[^, ]+)$" $last;
    }}
    server {{
        listen {LOOPBACK}:{self.port};
        proxy_http_version 1.1;
        proxy_connect_timeout 2s;
        proxy_read_timeout {self.read_timeout}s;
        # No "non_idempotent": a POST goes to another node only if nothing of it was sent.
        proxy_next_upstream error timeout;
        proxy_set_header Host $http_host;
        proxy_set_header X-Forwarded-Host $http_host;
        proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
        proxy_set_header X-Forwarded-Proto $scheme;
        proxy_set_header X-Real-IP $remote_addr;
        proxy_set_header Upgrade $http_upgrade;
        proxy_set_header Connection $connection_upgrade;
        add_header X-Served-By $served_by always;
        location / {{
            proxy_pass http://nodes;
        }}
        location /websocket {{
            proxy_pass http://evented;
        }}
    }}""")
