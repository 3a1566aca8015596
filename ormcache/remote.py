"""Tier 2: one Redis hash per database, container and generation. Bytes in, bytes out.

Redis trouble never reaches the caller: a read gives nothing, a write is dropped. The breaker of the
server is what keeps it short; a server that answers but refuses writes is left alone for a while.

In a hash, ``#`` counts the bytes of its values, and ``#`` with a method's tag the entries and bytes
of that method, whose fields start with its tag. A field whose value starts with ``!`` is claimed:
somebody is computing it; with ``!+``, somebody else waits for that. Every other value is sealed:
here none can be read or made.

Anybody may choose the keys of some methods, and of how many is known of none. So a method takes up
to three times what it leaves free, in entries and in bytes; past that, a new value takes the place
of others of the same method, whichever they are. However many values some methods have, there is
room for those of another one, and for a method's newest.
"""

import logging
import os
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from ..connection import Breaker, RedisServer, Script
from ..exceptions import RedisRefusedError, RedisUnavailableError, WrongTypeError

_logger = logging.getLogger(__name__)

T = TypeVar("T")

TTL = 24 * 3600  # seconds from the first value of a generation
RETIRED_TTL = 60  # seconds from the first sight of a newer generation
LEASE = 2000  # milliseconds that one who computes may take, for the others
NOTED_TTL = 365 * 24 * 3600  # seconds
MAX_NOTED = 1_000
MAX_ENTRIES = 50_000  # of one hash
MAX_WHOLE = 8 * 2**20  # bytes: a bigger hash is not fetched whole
_SHARE = 3  # times what is free that a method may take
_LOOKS, _SAMPLE = 32, 64  # for others of a method: so often, at so many fields of the hash
_SLOWER = 1.1  # times what a round trip took that it may take, for all that the next one shows
_REFUSED_PAUSE = 15.0  # seconds without a write, after one was refused

TAG_LENGTH = 6  # of a method's tag, in hexadecimal digits, with which its fields start
_SIZE = b"#"
_CLAIM = b"!"
_COUNT = b"#"  # what a method's count starts with

# share(field): the name of its method's count, and what it says: entries and bytes
_SHARES = f"""
local function share(field)
    local name = '#' .. string.sub(field, 1, {TAG_LENGTH})
    local said = redis.call('HGET', KEYS[1], name) or ''
    local entries, bytes = string.match(said, '^#(%d+) (%d+)$')
    return name, tonumber(entries or 0), tonumber(bytes or 0)
end
local function note(name, entries, bytes)
    if entries > 0 then
        redis.call('HSET', KEYS[1], name, string.format('#%.0f %.0f', entries, math.max(bytes, 0)))
    else
        redis.call('HDEL', KEYS[1], name)
    end
end
local function is_claim(value)
    return string.sub(value, 1, 1) == '!'
end
local function is_awaited(value)
    return string.sub(value, 1, 2) == '!+'
end
"""

# Answers with the value; 0 when somebody is computing it; 1 when it is the caller's to compute.
# ARGV: field, the caller's mark, lease (ms), ttl (s), most entries
_ASK = Script(
    "ask",
    f"""{_SHARES}
local value = redis.call('HGET', KEYS[1], ARGV[1])
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
if value then
    if not is_claim(value) then
        return value
    end
    if tonumber(string.match(value, '^!%+?(%d+)') or 0) > now then
        if not is_awaited(value) then
            redis.call('HSET', KEYS[1], ARGV[1], '!+' .. string.sub(value, 2))
        end
        return 0
    end
else
    local name, entries, bytes = share(ARGV[1])
    if entries + 1 > {_SHARE} * (tonumber(ARGV[5]) - redis.call('HLEN', KEYS[1]) - 1) then
        return 1
    end
    note(name, entries + 1, bytes)
end
redis.call('HSET', KEYS[1], ARGV[1], '!' .. string.format('%.0f', now + ARGV[3]) .. ARGV[2])
if redis.call('TTL', KEYS[1]) < 0 then
    redis.call('EXPIRE', KEYS[1], ARGV[4])
end
return 1
""",
)

