"""A name server on loopback, which may be slow, and processes that ask it. Needs root."""

from __future__ import annotations

import itertools
import os
import shutil
import socket
import socketserver
import struct
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .process import ServerError

_HEADER = struct.Struct(">HHHHHH")  # id, flags, questions, answers, two more counts
_ANSWER, _UNKNOWN = 0x8180, 0x8183  # flags: there is no such name
_A, _IN = 1, 1
_PLACES = [f"127.0.53.{number}" for number in range(1, 255)]
_MOUNT = 'mount --bind "$0" /etc/resolv.conf && exec "$@"'


class Resolver(socketserver.ThreadingUDPServer):
    """Knows IPv4 addresses of `names`; a process that is started by `prefix` asks nobody else.

    :param folder: for a resolv.conf
    :ivar delay: seconds that each answer takes
    :ivar asked: how many questions came
    """

    daemon_threads = True

    def __init__(self, folder: Path, names: Mapping[str, str]) -> None:
        self.names, self.delay, self.asked = dict(names), 0.0, 0
        place = _place()
        super().__init__((place, 53), socketserver.BaseRequestHandler)
        conf = folder / "resolv.conf"
        conf.parent.mkdir(parents=True, exist_ok=True)
        conf.write_text(f"nameserver {place}\noptions timeout:30 attempts:1\n")
        self.prefix = ["unshare", "--mount", "sh", "-c", _MOUNT, str(conf)]
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()

    @staticmethod
    def available() -> bool:
        """Whether this process may have one."""
        return os.geteuid() == 0 and shutil.which("unshare") is not None

    def finish_request(self, request: Any, client_address: Any) -> None:
        question, server = request
        self.asked += 1
        time.sleep(self.delay)
        number, _flags, *_counts = _HEADER.unpack_from(question)
        words, at = [], _HEADER.size
        while length := question[at]:
            words.append(question[at + 1 : at + 1 + length].decode())
            at += 1 + length
        kind, _class = struct.unpack_from(">HH", question, at + 1)
        address = self.names.get(".".join(words).lower())
        found = [address] if address and kind == _A else []
        records = b"".join(
            struct.pack(">HHHIH4s", 0xC00C, _A, _IN, 0, 4, socket.inet_aton(ip)) for ip in found
        )
        flags = _ANSWER if address else _UNKNOWN
        head = _HEADER.pack(number, flags, 1, len(found), 0, 0)
        server.sendto(head + question[_HEADER.size : at + 5] + records, client_address)

    def server_close(self) -> None:
        self.shutdown()
        super().server_close()


def _place() -> str:
    """An address on loopback at whose port 53 nobody listens."""
    first = os.getpid() % len(_PLACES)
    for place in itertools.islice(itertools.cycle(_PLACES), first, first + len(_PLACES)):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            try:
                probe.bind((place, 53))
            except OSError:
                continue
        return place
    raise ServerError("no address on loopback has its port 53 free")
