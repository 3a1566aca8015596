"""The keys in Redis that :mod:`operation` has, and the only code that reads or writes them.

========================================  ====  ====================================================
key, after the prefix                     type  content
========================================  ====  ====================================================
``:nodes``                                hash  per process ``<host>:<pid>``: when it was seen last,
                                                and what it says of itself, in JSON
``:counters:<host>``                      hash  ``<name>|<database>|<method>``: a sum
``:history:<database>:<hour>``            hash  ``<minute>|<name>``: a sum
``:seen:<database>``                      zset  ``<identifier>:<uid>`` by the last activity
``:code:<database>``                      hash  by fingerprint: digests of the files, sealed
``:memory``                               hash  ``<hour of the day>``: bytes that Redis used
========================================  ====  ====================================================

Hosts and databases are the administrator's own; identifiers are those that Odoo shows in its device
log. Each key is bounded in length and has a TTL.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

from ..connection import RedisServer, Script

ALIVE = 35.0  # seconds for which a process is taken for alive after it was seen
GONE = 24 * 3600  # seconds after which a process that was not seen is forgotten
COUNTERS_TTL = 30 * 24 * 3600  # seconds after a node's last process counted
HISTORY_TTL = 25 * 3600  # seconds: a day, and the hour that it began in
SEEN_TTL = 7 * 24 * 3600  # seconds, as Odoo's own timeout of a session
LISTING_TTL = 24 * 3600  # seconds after a process of this code looked for it
MEMORY_TTL = 24 * 3600  # seconds
MOST_PROCESSES = 2_000
MOST_COUNTERS = 20_000  # of one node
MOST_SEEN = 100_000  # sessions of one database
LISTING_LEASE = 600  # seconds that one who claimed a listing may take
MOST_LISTINGS = 8  # fingerprints of one database
HOUR = 3600  # seconds
HOURS = 24  # of memory
MINUTES = 60  # of an hour

# Adds amounts to fields; a new field only where there is room. ARGV: ttl (s), most fields, then
# fields and amounts.
_ADD = Script(
    "add",
    """
local room = tonumber(ARGV[2]) - redis.call('HLEN', KEYS[1])
for i = 3, #ARGV, 2 do
    local is_known = redis.call('HEXISTS', KEYS[1], ARGV[i]) == 1
    if is_known or room > 0 then
        redis.call('HINCRBYFLOAT', KEYS[1], ARGV[i], ARGV[i + 1])
        room = room - (is_known and 0 or 1)
    end
end
redis.call('EXPIRE', KEYS[1], ARGV[1])
""",
)

# ARGV: ttl (s), most members, oldest score, then scores and members
_SEE = Script(
    "see",
    """
for i = 4, #ARGV, 2 do
    redis.call('ZADD', KEYS[1], ARGV[i], ARGV[i + 1])
