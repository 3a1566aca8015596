"""A Redis that is far away.

The proxy is a process of its own: in the one that measures, it would take the client's time.
"""

from __future__ import annotations

import multiprocessing
import time
from multiprocessing.connection import Connection
from multiprocessing.sharedctypes import Synchronized
from typing import TYPE_CHECKING, Any

from stack.servers import Proxy

if TYPE_CHECKING:
    from typing_extensions import Self


class FarAway:
    """A proxy before a server on loopback, in a process of its own.

    :ivar url: of the Redis that answers later
    """

    def __init__(self, port: int) -> None:
        spawning = multiprocessing.get_context("spawn")
        here, there = spawning.Pipe()
        self._delay: Any = spawning.Value("d", 0.0)
        self._process = spawning.Process(
            target=_serve, args=(port, self._delay, there), daemon=True
        )
        self._process.start()
        self.url: str = here.recv()

    @property
    def delay(self) -> float:
        """Seconds that each answer is late."""
        return float(self._delay.value)

    @delay.setter
    def delay(self, seconds: float) -> None:
        self._delay.value = seconds

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self._process.kill()
        self._process.join()


def _serve(port: int, delay: Synchronized[float], there: Connection) -> None:
    class Late(Proxy):
        @property
        def delay(self) -> float:
            return delay.value

        @delay.setter
        def delay(self, _seconds: float) -> None:
            """The other process sets it."""

    there.send(Late(port).url)
    while True:
        time.sleep(60)
