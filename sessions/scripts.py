"""What is done with a session, each one atomic step on one key.

Constant texts; data reach them as arguments only. The last argument of each that changes a session
is a deadline (``DEADLINE``), after which it does nothing. It may come late from a buffer, when
Redis or the network was stopped for a while, and its caller was told that it was not done.

A value begins with the version of its format and its state (``codec.session``). A superseded sid,
which a soft rotation replaced, is never made live again. A record of a newer version is not
overwritten.
"""

from ..codec.session import NEWEST
from ..connection import LATE, Script

# What SAVE is to do with a session that is not there, and with the siblings of one that is.
KEEP, CREATE, ALONE = b"keep", b"create", b"alone"
SAVED, REVOKED, SUPERSEDED, TAKEN, NEWER = b"saved", b"revoked", b"superseded", b"taken", b"newer"
OUTCOMES = {SAVED, REVOKED, SUPERSEDED, TAKEN, NEWER}
COUNTS = {0, 1}  # of keys or fields that the other scripts changed
EARLY = b"early"

# The field, beside the sids' own, that names the field of the sid that a soft rotation issued, as
# long as no browser has presented that sid.
ISSUED = "issued"

_IN_TIME = f"""
local time = redis.call('TIME')
local now = time[1] * 1000 + time[2] / 1000
if now > tonumber(ARGV[#ARGV]) then
    return redis.error_reply('{LATE}')
end
"""

# What a key of another type holds is nobody's session. Another error says nothing of what is there.
_CURRENT = """
local current = redis.pcall('HGET', KEYS[1], ARGV[1])
local is_foreign = type(current) == 'table'
if is_foreign and not string.find(current.err, 'WRONGTYPE', 1, true) then
    return current
end
local function is_superseded(value)
    return string.find(value, '^%d+ superseded ') ~= nil
end
"""

# Asks for a field as one who changes it: a replica, which may not have it yet, refuses, and so does
# a primary that was told to do nothing without its replicas. ARGV: field, a proof to answer with:
# that there is nothing is believed of an answer that has it only.
FIND = Script(
    "find",
    _CURRENT
    + """
if is_foreign then
    return {ARGV[2], 'of another type'}
end
redis.call('HDEL', KEYS[1], '')
return {ARGV[2], current}
""",
)

# ARGV: field, value, ttl (ms), "create" if it need not be there, or "alone" to drop its siblings.
# None is created beside others: who has an old sid, or knows an identifier only, is not to change
# how long its sessions live, or end them.
SAVE = Script(
    "save",
    _IN_TIME
    + _CURRENT
    + f"""
if is_foreign then
    redis.call('UNLINK', KEYS[1])
    current = false
end
if not current then
    if ARGV[4] ~= 'create' then
        return 'revoked'
    end
    if redis.call('EXISTS', KEYS[1]) == 1 then
        return 'taken'
    end
elseif (tonumber(string.match(current, '^(%d+) ')) or 0) > {NEWEST} then
    return 'newer'
elseif is_superseded(current) and not is_superseded(ARGV[2]) then
    return 'superseded'
end
if ARGV[4] == 'alone' then
    redis.call('UNLINK', KEYS[1])
end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return 'saved'
""",
)

# ARGV: field, the value expected there ("" for none), ttl (ms), then fields and values to set
EXCHANGE = Script(
    "exchange",
    _IN_TIME
    + _CURRENT
    + """
if is_foreign then
    redis.call('UNLINK', KEYS[1])
    current = false
end
if (current or '') ~= ARGV[2] or (not current and redis.call('EXISTS', KEYS[1]) == 1) then
    return 0
end
redis.call('HSET', KEYS[1], unpack(ARGV, 4, #ARGV - 1))
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return 1
""",
)

# The end of all the sids of a session
END = Script("end", _IN_TIME + "return redis.call('UNLINK', KEYS[1])\n")

# ARGV: field, "" or the value expected there, and the moment (ms by this server's clock) before
# which nothing is deleted. A superseded sid goes alone, a live one with all its family.
DELETE = Script(
    "delete",
    _IN_TIME
    + _CURRENT
    + """
if now < tonumber(ARGV[3]) then
    return 'early'
end
if not is_foreign then
    if not current or (ARGV[2] ~= '' and current ~= ARGV[2]) then
        return 0
    end
    if is_superseded(current) then
        return redis.call('HDEL', KEYS[1], ARGV[1])
    end
end
return redis.call('UNLINK', KEYS[1])
""",
)

# Sessions of another store. The second key is a hash of what is known of their identifier: the
# field of each sid that was moved, and `ended` where all were ended. As long as it lives none of
# these comes back from there, because that store may go on holding what ended here.
MOVED, HERE, ENDED = b"moved", b"here", b"ended"
MOVES = {MOVED, HERE, ENDED}
MOVE, ASK = b"move", b"ask"

_KEEP = """
local function keep(key, milliseconds)
    local left = redis.call('TTL', key) * 1000
    redis.call('PEXPIRE', key, math.max(left, tonumber(milliseconds)))
end
"""

# ARGV: field, value, ttl (ms), that of what is known (ms), and "ask" to be told only
ADOPT = Script(
    "adopt",
    _IN_TIME
    + _KEEP
    + """
if redis.call('HGET', KEYS[2], 'ended') then
    return 'ended'
end
if redis.call('HGET', KEYS[2], ARGV[1]) or redis.call('HGET', KEYS[1], ARGV[1]) then
    return 'here'
end
if ARGV[5] == 'move' then
    redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
    keep(KEYS[1], ARGV[3])
    redis.call('HSET', KEYS[2], ARGV[1], '')
    keep(KEYS[2], ARGV[4])
end
return 'moved'
""",
    keys=2,
)

# The end of all the sids of a session, also of those that are only in the other store.
# ARGV: ttl of what is known (ms), "known" to say so only if a sid was moved. Whether one was
REVOKE = Script(
    "revoke",
    _IN_TIME
    + _KEEP
    + """
local was_moved = redis.call('EXISTS', KEYS[2])
if was_moved == 1 or ARGV[2] ~= 'known' then
    redis.call('HSET', KEYS[2], 'ended', '')
    keep(KEYS[2], ARGV[1])
end
redis.call('UNLINK', KEYS[1])
return was_moved
""",
    keys=2,
)

# A browser has presented the sid that was issued. ARGV: its field
PRESENTED = Script(
    "presented",
    _IN_TIME
    + """
if redis.call('HGET', KEYS[1], 'issued') ~= ARGV[1] then
    return 0
end
return redis.call('HDEL', KEYS[1], 'issued')
""",
)
