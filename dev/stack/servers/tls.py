"""A Redis that speaks TLS, and the certificates for it."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlencode

import trustme

from .process import LOOPBACK, free_port
from .redis import Redis

NAMED = "redis.test"  # in the server's certificate, for a `Resolver`


class Certificates:
    """An authority, what it signed for a server on loopback and for a client; another authority."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.ca, self.server, self.client, self.expired, self.other_ca = (
            folder / name for name in ("ca", "server", "client", "expired", "other-ca")
        )
        authority = trustme.CA()
        yesterday = datetime.datetime.now(datetime.timezone.utc) - datetime.timedelta(days=1)
        issued = {
            self.server: authority.issue_cert("localhost", NAMED, LOOPBACK),
            self.client: authority.issue_cert("client.example"),
            self.expired: authority.issue_cert("localhost", LOOPBACK, not_after=yesterday),
        }
        for path, pair in issued.items():
            _write(path, pair.cert_chain_pems[0], pair.private_key_pem)
        for path, ca in {self.ca: authority, self.other_ca: trustme.CA()}.items():
            _write(path, ca.cert_pem, ca.private_key_pem)

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


def _write(path: Path, certificate: trustme.Blob, key: trustme.Blob) -> None:
    certificate.write_to_path(path.with_name(f"{path.name}.crt"))
    key.write_to_path(path.with_name(f"{path.name}.key"))
