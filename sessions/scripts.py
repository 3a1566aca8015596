"""What is done with a session, each one atomic step on one key.

Constant texts; data reach them as arguments only. What would undo another's change is not done when
it comes late (``DEADLINE``): from a buffer, when Redis or the network was stopped for a while, and
whoever asked for it was told that it was not done. A field whose value starts with the «s» of
«superseded» is a sid that a soft rotation replaced: it is never made live again.
"""

from ..connection import LATE, Script

# What SAVE is to do with a session that is not there, and with the siblings of one that is.
KEEP, CREATE, ALONE = b"keep", b"create", b"alone"

_IN_TIME = f"""
local now = redis.call('TIME')
if now[1] * 1000 + now[2] / 1000 > tonumber(ARGV[#ARGV]) then
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
"""

# Asks for a field as one who changes it: a replica, which may not have it yet, refuses, and so does
# a primary that was told to do nothing without its replicas. ARGV: field
FIND = Script("""
redis.call('HDEL', KEYS[1], '')
return redis.call('HGET', KEYS[1], ARGV[1])
""")

# ARGV: field, value, ttl (ms), "create" if it need not be there, or "alone" to drop its siblings,
# the deadline. None is created beside others: who has an old sid, or knows an identifier only, is
# not to change how long its sessions live, or end them.
SAVE = Script(
    _IN_TIME
    + _CURRENT
    + """
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
elseif string.sub(current, 1, 1) == 's' and string.sub(ARGV[2], 1, 1) ~= 's' then
    return 'superseded'
end
if ARGV[4] == 'alone' then
    redis.call('UNLINK', KEYS[1])
end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return 'saved'
"""
)

# ARGV: field, the value expected there ("" for none), ttl (ms), then fields and values to set,
# the deadline
EXCHANGE = Script(
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
"""
)

# The end of all the sids of a session that has another identifier now. ARGV: the deadline
LEAVE = Script(_IN_TIME + "return redis.call('UNLINK', KEYS[1])\n")

# ARGV: field, and "" or the value expected there. A superseded sid goes alone, a live one with all
# its family.
DELETE = Script(
    _CURRENT
    + """
if not is_foreign then
    if not current or (ARGV[2] ~= '' and current ~= ARGV[2]) then
        return 0
    end
    if string.sub(current, 1, 1) == 's' then
        return redis.call('HDEL', KEYS[1], ARGV[1])
    end
end
return redis.call('UNLINK', KEYS[1])
"""
)