# ARGV: ttl (s), most bytes, most entries, then fields and values. Answers with a number for each:
# 0 not stored; 1 stored; 2 stored, and somebody else waited for it or computed it too.
_PUBLISH = Script(
    "publish",
    f"""{_SHARES}
local size = tonumber(redis.call('HGET', KEYS[1], '#') or 0)
-- Removes other fields of the same method until there are so many less, and so many bytes.
local function make_room(field, entries, bytes)
    local less, shorter = 0, 0
    for look = 1, {_LOOKS} do
        local sample = math.min(2 ^ (look + 1), {_SAMPLE})
        for _, other in ipairs(redis.call('HRANDFIELD', KEYS[1], sample)) do
            if less >= entries and shorter >= bytes then
                return less, shorter
            end
            if other ~= field and string.sub(other, 1, {TAG_LENGTH})
                    == string.sub(field, 1, {TAG_LENGTH}) then
                local value = redis.call('HGET', KEYS[1], other)
                redis.call('HDEL', KEYS[1], other)
                less = less + 1
                shorter = shorter + (is_claim(value) and 0 or #value)
            end
        end
    end
    return less, shorter
end
local stored = {{}}
for i = 4, #ARGV, 2 do
    local field, value = ARGV[i], ARGV[i + 1]
    local old = redis.call('HGET', KEYS[1], field)
    local more = old and 0 or 1
    local longer = #value - ((old and not is_claim(old)) and #old or 0)
    local name, entries, bytes = share(field)
    -- By how much there would be too many, and too much, of the method's: to be removed before.
    local too_many, too_long = 0, 0
    if entries + more > {_SHARE} * (tonumber(ARGV[3]) - redis.call('HLEN', KEYS[1]) - more) then
        too_many = more
    end
    if bytes + longer > {_SHARE} * (tonumber(ARGV[2]) - size - longer) then
        too_long = math.max(longer, 0)
    end
    local less, shorter = 0, 0
    if too_many > 0 or too_long > 0 then
        less, shorter = make_room(field, too_many, too_long)
        entries, bytes, size = entries - less, bytes - shorter, size - shorter
    end
    local fits = less >= too_many and shorter >= too_long
    if fits then
        redis.call('HSET', KEYS[1], field, value)
        entries, bytes, size = entries + more, bytes + longer, size + longer
    end
    note(name, entries, bytes)
    local is_wanted = old and (not is_claim(old) or is_awaited(old))
    stored[#stored + 1] = fits and (is_wanted and 2 or 1) or 0
end
redis.call('HSET', KEYS[1], '#', string.format('%.0f', size))
if redis.call('TTL', KEYS[1]) < 0 then
    redis.call('EXPIRE', KEYS[1], ARGV[1])
end
return stored
""",
)

# Answers with all fields and values, unless they are too long. ARGV: most bytes
_FETCH = Script(
    "fetch",
    """
local size = tonumber(redis.call('HGET', KEYS[1], '#') or '')
if not size or size > tonumber(ARGV[1]) then
    return {}
end
return redis.call('HGETALL', KEYS[1])
""",
)

# A hash of texts, with no count of their bytes. ARGV: ttl (s), most fields, field, text
_NOTE = Script(
    "note",
    """
redis.call('HSET', KEYS[1], '#', '0')
if redis.call('HLEN', KEYS[1]) <= tonumber(ARGV[2]) then
    redis.call('HSET', KEYS[1], ARGV[3], ARGV[4])
end
redis.call('EXPIRE', KEYS[1], ARGV[1])
return 1
""",
)

# Lets others compute at once what the caller claimed. ARGV: the caller's mark, then fields
_RELEASE = Script(
    "release",
    f"""{_SHARES}
for i = 2, #ARGV do
    local value = redis.call('HGET', KEYS[1], ARGV[i])
    if value and is_claim(value) and string.sub(value, -#ARGV[1]) == ARGV[1] then
        redis.call('HDEL', KEYS[1], ARGV[i])
        local name, entries, bytes = share(ARGV[i])
        note(name, entries - 1, bytes)
    end
end
""",
)


class Claim:
    """What :meth:`RemoteTier.ask` answers when there is no value."""

    OURS = 1  # nobody computes it: the caller should
    THEIRS = 0  # somebody does


class Stored:
    """The answers of :meth:`RemoteTier.publish`, one for each value."""

    NOT = 0
    NEW = 1
    WANTED = 2  # somebody else waited for it, or computed it too
    ANSWERS = NOT, NEW, WANTED


