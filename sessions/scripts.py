"""The changes of a session, each one atomic step on one key.

Constant texts; data reach them as arguments only. A field whose value starts with «superseded» is a
sid that a soft rotation replaced: it is never made live again.
"""

from ..connection import Script

# ARGV: field, value, ttl (ms), "1" to create it where it is not, "1" to drop its siblings
SAVE = Script("""
local current = redis.pcall('HGET', KEYS[1], ARGV[1])
if type(current) == 'table' then
    redis.call('UNLINK', KEYS[1])
    current = false
end
if not current and ARGV[4] ~= '1' then
    return 'revoked'
end
local superseded = '^superseded '
if current and string.find(current, superseded) and not string.find(ARGV[2], superseded) then
    return 'superseded'
end
if ARGV[5] == '1' then
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
    if string.find(current, '^superseded ') then
        return redis.call('HDEL', KEYS[1], ARGV[1])
    end
end
return redis.call('UNLINK', KEYS[1])
""")
