"""What happens to Redis in a soak: each fault begins, lasts some seconds, and ends."""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from stack.servers import Proxy, Redis, Sentinels

Break = Callable[[Sentinels, Redis], contextlib.AbstractContextManager[None]]


@dataclass(frozen=True)
class Fault:
    """One that happened; times in seconds of the monotonic clock.

    :param switched: when another primary was seen afterwards, if so
    """

    name: str
    began: float
    ended: float
    switched: float | None


@contextlib.contextmanager
def killed(sentinels: Sentinels, server: Redis) -> Iterator[None]:
    server.kill()
    yield
    server.start()


@contextlib.contextmanager
def paused(sentinels: Sentinels, server: Redis) -> Iterator[None]:
    server.pause()
    yield
    server.resume()


@contextlib.contextmanager
def full(sentinels: Sentinels, server: Redis) -> Iterator[None]:
    server.cli("CONFIG", "SET", "maxmemory", "1")
    yield
    server.cli("CONFIG", "SET", "maxmemory", "0")


@contextlib.contextmanager
def slow(sentinels: Sentinels, server: Redis) -> Iterator[None]:
    proxy = sentinels.proxy_of(server)
    proxy.delay = 0.2
    yield
    proxy.delay = 0.0


@contextlib.contextmanager
def asked_to_step_down(sentinels: Sentinels, server: Redis) -> Iterator[None]:
    sentinels.sentinels[0].cli("SENTINEL", "FAILOVER", "main")
    yield


def _proxy(mode: str) -> Break:
    @contextlib.contextmanager
    def fault(sentinels: Sentinels, server: Redis) -> Iterator[None]:
        proxy: Proxy = sentinels.proxy_of(server)
        proxy.mode = mode
        yield
        proxy.mode = "pass"

    return fault


def _of_another(fault: Break, kind: str) -> Break:
    @contextlib.contextmanager
    def of_another(sentinels: Sentinels, server: Redis) -> Iterator[None]:
        others = sentinels.sentinels if kind == "sentinel" else sentinels.servers
        with fault(sentinels, random.choice([other for other in others if other is not server])):
            yield

    return of_another


# Of the primary if nothing else is said; how many seconds it lasts.
FAULTS: dict[str, tuple[Break, float]] = {
    "killed": (killed, 5),
    "paused": (paused, 10),
    "packets dropped": (_proxy("hole"), 10),
    "connections refused": (_proxy("refuse"), 6),
    "answers cut": (_proxy("cut"), 6),
    "connections reset": (_proxy("reset"), 6),
    "200 ms slower": (slow, 8),
    "out of memory": (full, 4),
    "failover asked for": (asked_to_step_down, 5),
    "replica killed": (_of_another(killed, "server"), 5),
    "sentinel paused": (_of_another(paused, "sentinel"), 8),
}


def happen(name: str, sentinels: Sentinels, until: float) -> Fault:
    """Let one happen; it, when all servers follow one primary again.

    :param until: the time by which they should
    """
    fault, seconds = FAULTS[name]
    primary, switched = sentinels.primary, None

    def look_on(end: float, enough: Callable[[], bool] = lambda: False) -> None:
        nonlocal switched
        while time.monotonic() < end and not enough():
            if switched is None and sentinels.primary is not primary:
                switched = time.monotonic()
            time.sleep(0.3)

    began = time.monotonic()
    with fault(sentinels, primary):
        look_on(began + seconds)
    ended = time.monotonic()
    look_on(until, sentinels.are_content)
    return Fault(name, began, ended, switched)
