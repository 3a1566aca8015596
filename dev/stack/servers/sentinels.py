"""A primary with replicas, watched by sentinels."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote, urlencode

from .island import Island
from .process import LOOPBACK, Together, kill_all, start_all, until
from .proxy import Proxy
from .redis import Redis

if TYPE_CHECKING:
    from typing_extensions import Self

SERVICE = "main"


class _Sentinel(Redis):
    """One sentinel, which rewrites its configuration."""

    patience = 1.0

    def command(self) -> list[str]:
        return [*super().command(), "--sentinel"]


class Sentinels(Together):
    """A primary, replicas, and sentinels that watch them.

    :param down_after: milliseconds of silence after which a server is taken for dead
    :param island: where the first primary is
    :param proxied: whether each server is behind a proxy, of `proxies`, for all who speak to it
    """

    def __init__(
        self,
        folder: Path,
        *,
        replicas: int = 2,
        down_after: int = 1000,
        password: str | None = None,
        sentinel_password: str | None = None,
        config: Mapping[str, str] | None = None,
        island: Island | None = None,
        proxied: bool = False,
    ) -> None:
        self.password, self.sentinel_password = password, sentinel_password
        self.host = island.outside if island else LOOPBACK
        secret = {"masterauth": f'"{password}"'} if password else {}
        settings = {"repl-diskless-sync-delay": "0", "repl-ping-replica-period": "1", **secret}
        self.servers = [
            Redis(
                folder / f"server{number}", password=password, config={**settings, **(config or {})}
            )
            for number in range(1 + replicas)
        ]
        first = self.servers[0]
        for server in self.servers:
            server.host = self.host
        if island:
            first.host, first.command_prefix = island.inside, island.prefix
        self.proxies = [Proxy(server.port) for server in self.servers if proxied]
        for server, proxy in zip(self.servers, self.proxies, strict=False):
            server.config["replica-announce-port"] = str(proxy.port)
        address = f"{first.host} {self._port(first)}"
        for replica in self.servers[1:]:
            replica.config["replicaof"] = address
        watch = {f"sentinel monitor {SERVICE} {address} 2": ""}
        watch |= {
            f"sentinel down-after-milliseconds {SERVICE}": str(down_after),
            f"sentinel failover-timeout {SERVICE}": str(max(3 * down_after, 3000)),
        }
        if password:
            watch[f"sentinel auth-pass {SERVICE}"] = f'"{password}"'
        if sentinel_password:
            watch["sentinel sentinel-pass"] = f'"{sentinel_password}"'
        self.sentinels = [
            _Sentinel(folder / f"sentinel{number}", password=sentinel_password, config=dict(watch))
            for number in range(3)
        ]
        for sentinel in self.sentinels:
            sentinel.host = self.host
            del sentinel.config["save"], sentinel.config["appendonly"]
        for server in (*self.servers, *self.sentinels) if island else ():
            server.config["protected-mode"] = "no"

    @property
    def url(self) -> str:
        """redis+sentinel://127.0.0.1:port,127.0.0.1:port,127.0.0.1:port/main/0"""
        secret = f":{quote(self.password, safe='')}@" if self.password else ""
        hosts = ",".join(f"{self.host}:{sentinel.port}" for sentinel in self.sentinels)
        options = {"sentinel_password": self.sentinel_password} if self.sentinel_password else {}
        query = f"?{urlencode(options)}" if options else ""
        return f"redis+sentinel://{secret}{hosts}/{SERVICE}/0{query}"

    def start(self) -> Self:
        """Start; wait until all know each other and have the same data."""
        start_all(*self.servers)
        replicas = self.servers[1:]
        until(
            lambda: all(
                "master_link_status:up" in one.cli("INFO", "replication") for one in replicas
            ),
            "replication",
        )
        start_all(*self.sentinels)
        until(lambda: all(map(self._knows_all, self.sentinels)), "the sentinels' acquaintance")
        return self

    def stop(self) -> None:
        """Stop all."""
        kill_all(*self.servers, *self.sentinels)
        for proxy in self.proxies:
            proxy.server_close()

    @property
    def primary(self) -> Redis:
        """The server that most sentinels take for the primary."""
        ports = []
        for sentinel in self.sentinels:
            with contextlib.suppress(subprocess.SubprocessError, IndexError):
                answer = sentinel.cli("SENTINEL", "GET-MASTER-ADDR-BY-NAME", SERVICE)
                ports.append(int(answer.split()[1]))
        port = max(set(ports), key=ports.count)
        return next(server for server in self.servers if self._port(server) == port)

    def proxy_of(self, server: Redis) -> Proxy:
        """What is before a server, if they are proxied."""
        return self.proxies[self.servers.index(server)]

    def switched(self, since: Redis) -> bool:
        """Whether there is another primary than `since`, which says so itself."""
        primary = self.primary
        return primary is not since and "role:master" in primary.cli("INFO", "replication")

    def await_switch(self, since: Redis, seconds: float = 30) -> Redis:
        """Wait for another primary than `since`; it."""
        until(lambda: self.switched(since), "a failover", seconds)
        return self.primary

    def await_replicas(self) -> None:
        """Wait until all servers are there and follow the primary."""
        until(self.are_content, "replication")

    def are_content(self) -> bool:
        """Whether all servers are there and follow the primary, and all sentinels agree."""
        with contextlib.suppress(subprocess.SubprocessError):
            if all(map(self._knows_all, self.sentinels)):
                told = self.primary.cli("INFO", "replication")
                return told.count("state=online") == len(self.servers) - 1
        return False

    def _port(self, server: Redis) -> int:
        """Where it is found."""
        return self.proxy_of(server).port if self.proxies else server.port

    def _knows_all(self, sentinel: Redis) -> bool:
        words = sentinel.cli("SENTINEL", "MASTER", SERVICE).splitlines()
        facts = dict(zip(words[::2], words[1::2], strict=False))
        return (
            facts.get("flags") == "master"
            and facts.get("num-slaves") == str(len(self.servers) - 1)
            and facts.get("num-other-sentinels") == str(len(self.sentinels) - 1)
        )
