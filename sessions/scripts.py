"""The changes of a session, each one atomic step on one key.

Constant texts; data reach them as arguments only. A field whose value starts with the «s» of
«superseded» is a sid that a soft rotation replaced: it is never made live again.
"""

from ..connection import Script

# What SAVE is to do with a session that is not there, and with the siblings of one that is.
KEEP, CREATE, ALONE = b"keep", b"create", b"alone"

# ARGV: field, value, ttl (ms), "create" if it need not be there, or "alone" to drop its siblings
SAVE = Script("""
local current = redis.pcall('HGET', KEYS[1], ARGV[1])
if type(current) == 'table' then
    redis.call('UNLINK', KEYS[1])
    current = false
end
if not current then
    if ARGV[4] ~= 'create' then
        return 'revoked'
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
""")

# ARGV: field, the value expected there ("" for none), ttl (ms), then fields and values to set
EXCHANGE = Script("""
local current = redis.pcall('HGET', KEYS[1], ARGV[1])
if type(current) == 'table' then
    redis.call('UNLINK', KEYS[1])
    current = false
end
if (current or '') ~= ARGV[2] then
    return 0
end
redis.call('HSET', KEYS[1], unpack(ARGV, 4))
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return 1
""")

# ARGV: field, and "" or the value expected there. A superseded sid goes alone, a live one with all
# its family.
DELETE = Script("""
local current = redis.pcall('HGET', KEYS[1], ARGV[1])
if type(current) ~= 'table' then
    if not current or (ARGV[2] ~= '' and current ~= ARGV[2]) then
        return 0
    end
    if string.sub(current, 1, 1) == 's' then
        return redis.call('HDEL', KEYS[1], ARGV[1])
    end
end
return redis.call('UNLINK', KEYS[1])
""")
