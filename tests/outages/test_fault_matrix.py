"""Every call of the store in every fault, at every moment of the call: a server, Sentinel, Cluster.

All servers are behind proxies. A call's moment is the n-th question or answer of it that passes
there; each call of a round waits at its own, until all do, and then the fault begins for all.
"""

import contextlib
import itertools
import logging
import random
import re
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from redis.crc import key_slot

from odoo.addons.redis_session_ormcache.sessions import SessionStoreUnavailable
from odoo.addons.redis_session_ormcache.tests.conftest import TIMEOUT
from odoo.addons.redis_session_ormcache.tests.support.dose import dose
from stack.servers import Cluster, Proxy, Redis, Sentinels, ServerError, until

PARTS = 3
PART = 5461  # slots of a Cluster's primary
MARGIN = 1.2  # seconds, for a slow machine with some forty calls at once
DURABLE = {"appendonly": "yes", "appendfsync": "always"}  # a server that comes back has its data
NEVER = 60_000  # milliseconds of silence that no fault reaches: nobody takes over
SOON = 1000  # milliseconds of silence after which a replica takes over
WITHOUT_TTL = """
for _, key in ipairs(redis.call('KEYS', '*:cell*')) do
    if redis.call('TTL', key) < 0 then return key end
end
return 'none'
"""


# -- servers ---------------------------------------------------------------------------------------


class Lone:
    """One server."""

    name, alone, keeps_serving = "server", True, ()

    def __init__(self, folder):
        self.server = Redis(folder, config=DURABLE)
        self.proxies = []

    def __enter__(self):
        self.server.start()
        self.proxies.append(Proxy(self.server.port))
        self.url = self.proxies[0].url
        return self

    def __exit__(self, *_exception):
        self.proxies[0].server_close()
        self.server.stop()

    victim = property(lambda self: self.server)
    serving = property(lambda self: [self.server])

    def proxy_of(self, _server):
        return self.proxies[0]

    def may_replace(self, _milliseconds):
        """Nobody is there to take over."""

    def settle(self):
        """It has no replicas to wait for."""


class Watched(Sentinels):
    """A primary with two replicas and sentinels, which do not agree on one that is reset or cut:
    each new connection makes it look well for a moment."""

    name, alone = "sentinel", False
    keeps_serving = ("paused", "killed", "silent")

    def __init__(self, folder):
        super().__init__(folder, config=DURABLE, proxied=True)

    @property
    def victim(self):
        primary = self.primary
        primary.config.pop("replicaof", None)  # as Sentinel rewrites its file
        return primary

    serving = property(lambda self: [self.primary])

    def may_replace(self, milliseconds):
        for sentinel in self.sentinels:
            told = ("main", "down-after-milliseconds", str(milliseconds))
            sentinel.cli("SENTINEL", "SET", *told)

    settle = Sentinels.await_replicas


class Sharded(Cluster):
    """Three primaries with a replica each. The nodes' bus has no proxy: they see the node well
    that clients cannot reach."""

    name, alone, keeps_serving = "cluster", False, ("paused", "killed")

    def __init__(self, folder):
        super().__init__(folder, config=DURABLE, proxied=True)

    victim = property(lambda self: self.serving[0])

    @property
    def serving(self):
        return [self.primary_of(part * PART, asked=self.nodes[1]) for part in range(PARTS)]

    def may_replace(self, milliseconds):
        for node in self.nodes:
            node.cli("CONFIG", "SET", "cluster-node-timeout", str(milliseconds))

    settle = Cluster.await_replicas


def mode(name):
    return lambda _server, proxy: setattr(proxy, "mode", name)


FAULTS = {
    "paused": (lambda server, _proxy: server.pause(), lambda server, _proxy: server.resume()),
    "killed": (lambda server, _proxy: server.kill(), lambda server, _proxy: server.start()),
    "reset": (mode("reset"), mode("pass")),
    "cut": (mode("cut"), mode("pass")),
    "silent": (mode("hole"), mode("pass")),
    "refused": (mode("refuse"), mode("pass")),
    "late": (mode("pass"), mode("pass")),  # see Gate
}


