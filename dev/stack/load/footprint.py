"""What a process uses: threads, files, connections."""

from __future__ import annotations

import contextlib
import os
from collections import Counter
from pathlib import Path
from socket import AF_UNIX, SOCK_STREAM
from typing import NamedTuple

import psutil

# The addon's threads that start when they are first needed: one that sends values of the cache, one
# that notes activity, and one of each half that looks for another primary.
LATE_THREADS = 4


class Footprint(NamedTuple):
    """What a process uses.

    :param files: open files of each kind, without TCP connections
    :param clients: connections to a port that it listens on
    :param servers: its other connections, by the port at the other end
    :param half_closed: how many were closed or reset by the other end, and not yet here
    """

    threads: int
    files: Counter[str]
    clients: int
    servers: Counter[int]
    half_closed: int

    def is_calm(self, before: Footprint, connections: int) -> bool:
        """Whether it is what it was, but for connections that are kept in pools.

        :param connections: that may be kept to each server
        """
        return (
            self.threads <= before.threads + LATE_THREADS
            and self.files.total() <= before.files.total()
            and self.clients == 0
            and max(self.servers.values(), default=0) <= connections
            and self.half_closed <= 8  # the cache's, which it closes when it next asks
        )

    @classmethod
    def of(cls, pid: int) -> Footprint:
        """Of a process of this machine."""
        process = psutil.Process(pid)
        links = {}
        for link in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                links[int(link.name)] = os.readlink(link)
        known = {one.fd: one for one in process.net_connections("all") if one.fd in links}
        tcp = [one for one in known.values() if one.type == SOCK_STREAM and one.family != AF_UNIX]
        ports = {one.laddr.port for one in tcp if one.status == psutil.CONN_LISTEN}
        ends = [one for one in tcp if one.status != psutil.CONN_LISTEN]
        servers = [one for one in ends if one.laddr.port not in ports]
        # A socket that no table of the kernel lists was reset by its other end.
        reset = [fd for fd, name in links.items() if name.startswith("socket:") and fd not in known]
        others = links.keys() - {one.fd for one in tcp} - set(reset)
        return cls(
            threads=process.num_threads(),
            files=Counter(links[fd] for fd in others),
            clients=len(ends) - len(servers),
            servers=Counter(one.raddr.port for one in servers if one.raddr),
            half_closed=len(reset) + sum(one.status == psutil.CONN_CLOSE_WAIT for one in servers),
        )