end
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', '(' .. ARGV[3])
redis.call('ZREMRANGEBYRANK', KEYS[1], 0, -1 - tonumber(ARGV[2]))
redis.call('EXPIRE', KEYS[1], ARGV[1])
""",
)

# Answers with 1 when the field is the caller's to fill. When there are too many, all go, and those
# in use come again. ARGV: ttl (s), most fields, field, seconds until another may fill it
_CLAIM = Script(
    "claim",
    """
local value = redis.call('HGET', KEYS[1], ARGV[3])
local now = tonumber(redis.call('TIME')[1])
-- A claim is the time at which it was made: a process that died fills no field.
local claimed = value and tonumber(value)
local is_known = value and (not claimed or now - claimed < tonumber(ARGV[4]))
if not is_known then
    if not value and redis.call('HLEN', KEYS[1]) >= tonumber(ARGV[2]) then
        redis.call('UNLINK', KEYS[1])
    end
    redis.call('HSET', KEYS[1], ARGV[3], string.format('%.0f', now))
end
redis.call('EXPIRE', KEYS[1], ARGV[1])
return is_known and 0 or 1
""",
)

# ARGV: ttl (s), most fields, field, value
_PUT = Script(
    "put",
    """
if redis.call('HEXISTS', KEYS[1], ARGV[3]) == 1 or redis.call('HLEN', KEYS[1]) < tonumber(ARGV[2])
then
    redis.call('HSET', KEYS[1], ARGV[3], ARGV[4])
end
redis.call('EXPIRE', KEYS[1], ARGV[1])
""",
)


REDIS_SECONDS = "redis_seconds"  # its method is «<half> <command>»
REDIS_CALLS = "redis_calls"  # its method is «<half> <command> <upper end of the bucket>»


class Figure(NamedTuple):
    """A figure that is counted: of a database ("" for none), and of a cached method or none.

    Of Redis' own latency, ``method`` says of which command, and which bucket.
    """

    name: str
    database: str = ""
    method: str = ""


@dataclass(frozen=True)
class Process:
    """A process of Odoo, as it says of itself.

    :param role: "threaded", "web", "cron", "websocket", "shell", "wsgi" or "redis"
    :param started: seconds since the epoch, by Redis' clock
    :param addon: version of this addon
    :param odoo: version of Odoo
    :param fingerprints: of the code, by database: processes with the same one share cached values
    :param servers: what tells the PostgreSQL server from others, by database
    :param settings: those that all nodes must have alike
    :param parent: pid of its prefork server, by which PostgreSQL knows its connections; 0: none
    :param replaced: what took the place of sessions in Redis; "" if nothing did
    :param seen: seconds since the epoch, by Redis' clock
    """

    host: str
    pid: int
    role: str
    started: float
    addon: str
    odoo: str
    fingerprints: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    servers: Mapping[str, str] = field(default_factory=dict)
    parent: int = 0
    replaced: str = ""
    seen: float = 0.0


class Seen(NamedTuple):
    """A session of somebody who is logged in.

    :param activity: the last one that a flush knew of, in seconds since the epoch
    """

    identifier: str
    uid: int
    activity: float


class Books:
    """Reads and writes these keys.

    :param server: where they are
    :param prefix: of every key

    Every method raises RedisUnavailableError when Redis does not answer, and WrongTypeError where
    somebody else's key is there.
    """

    def __init__(self, server: RedisServer, prefix: str) -> None:
        self.server, self._prefix = server, prefix
        self.now = server.clock.now

    # -- what processes write ----------------------------------------------------------------------

    def add(self, host: str, amounts: Mapping[Figure, float]) -> None:
        """Add to the sums of a node, and to its databases' sums of this minute."""
        if not amounts:
            return
        fields = {"|".join(figure): amount for figure, amount in amounts.items()}
        self._add(f"{self._prefix}:counters:{host}", COUNTERS_TTL, MOST_COUNTERS, fields)
        minutes: dict[str, dict[str, float]] = {}
        hour, minute = divmod(int(self.now() // MINUTES), MINUTES)
        for figure, amount in amounts.items():
            sums = minutes.setdefault(figure.database, {})
            name = f"{minute}|{figure.name}"
            sums[name] = sums.get(name, 0) + amount
        for database, sums in minutes.items():
            key = f"{self._prefix}:history:{database}:{hour}"
            self._add(key, HISTORY_TTL, MOST_COUNTERS, sums)

    def see(self, database: str, sessions: Iterable[Seen]) -> None:
        """Take note of activity of sessions."""
        members = [
            part for seen in sessions for part in (seen.activity, f"{seen.identifier}:{seen.uid}")
        ]
        if members:
            key, oldest = f"{self._prefix}:seen:{database}", self.now() - SEEN_TTL
            self.server.evaluate(_SEE, key, SEEN_TTL, MOST_SEEN, oldest, *members)

    def register(self, process: Process) -> None:
        """Say that a process is alive."""
        told = asdict(process)
        seen = told.pop("seen")
        field_ = f"{process.host}:{process.pid}"
        text = f"{seen:.3f} {json.dumps(told, separators=(',', ':'))}"
        self._put(self._nodes, GONE, MOST_PROCESSES, field_, text)

    def claim_listing(self, database: str, fingerprint: str) -> bool:
        """Whether the caller is to put the listing of this code here: nobody has."""
        key = self._listings(database)
        answer = self.server.evaluate(
            _CLAIM, key, LISTING_TTL, MOST_LISTINGS, fingerprint, LISTING_LEASE
        )
        return bool(answer == 1)

    def put_listing(self, database: str, fingerprint: str, sealed: bytes) -> None:
        """Put the listing here that was claimed."""
        self._put(self._listings(database), LISTING_TTL, MOST_LISTINGS, fingerprint, sealed)

    def note_memory(self, used: int) -> None:
        """Take note of how many bytes Redis uses now."""
        hour = int(self.now() // HOUR)
        self._put(f"{self._prefix}:memory", MEMORY_TTL, HOURS, hour % HOURS, f"{hour} {used}")

    def forget(self, *processes: Process) -> None:
        """Say that processes have ended."""
        if processes:
            fields = (f"{process.host}:{process.pid}" for process in processes)
            self.server.execute("HDEL", self._nodes, *fields)

    # -- what people read --------------------------------------------------------------------------

    def processes(self) -> list[Process]:
        """Those that were seen within a day, by host and pid; see :data:`ALIVE`."""
        found = []
        for text in self._hash(self._nodes).values():
            seen, _space, told = text.partition(" ")
            try:
                found.append(Process(**json.loads(told), seen=float(seen)))
            except (TypeError, ValueError):  # of another version of this addon
                continue
        return sorted(found, key=lambda process: (process.host, process.pid))

    def alive(self) -> list[Process]:
        """Those that were seen a moment ago."""
        return [process for process in self.processes() if self.is_alive(process)]

    def is_alive(self, process: Process) -> bool:
        """Whether it was seen a moment ago."""
        return self.now() - process.seen < ALIVE

    def counters(self, host: str) -> dict[Figure, float]:
        """The sums of a node."""
        found = {}
        for name, amount in self._hash(f"{self._prefix}:counters:{host}").items():
            parts = name.split("|", 2)
            if len(parts) == 3:
                found[Figure(*parts)] = float(amount)
        return found

    def figures(self) -> dict[Figure, float]:
        """The sums of all nodes that were seen within a day."""
        sums: dict[Figure, float] = {}
        for host in {process.host for process in self.processes()}:
            for figure, amount in self.counters(host).items():
                sums[figure] = sums.get(figure, 0) + amount
        return sums

    def history(self, database: str, hours: int = 24) -> dict[int, dict[str, float]]:
        """By minute since the epoch: sums by name. Minutes without anything are absent."""
        latest = int(self.now() // MINUTES)
        hour_now = latest // MINUTES
        found: dict[int, dict[str, float]] = {}
        for hour in range(hour_now - hours, hour_now + 1):
            for name, amount in self._hash(f"{self._prefix}:history:{database}:{hour}").items():
                text, _bar, figure = name.partition("|")
                minute = hour * MINUTES + int(text)
                if minute > latest - hours * MINUTES:
                    found.setdefault(minute, {})[figure] = float(amount)
        return found

    def listings(self, database: str) -> dict[str, bytes]:
        """The sealed listings of a database's code, by fingerprint."""
        parts = self.server.execute("HGETALL", self._listings(database))
        return {
            name.decode(): value
            for name, value in zip(parts[::2], parts[1::2], strict=True)
            if not value.isdigit()  # a claim
        }

    def memory(self) -> dict[int, int]:
        """Bytes that Redis used, by hour since the epoch, of the last day."""
        notes = [map(int, note.split()) for note in self._hash(f"{self._prefix}:memory").values()]
        oldest = int(self.now() // HOUR) - HOURS
        return {hour: used for hour, used in notes if hour > oldest}

    def sessions(self, database: str, since: float = 0.0) -> list[Seen]:
        """Those with activity since then, the latest first. Some may have ended."""
        key = f"{self._prefix}:seen:{database}"
        answer = self.server.execute("ZREVRANGEBYSCORE", key, "+inf", since, "WITHSCORES")
        parts = [part.decode() for part in answer]
        found = []
        for member, score in zip(parts[::2], parts[1::2], strict=True):
            identifier, _colon, uid = member.rpartition(":")
            found.append(Seen(identifier, int(uid), float(score)))
        return found

    @property
    def _nodes(self) -> str:
        return f"{self._prefix}:nodes"

    def _listings(self, database: str) -> str:
        return f"{self._prefix}:code:{database}"

    def _put(self, key: str, ttl: int, most: int, name: object, value: object) -> None:
        self.server.evaluate(_PUT, key, ttl, most, name, value)

    def _add(self, key: str, ttl: int, most: int, amounts: Mapping[str, float]) -> None:
        arguments = [part for name, amount in amounts.items() for part in (name, amount)]
        self.server.evaluate(_ADD, key, ttl, most, *arguments)

    def _hash(self, key: str) -> dict[str, str]:
        parts = [part.decode(errors="replace") for part in self.server.execute("HGETALL", key)]
        return dict(zip(parts[::2], parts[1::2], strict=True))