class Gate:
    """Holds the calls of a round at their moments; knows a call by the prefix of its keys.

    :param late: whether a question is held until the fault is over, and delivered then
    """

    def __init__(self, cells=(), late=False):
        self.cells, self.late = {cell.number: cell for cell in cells}, late
        self.begun, self.over = threading.Event(), threading.Event()
        self.questions = dict.fromkeys(self.cells, 0)
        self._asked = {}

    def __call__(self, data, client, answering):
        if not answering:
            found = re.search(rb":cell(\d+):", data)
            self._asked[client] = self.cells.get(int(found[1])) if found else None
        cell = self._asked.get(client)
        if cell is None or self.over.is_set():
            return
        if not answering:
            self.questions[cell.number] += 1
        moment = ("answer" if answering else "question", self.questions[cell.number])
        if moment == cell.moment and not self.begun.is_set():
            cell.waits.set()
            self.begun.wait(10)
        if self.late and self.begun.is_set():
            self.over.wait(10)


# -- calls -----------------------------------------------------------------------------------------


def rotate_softly(store, session):
    store.rotate(session, None, True)


def touch(store, session):
    session.redis_record = session.redis_record._replace(seen=0)
    store.touch(session)


def tidy_up(store, session):
    session.update(gc_previous_sessions=True, create_time=0)
    store.delete_old_sessions(session)


def get(store, session):
    found = store.get(session.sid)
    assert not found.is_new
    assert found["a"] == 0


def get_nothing(store, session):
    assert store.get(session.sid[:42] + store.generate_key()[42:]).is_new


def find_missing(store, session):
    assert store.get_missing_session_identifiers([session.sid[:42]]) == set()


def create(store, session):
    new = store.new()
    new.update(session, a=1)
    session.sid = new.sid
    store.save(new)


def log_out(store, session):
    session["uid"] = None
    store.rotate(session, None)


CALLS = {
    "get": get,
    "get nothing": get_nothing,
    "find missing": find_missing,
    "touch": touch,
    "tidy up": tidy_up,
    "save": lambda store, session: store.save(session),
    "create": create,
    "rotate softly": rotate_softly,
    "rotate": lambda store, session: store.rotate(session, None),
    "log out": log_out,
    "delete": lambda store, session: store.delete(session),
    "revoke": lambda store, session: store.delete_from_identifiers([session.sid[:42]]),
}
CHANGES = ("save", "rotate softly", "rotate")  # of them the session has "a" 1, and 0 in Redis
PATIENT = ("touch", "tidy up")  # they can be done another time, and raise nothing


class Cell:
    """One call in one fault, at one moment: before it, or its n-th question or answer."""

    numbers = itertools.count()

    def __init__(self, call, moment):
        self.call, self.moment = call, moment
        self.number = next(self.numbers)
        self.waits = threading.Event()
        self.done, self.seconds = False, 0.0  # whether it returned, and after how long

    def __repr__(self):
        return f"{self.call}, {' '.join(map(str, self.moment))}"

    def prepare(self, make_store, servers, new_session, part=0):
        """Give it a store, as of a node of its own, and a session on the server that will fail; or
        in a Cluster in another part."""
        self.prefix = f"odoo:cell{self.number}"
        self.store = make_store(servers, prefix=self.prefix)
        session = new_session(self.store, a=0, uid=2 if self.call == "log out" else None)
        while key_slot(f"{self.prefix}:session:{session.sid[:42]}".encode()) // PART != part:
            session.sid = self.store.generate_key()
        patiently(self.store.save, session)
        self.session = patiently(self.store.get, session.sid)
        self.sid = session.sid
        if self.call in CHANGES:
            self.session["a"] = 1

    def run(self):
        began = time.monotonic()
        with contextlib.suppress(SessionStoreUnavailable):
            CALLS[self.call](self.store, self.session)
            self.done = True
        self.seconds = time.monotonic() - began

    def allowed(self, fault, switched):
        """What may be found under its old sid and its new one: the value of "a", None if nothing.

        A successor counts as found under its predecessor's sid.
        """
        kept = (0, None)
        asked = self.moment[0] == "answer" or fault == "cut"  # the server heard of a change
        changed = {
            "save": {(1, None)},
            "create": {(0, 1)},
            "rotate softly": {(1, 1)},
            "rotate": {(None, 1)},
            "log out": {(None, 0), (None, None)},  # its successor may be lost
            "delete": {(None, None)},
            "revoke": {(None, None)},
        }.get(self.call, {kept})
        if self.done:
            lost = {kept, (0, 1)} if self.call == "rotate" else {kept}
            return changed | (lost if switched else set())
        if self.call == "rotate":  # the new one is stored first, perhaps on another node
            return {kept, (0, 1)} | (changed if asked or switched else set())
        if not asked:
            return {kept}
        # Refused, but done: nobody knows the next sid but the old one's record.
        return {kept} | ({(1, None)} if self.call == "rotate softly" else changed)

    def look(self, node):
        """What is found, and the session that a browser would have by now."""
        old, new = follow(node, self.sid), None
        if self.session.sid != self.sid:
            new = follow(node, self.session.sid)
        found = tuple(session["a"] if session is not None else None for session in (old, new))
        return found, new if new is not None else old