class RemoteTier:
    """The shared tier on one Redis server.

    :param server: whose errors stop here
    :param max_bytes: of one hash
    :ivar round_trip: seconds that an answer takes at least, of late: most take longer because this
        process, or the machine, is busy; 0: nothing was asked yet
    """

    def __init__(self, server: RedisServer, *, max_bytes: int) -> None:
        self.server = server
        self._max_bytes = max_bytes
        self._writes = Breaker(_REFUSED_PAUSE)
        self.round_trip = 0.0
        self._mark = b":" + os.urandom(6).hex().encode()
        os.register_at_fork(after_in_child=self._renew_mark)

    def _renew_mark(self) -> None:
        self._mark = b":" + os.urandom(6).hex().encode()

    @property
    def is_away(self) -> bool:
        """Whether nothing can be published now."""
        return self.server.is_away

    def disconnect(self) -> None:
        """Close this process's connections; the next call opens one."""
        self.server.disconnect()

    def check(self, key: str) -> None:
        """Do once, under a key of nobody's, what is done with hashes.

        :raises RedisUnavailableError: when Redis does not do it
        """
        field, value = b"check", b"=check"
        self.server.evaluate(_ASK, key, field, self._mark, LEASE, TTL, MAX_ENTRIES)
        self.server.evaluate(_RELEASE, key, self._mark, field)
        for most in (MAX_ENTRIES, 0):  # the second time others make room
            self.server.evaluate(_PUBLISH, key, TTL, self._max_bytes, most, field, value)
            field += b"2"
        self.server.evaluate_many(_FETCH, [(key, MAX_WHOLE)])
        self.server.execute("EXPIRE", key, 1)

    def fetch(self, keys: Sequence[str]) -> list[dict[bytes, bytes]] | None:
        """All values of some hashes; of one that is absent or too big, none.

        :return: None when Redis is away
        """
        try:
            answers = self._timed(
                self.server.evaluate_many, _FETCH, [(key, MAX_WHOLE) for key in keys]
            )
        except (RedisUnavailableError, WrongTypeError) as error:
            _logger.debug("Nothing read: %s", error)
            return None
        return [_values(answer) for answer in answers]

    def ask(self, key: str, field: bytes, *, claim: bool, lease: int = LEASE) -> bytes | int | None:
        """One value; or, if there is none, whose it is to compute (:class:`Claim`).

        :param lease: milliseconds that the others are to wait at most
        :param claim: whether the caller means to publish it; without, or when Redis refuses
            writes, the answer is only the value or None
        """
        if claim and self._writes.allows():
            answer = self._write(_ASK, key, field, self._mark, lease, TTL, MAX_ENTRIES)
            if isinstance(answer, bytes) or answer in (Claim.OURS, Claim.THEIRS):
                return answer  # type: ignore[no-any-return]
        answer = self._execute("HGET", key, field)
        if not isinstance(answer, bytes) or answer.startswith(_CLAIM):
            return None
        return answer

    def publish(self, key: str, values: Sequence[tuple[bytes, bytes]]) -> Sequence[int]:
        """Store fields and values, as far as the hash's bounds allow (:class:`Stored`)."""
        if not values or not self._writes.allows():
            return ()
        arguments = [part for item in values for part in item]
        answer = self._write(_PUBLISH, key, TTL, self._max_bytes, MAX_ENTRIES, *arguments)
        is_told = isinstance(answer, list) and all(done in Stored.ANSWERS for done in answer)
        return answer if is_told and len(answer) == len(values) else ()

    def release(self, key: str, fields: Sequence[bytes]) -> None:
        """Give back what :meth:`ask` let this process claim and it will not publish."""
        if fields and self._writes.allows():
            self._write(_RELEASE, key, self._mark, *fields)

    def note(self, key: str, name: str, text: str) -> bool:
        """Add to a hash that :meth:`fetch` gives, of a few texts that are kept for long; whether
        Redis took it.
        """
        return self._write(_NOTE, key, NOTED_TTL, MAX_NOTED, name, text) is not None

    def strike(self, key: str, name: str) -> None:
        """Take away what was noted."""
        self._execute("HDEL", key, name)

    def retire(self, key: str) -> None:
        """Let a hash go that newer readers do not look at any more."""
        self._execute("EXPIRE", key, RETIRED_TTL)

    def _timed(self, call: Callable[..., T], *arguments: Any) -> T:
        """Call Redis, and learn how long that takes."""
        began = time.monotonic()
        try:
            return call(*arguments)
        finally:
            took, known = time.monotonic() - began, self.round_trip
            self.round_trip = min(took, known * _SLOWER) if known else took

    def _write(self, script: Script, key: str, *arguments: Any) -> Any:
        try:
            answer = self._timed(self.server.evaluate, script, key, *arguments)
        except RedisRefusedError as error:
            if self._writes.fail():
                _logger.warning("The ormcache is not shared: %s", error)
            return None
        except (RedisUnavailableError, WrongTypeError) as error:
            _logger.debug("Nothing written: %s", error)
            return None
        if self._writes.succeed():
            _logger.info("The ormcache is shared again")
        return answer

    def _execute(self, *command: Any) -> Any:
        try:
            return self._timed(self.server.execute, *command)
        except (RedisUnavailableError, WrongTypeError) as error:
            _logger.debug("Nothing done: %s", error)
            return None


def _values(answer: Any) -> dict[bytes, bytes]:
    """The values in an answer of :data:`_FETCH`, without counts and claims; none in any other."""
    if not isinstance(answer, list) or not all(isinstance(part, bytes) for part in answer):
        return {}
    if len(answer) % 2:
        return {}
    values = dict(zip(answer[::2], answer[1::2], strict=True))
    values.pop(_SIZE, None)
    own = _CLAIM, _COUNT
    return {field: value for field, value in values.items() if not value.startswith(own)}
