"""Names are looked up aside, by a resolver that may be slow."""

import os
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from odoo.addons.redis_session_ormcache.connection import names as module
from odoo.addons.redis_session_ormcache.connection.names import QUICK, Names

MARGIN = 0.15  # seconds, for a slow machine


class Resolver:
    """Answers as soon as it may: `gate` is open unless a test closes it.

    Other names than those of these tests are looked up for real: threads of other tests may be
    about to connect.
    """

    def __init__(self):
        self.addresses, self.asked, self.gate = ["192.0.2.1"], 0, threading.Event()
        self.gate.set()

    def __call__(self, host):
        if host not in ("a", "b"):
            return self.real(host)
        self.asked += 1
        self.gate.wait()
        if isinstance(self.addresses, Exception):
            raise self.addresses
        return iter(self.addresses)


@pytest.fixture
def resolver(monkeypatch):
    resolver = Resolver()
    resolver.real = module._resolved
    monkeypatch.setattr(module, "_resolved", resolver)
    yield resolver
    resolver.gate.set()


def seconds(call):
    began = time.monotonic()
    call()
    return time.monotonic() - began


def settle(names):
    while names._lookups:
        time.sleep(0.005)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "fe80::1%lo"])
def test_an_address_is_not_looked_up(resolver, host):
    """Nothing is asked."""
    assert Names().addresses(host, 0) == (host,)
    assert not resolver.asked


def test_localhost_is_looked_up_for_real():
    """By the resolver of the machine."""
    assert set(Names().addresses("localhost", 5)) <= {"127.0.0.1", "::1"}


def test_a_quick_resolver_is_heard(resolver):
    """A name that moved is followed by the next call."""
    names = Names()
    assert names.addresses("a", 1) == ("192.0.2.1",)
    resolver.addresses = ["192.0.2.2", "192.0.2.3", "192.0.2.2"]
    resolver.gate.clear()
    threading.Timer(QUICK / 4, resolver.gate.set).start()
    assert names.addresses("a", 1) == ("192.0.2.2", "192.0.2.3")


def test_a_slow_resolver_is_waited_for_once(resolver):
    """For a moment; then for nobody, until a look-up is quick again, and asked once at a time."""
    names = Names()
    names.addresses("a", 1)
    resolver.gate.clear()
    resolver.addresses = ["192.0.2.2"]
    assert QUICK <= seconds(lambda: names.addresses("a", 1)) + 0.001 < QUICK + MARGIN
    assert seconds(lambda: [names.addresses("a", 1) for _ in range(50)]) < MARGIN
    assert names.addresses("a", 1) == ("192.0.2.1",)
    assert resolver.asked == 2
    resolver.gate.set()
    settle(names)
    assert names.addresses("a", 1) == ("192.0.2.2",)  # its result, though it was late
    settle(names)
    resolver.addresses = ["192.0.2.3"]
    names.addresses("a", 1)
    settle(names)
    resolver.addresses = ["192.0.2.4"]
    assert names.addresses("a", 1) == ("192.0.2.4",)  # waited for again


def test_what_is_not_known_is_waited_for_until_the_call_ends(resolver):
    """All that ask at once share a look-up."""
    names = Names()
    resolver.gate.clear()

    def ask():
        with pytest.raises(TimeoutError):
            names.addresses("a", 0.4)

    with ThreadPoolExecutor(20) as pool:
        took = list(pool.map(lambda _: seconds(ask), range(20)))
    assert min(took) + 0.001 >= 0.4
    assert max(took) < 0.4 + 2 * MARGIN
    assert resolver.asked == 1
    threading.Timer(0.1, resolver.gate.set).start()
    assert names.addresses("a", 2) == ("192.0.2.1",)


@pytest.mark.parametrize("error", [socket.gaierror(-3, "again"), UnicodeError("label too long")])
def test_a_look_up_that_fails_takes_nothing_away(resolver, error):
    """And is an OSError where nothing is known."""
    names = Names()
    names.addresses("a", 1)
    resolver.addresses = error
    assert names.addresses("a", 1) == ("192.0.2.1",)
    with pytest.raises(OSError, match="b: "):
        names.addresses("b", 1)


def test_a_fork_looks_up_itself(resolver):
    """A look-up of its parent's never ends there; what is known is known there too."""
    names = Names()
    names.addresses("a", 1)
    resolver.gate.clear()
    for name in ("a", "b"):
        names._look_up(name)
    pid = os.fork()
    if not pid:
        resolver.gate = threading.Event()
        resolver.gate.set()
        found = names.addresses("a", 1), names.addresses("b", 1)
        os._exit(int(found != (("192.0.2.1",),) * 2))
    assert os.waitpid(pid, 0)[1] == 0


def test_without_threads_the_last_address_is_used(resolver, monkeypatch):
    """A process that may have no more of them."""
    names = Names()
    names.addresses("a", 1)

    def no_thread(_self):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", no_thread)
    assert names.addresses("a", 1) == ("192.0.2.1",)
    with pytest.raises(OSError, match="can't start new thread"):
        names.addresses("b", 1)


def test_every_address_is_tried(resolver):
    """The last refusal is told."""
    resolver.addresses = ["192.0.2.1", "192.0.2.2"]
    tried = []

    def open_(address):
        tried.append(address)
        if address == "192.0.2.1" or len(tried) > 2:
            raise ConnectionRefusedError(address)
        return address

    assert Names().connect("a", 1, open_) == "192.0.2.2"
    with pytest.raises(ConnectionRefusedError, match=r"192.0.2.2"):
        Names().connect("a", 1, open_)