def follow(node, sid):
    """The session of a sid, or the successor that its record names."""
    session = node.get(sid)
    if session.is_new:
        return None
    if "next_sid" in session:
        session = node.get(session["next_sid"])
        assert not session.is_new, "a successor that is not there"
    return session


def patiently(call, *arguments):
    """Its result, when there is one again."""
    results = []

    def answered():
        with contextlib.suppress(SessionStoreUnavailable):
            results.append(call(*arguments))
        return results

    until(answered, "an answer", 20)
    return results[0]


def rehearse(make_store, servers, new_session):
    """Each call once, where nothing fails; with how many questions it takes.

    The servers know the scripts then.
    """
    cells = [Cell(call, ("none", 0)) for _part in range(PARTS) for call in CALLS]
    gate = Gate(cells)
    for number, cell in enumerate(cells):
        cell.prepare(make_store, servers, new_session, number // len(CALLS))
    listen(servers, gate)
    for cell in cells:
        cell.run()
        assert cell.done
        cell.store.server.disconnect()
    listen(servers, None)
    return cells, gate


def moments(make_store, servers, new_session):
    """All calls with all their moments."""
    rehearse(make_store, servers, new_session)
    cells, gate = rehearse(make_store, servers, new_session)
    for cell in cells[-len(CALLS) :]:
        yield cell.call, ("before", 0)
        for number in range(1, gate.questions[cell.number] + 1):
            yield cell.call, ("question", number)
            yield cell.call, ("answer", number)


def ports(servers):
    """Of the servers that take changes."""
    return [server.port for server in servers.serving]


def is_replaced(servers, former):
    """Whether another server has taken over; False while nobody has."""
    with contextlib.suppress(ServerError):
        return servers.victim is not former
    return False


def listen(servers, gate):
    for proxy in servers.proxies:
        proxy.hold = gate


# -- rounds ----------------------------------------------------------------------------------------


def play(servers, fault, replaced, cells, make_store, new_session):
    """One fault in the middle of all these calls; what went wrong, a line each.

    :param replaced: whether it lasts until a replica has taken over
    """
    servers.settle()
    servers.may_replace(SOON if replaced else NEVER)
    stores = {}

    def node(cell):
        """Another node's store; one that no fault has touched."""
        if cell.number not in stores:
            stores[cell.number] = make_store(servers, prefix=cell.prefix)
        return stores[cell.number]

    rehearse(make_store, servers, new_session)
    for cell in cells:
        cell.prepare(make_store, servers, new_session)
    victim = servers.victim
    proxy = servers.proxy_of(victim)
    begin, end = FAULTS[fault]
    gate = Gate(cells, late=fault == "late")
    listen(servers, gate)
    with ThreadPoolExecutor(len(cells)) as pool:
        held = [cell for cell in cells if cell.moment[0] != "before"]
        calls = {cell: pool.submit(cell.run) for cell in held}
        missed = [cell for cell in held if not cell.waits.wait(2)]
        begin(victim, proxy)
        gate.begun.set()
        calls |= {cell: pool.submit(cell.run) for cell in cells if cell not in held}
        errors = {cell: call.exception(timeout=30) for cell, call in calls.items()}
    listen(servers, None)
    if replaced:
        until(lambda: is_replaced(servers, victim), "another primary")
    else:
        end(victim, proxy)
        gate.over.set()
        servers.settle()
        time.sleep(0.1)  # what was held is delivered
    switched = is_replaced(servers, victim)

    wrong = [f"{cell}: never came to it" for cell in missed]
    wrong += [f"{cell}: {error!r}" for cell, error in errors.items() if error is not None]
    first = {}
    for cell in cells:
        if cell.seconds > TIMEOUT + MARGIN:
            wrong.append(f"{cell}: took {cell.seconds:.2f} s")
        if cell.done and servers.alone and cell.moment[0] == "before" and cell.call not in PATIENT:
            wrong.append(f"{cell}: acknowledged by nobody")
        first[cell], session = patiently(cell.look, node(cell))
        if first[cell] not in cell.allowed(fault, switched):
            answer = "acknowledged" if cell.done else "refused"
            wrong.append(f"{cell}: {answer}, found {first[cell]}")
        if session is not None:
            session["b"] = 1
            patiently(node(cell).save, session)
    serving = ports(servers)
    if replaced:
        end(victim, proxy)  # for some seconds it takes itself for the primary
        gate.over.set()
    time.sleep(0.5)
    found = {cell: patiently(cell.look, node(cell)) for cell in cells}
    if ports(servers) == serving:  # on a busy machine a third server may have taken over
        for cell, (again, session) in found.items():
            if again != first[cell] or (session is not None and session.get("b") != 1):
                wrong.append(f"{cell}: {first[cell]} became {again}, {session}")
    for primary in servers.serving:
        if (key := primary.cli("EVAL", WITHOUT_TTL, "0")) != "none":
            wrong.append(f"{key} has no expiry")
        primary.cli("FLUSHALL")
    for store in [*stores.values(), *(cell.store for cell in cells)]:
        store.server.disconnect()
    names = [thread.name for thread in threading.enumerate() if thread.name.startswith("redis-")]
    return wrong + [f"a thread is left: {name}" for name in names]


@pytest.mark.parametrize("kind", [Lone, Watched, Sharded], ids=lambda kind: kind.name)
def test_each_call_at_each_moment_of_each_fault(
    kind, tmp_path, make_store, new_session, seed, caplog
):
    """No call takes silence for a session that is not there, or waits longer than it may. An
    acknowledged change is there, unless a replica without it took over; a refused one is not made
    later; all sessions expire; no thread is left."""
    caplog.set_level(logging.INFO, "odoo.addons.redis_session_ormcache")
    wrong, count = [], 0
    with kind(tmp_path) as servers:
        calls = list(moments(make_store, servers, new_session))
        chosen = []
        for replaced, faults in ((False, list(FAULTS)), (True, servers.keeps_serving)):
            number = len(faults) if servers.alone else dose(1, len(faults))
            some = random.Random(seed).sample(faults, number)
            chosen += [(fault, replaced) for fault in some]
        for fault, replaced in chosen:
            began = time.monotonic()
            cells = [Cell(*call) for call in calls]
            told = play(servers, fault, replaced, cells, make_store, new_session)
            name = f"{kind.name}, {fault}{', replaced' if replaced else ''}"
            wrong += [f"{name}: {line}" for line in told]
            count += len(cells)
            print(
                f"{name}: {len(cells)} calls, {sum(cell.done for cell in cells)} acknowledged, "
                f"the longest {max(cell.seconds for cell in cells):.2f} s, "
                f"{time.monotonic() - began:.1f} s in all"
            )
    print(f"{count} calls in {len(chosen)} faults")
    assert not wrong, "\n".join(wrong)
    assert not [record for record in caplog.records if record.exc_info]
    assert {record.levelno for record in caplog.records} <= {logging.INFO, logging.WARNING}
