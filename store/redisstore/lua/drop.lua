-- drop.lua: append one drop to a partition's log, raise the stamps of its tags and
-- announce it. Returns {'ok', epoch, pos, prev, nonce of prev}, {'nolog'} or {'behind'}.
--
-- KEYS[1] head    KEYS[2] log    KEYS[3..] stamps of the tags
-- ARGV[1..3] epoch, pos and nonce known to the caller, '' if none
-- ARGV[4] nonce of the entry    ARGV[5] rest of its message (docs/wire.md)
-- ARGV[6] channel    ARGV[7] length to which the log is trimmed, about
-- ARGV[8] PUBLISH or SPUBLISH

local h = redis.call('HMGET', KEYS[1], 'epoch', 'pos', 'nonce')
local last = h[1] and h[3] and tonumber(h[2])
if not last then
  return {'nolog'}
end
if h[1] == ARGV[1] then
  local known = tonumber(ARGV[2])
  if last < known or (last == known and h[3] ~= ARGV[3]) then
    return {'behind'}
  end
end

-- The clock keeps a log that lost its end from using a position twice.
local t = redis.call('TIME')
local pos = string.format('%.0f', math.max(last + 1, t[1] * 1000000 + t[2]))

for i = 3, #KEYS do
  redis.call('SET', KEYS[i], pos, 'XX', 'KEEPTTL')
end
local msg = '1 drop ' .. h[1] .. ' ' .. pos .. ' ' .. ARGV[4] .. ' ' .. h[2] .. ' ' .. h[3] .. ' ' .. ARGV[5]
redis.call('XADD', KEYS[2], 'MAXLEN', '~', ARGV[7], pos .. '-0', 'm', msg)
redis.call('HSET', KEYS[1], 'pos', pos, 'nonce', ARGV[4])
if type(redis.pcall(ARGV[8], ARGV[6], msg)) == 'table' then
  redis.call('PUBLISH', ARGV[6], msg) -- before Redis 7 there is no SPUBLISH
end
return {'ok', h[1], pos, h[2], h[3]}
