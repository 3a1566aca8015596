"""A network of its own for a server, which can be cut off: packets vanish, nobody is told.

Needs root, and `ip` of the package iproute2.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
from typing import TYPE_CHECKING

from .process import ServerError, alive

if TYPE_CHECKING:
    from typing_extensions import Self

_NAME = "redis-island-{pid}"


class Island:
    """A network namespace and the one cable that leads to it.

    Servers started with the command `prefix` are on it, at the address `inside`; they reach this
    machine's servers at `outside`.
    """

    def __init__(self) -> None:
        pid = os.getpid()
        self.name = _NAME.format(pid=pid)
        subnet = f"10.{200 + pid // 16384 % 50}.{pid // 64 % 256}.{pid % 64 * 4}"
        first = int(subnet.rpartition(".")[2])
        base = subnet.rpartition(".")[0]
        self.outside, self.inside = f"{base}.{first + 1}", f"{base}.{first + 2}"
        self.prefix = ["ip", "netns", "exec", self.name]

    @staticmethod
    def available() -> bool:
        """Whether this process may make one."""
        return os.geteuid() == 0 and shutil.which("ip") is not None

    def cut(self) -> None:
        """Pull the plug."""
        self._inside("link", "set", "port", "down")

    def heal(self) -> None:
        """Plug it in again."""
        self._inside("link", "set", "port", "up")

    def __enter__(self) -> Self:
        for name in _ip("netns", "list").split():
            pid = re.fullmatch(_NAME.format(pid=r"(\d+)"), name)
            if pid and not alive(int(pid[1])):
                _ip("netns", "del", name)
        cable = f"isle{os.getpid()}"
        _ip("netns", "add", self.name)
        _ip("link", "add", cable, "type", "veth", "peer", "name", "port", "netns", self.name)
        _ip("addr", "add", f"{self.outside}/30", "dev", cable)
        _ip("link", "set", cable, "up")
        self._inside("addr", "add", f"{self.inside}/30", "dev", "port")
        self._inside("link", "set", "lo", "up")
        self.heal()
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(ServerError):
            _ip("netns", "del", self.name)

    def _inside(self, *words: str) -> None:
        _ip("-netns", self.name, *words)


def _ip(*words: str) -> str:
    done = subprocess.run(["ip", *words], capture_output=True, text=True, check=False)
    if done.returncode:
        raise ServerError(f"ip {' '.join(words)}: {done.stderr.strip()}")
    return done.stdout
