"""A Redis Cluster."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from .process import LOOPBACK, ServerError, Together, free_port, kill_all, start_all, until
from .proxy import Proxy
from .redis import Redis

if TYPE_CHECKING:
    from typing_extensions import Self

SLOTS = 16384


class Cluster(Together):
    """Primaries that share the slots, each with a replica.

    :param node_timeout: milliseconds of silence after which a node is taken for dead
    :param proxied: whether each node is behind a proxy, of `proxies`, for clients and replicas; the
        nodes' own bus is not
    """

    def __init__(
        self,
        folder: Path,
        *,
        primaries: int = 3,
        node_timeout: int = 1000,
        password: str | None = None,
        config: Mapping[str, str] | None = None,
        proxied: bool = False,
    ) -> None:
        self.primaries, self.password = primaries, password
        secret = {"masterauth": f'"{password}"'} if password else {}
        self._folder = folder
        self._config = {
            "cluster-enabled": "yes",
            "cluster-config-file": "nodes.conf",
            "cluster-node-timeout": str(node_timeout),
            "cluster-require-full-coverage": "no",
            "repl-diskless-sync-delay": "0",
            **secret,
            **(config or {}),
        }
        self.nodes = [self._node(number) for number in range(2 * primaries)]
        self.proxies = [Proxy(node.port) for node in self.nodes if proxied]
        for node, proxy in zip(self.nodes, self.proxies, strict=False):
            node.config["cluster-announce-port"] = str(proxy.port)
        self._ids: dict[str, Redis] = {}

    @property
    def url(self) -> str:
        """redis+cluster://127.0.0.1:port,127.0.0.1:port,127.0.0.1:port"""
        secret = f":{quote(self.password, safe='')}@" if self.password else ""
        ends = self.proxies or self.nodes
        hosts = ",".join(f"{LOOPBACK}:{end.port}" for end in ends[: self.primaries])
        return f"redis+cluster://{secret}{hosts}"

    def start(self) -> Self:
        """Start; make the cluster; wait until all its nodes are content."""
        start_all(*self.nodes)
        self._ids = {node.cli("CLUSTER", "MYID"): node for node in self.nodes}
        share = SLOTS // self.primaries
        for number, node in enumerate(self.nodes[: self.primaries]):
            last = SLOTS - 1 if number == self.primaries - 1 else (number + 1) * share - 1
            node.cli("CLUSTER", "ADDSLOTSRANGE", str(number * share), str(last))
            node.cli("CLUSTER", "SET-CONFIG-EPOCH", str(number + 1))
        self._meet(*self.nodes[1:])
        for primary, replica in zip(
            self.nodes[: self.primaries], self.nodes[self.primaries :], strict=True
        ):
            replica.cli("CLUSTER", "REPLICATE", self.id_of(primary))
        self.await_replicas()
        return self

    def add_node(self) -> Redis:
        """Start one that has no slots, and wait until all know it and it serves."""
        node = self._node(len(self.nodes))
        self.nodes.append(node)
        node.start()
        self._ids[node.cli("CLUSTER", "MYID")] = node
        self._meet(node)
        until(lambda: "cluster_state:ok" in node.cli("CLUSTER", "INFO"), "a node that serves")
        return node

    def _node(self, number: int) -> Redis:
        config = {**self._config, "cluster-port": str(free_port())}
        return Redis(self._folder / f"node{number}", password=self.password, config=config)

    def _meet(self, *nodes: Redis) -> None:
        for node in nodes:
            bus = node.config["cluster-port"]
            self.nodes[0].cli("CLUSTER", "MEET", LOOPBACK, str(node.port), bus)
        until(
            lambda: all(
                f"cluster_known_nodes:{len(self.nodes)}" in node.cli("CLUSTER", "INFO")
                and "handshake" not in node.cli("CLUSTER", "NODES")
                for node in self.nodes
            ),
            "the cluster's acquaintance",
        )

    def await_replicas(self) -> None:
        """Wait until each primary has a replica, and all nodes know it."""
        until(lambda: all(map(self._is_content, self.nodes)), "the cluster's contentment")

    def stop(self) -> None:
        """Stop all."""
        kill_all(*self.nodes)
        for proxy in self.proxies:
            proxy.server_close()

    def proxy_of(self, node: Redis) -> Proxy:
        """The proxy before a node, if they are proxied."""
        return self.proxies[self.nodes.index(node)]

    def id_of(self, node: Redis) -> str:
        """What the cluster calls a node."""
        return next(name for name, one in self._ids.items() if one is node)

    def slot(self, key: str) -> int:
        """The slot of a key."""
        node = next(node for node in self.nodes if node.running)
        return int(node.cli("CLUSTER", "KEYSLOT", key))

    def primary_of(self, slot: int, asked: Redis | None = None) -> Redis:
        """Who serves a slot, as a node knows."""
        asked = asked or next(node for node in self.nodes if node.running)
        for line in asked.cli("CLUSTER", "NODES").splitlines():
            name, _address, flags, *_rest = words = line.split()
            ranges = [word.partition("-") for word in words[8:] if not word.startswith("[")]
            serves = "master" in flags and "fail" not in flags.split(",")
            if serves and any(int(low) <= slot <= int(high or low) for low, _, high in ranges):
                return self._ids[name]
        raise ServerError(f"nobody serves slot {slot}")

    def begin_migration(self, slot: int, to: Redis) -> Redis:
        """Begin to move a slot to another primary; from whom."""
        source = self.primary_of(slot)
        to.cli("CLUSTER", "SETSLOT", str(slot), "IMPORTING", self.id_of(source))
        source.cli("CLUSTER", "SETSLOT", str(slot), "MIGRATING", self.id_of(to))
        return source

    def migrate_keys(self, slot: int, source: Redis, to: Redis, count: int = 1000) -> int:
        """Move keys of a slot; how many there were."""
        keys = source.cli("CLUSTER", "GETKEYSINSLOT", str(slot), str(count)).split()
        if keys:
            source.cli("MIGRATE", LOOPBACK, str(to.port), "", "0", "5000", "KEYS", *keys)
        return len(keys)

    def end_migration(self, slot: int, to: Redis) -> None:
        """Let the other primary have the slot."""
        primaries = {
            id(self.primary_of(number)): self.primary_of(number) for number in range(0, SLOTS, 1000)
        }
        for node in [to, *primaries.values()]:
            node.cli("CLUSTER", "SETSLOT", str(slot), "NODE", self.id_of(to))

    def _is_content(self, node: Redis) -> bool:
        lines = node.cli("CLUSTER", "NODES").splitlines()
        replicas = sum("slave" in line.split()[2] and "connected" in line for line in lines)
        state = node.cli("CLUSTER", "INFO")
        role = node.cli("INFO", "replication")
        return (
            "cluster_state:ok" in state
            and "cluster_slots_ok:16384" in state
            and replicas == self.primaries
            and not any("fail" in line.split()[2] for line in lines)
            and ("role:master" in role or "master_link_status:up" in role)
        )
