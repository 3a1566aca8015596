"""Addresses of names, looked up off the time of calls.

A resolver may take long, and cannot be told to give up: where the first of two name servers is
dead, each look-up takes five seconds. So a thread asks it, and the last good addresses are used
meanwhile. Numeric addresses are taken as they are.
"""

import ipaddress
import os
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from typing import TypeVar

from .clock import monotonic

QUICK = 0.25  # seconds that a look-up may take for which calls wait, though an address is known

T = TypeVar("T")


class Names:
    """The addresses of names, as far as this process knows them.

    Threads share it without a lock: a race costs one more look-up. Those of a parent process are
    not there in a fork, which knows their results.
    """

    def __init__(self) -> None:
        self._known: dict[str, tuple[str, ...]] = {}  # the last good addresses
        self._slow: set[str] = set()  # whose last look-up was
        self._lookups: dict[str, _LookUp] = {}  # those at work

    def addresses(self, name: str, seconds: float | None) -> tuple[str, ...]:
        """Numeric addresses of a host: new ones if they are to be had soon, or the last good ones.

        A name may have moved, so each call asks for it, and waits a moment while that is quick.

        :param seconds: to wait while none is known; None: until the resolver gives up
        :raises TimeoutError: none is known by then
        :raises OSError: none is known, and the resolver knows none either
        """
        if _is_numeric(name):
            return (name,)
        lookup = self._look_up(name)
        known = self._known.get(name)
        if known is None:
            lookup.done.wait(seconds)
        elif name not in self._slow:
            left = lookup.began + QUICK - monotonic()
            if not lookup.done.wait(max(0.0, left if seconds is None else min(left, seconds))):
                self._slow.add(name)
        known = self._known.get(name)
        if known is not None:
            return known
        if lookup.error is not None:
            raise OSError(f"{name}: {lookup.error}") from lookup.error
        raise TimeoutError(f"{name} is still being looked up")

    def connect(self, name: str, seconds: float | None, open_: Callable[[str], T]) -> T:
        """Connect to the first of a name's addresses that accepts; the result of ``open_``.

        :param open_: connects to an address, or raises OSError
        """
        refusal: OSError | None = None
        for address in self.addresses(name, seconds):
            try:
                return open_(address)
            except ssl.SSLError:  # somebody is there
                raise
            except OSError as error:
                refusal = error
        assert refusal
        raise refusal

    def _look_up(self, name: str) -> "_LookUp":
        """The look-up at work, or a new one."""
        while True:
            fresh = _LookUp(self, name)
            lookup = self._lookups.setdefault(name, fresh)
            if lookup is fresh:
                try:
                    lookup.start()
                except RuntimeError as error:  # out of threads or memory
                    lookup.end(None, OSError(str(error)))
                return lookup
            if lookup.process == os.getpid():
                return lookup
            self._lookups.pop(name, None)  # of the process that this one was forked from

    def _found(self, lookup: "_LookUp", addresses: tuple[str, ...] | None) -> None:
        if addresses:
            self._known[lookup.host] = addresses
        if monotonic() - lookup.began > QUICK:
            self._slow.add(lookup.host)
        else:
            self._slow.discard(lookup.host)
        self._lookups.pop(lookup.host, None)


class _LookUp(threading.Thread):
    """Asks the resolver once."""

    def __init__(self, names: Names, host: str) -> None:
        super().__init__(name="redis-names", daemon=True)
        self.host, self.process, self.began = host, os.getpid(), monotonic()
        self.done = threading.Event()
        self.error: Exception | None = None
        self._names = names

    def run(self) -> None:
        try:
            self.end(tuple(dict.fromkeys(_resolved(self.host))), None)
        except (OSError, ValueError) as error:  # a name that cannot be one is a ValueError
            self.end(None, error)

    def end(self, addresses: tuple[str, ...] | None, error: Exception | None) -> None:
        """Tell all that wait."""
        self.error = error
        self._names._found(self, addresses)
        self.done.set()


def _resolved(host: str) -> Iterator[str]:
    numeric = socket.NI_NUMERICHOST | socket.NI_NUMERICSERV
    for *_kind, address in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM):
        yield socket.getnameinfo(address, numeric)[0]


def _is_numeric(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


NAMES = Names()  # of this process: both halves may name the same servers
