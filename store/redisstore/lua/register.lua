-- register.lua: read the stamps of tags, creating a missing one at the end of the log.
-- Returns {epoch, pos, nonce, stamp...}, or {} if there is no log.
--
-- KEYS[1] head    KEYS[2..] stamps    ARGV[1] ttl of a stamp in seconds
--
-- GETEX reads without being a read command: so stamps take no room in the server's
-- tracking table, and a drop that raises them sends no pushes besides its announcement.
-- It renews the ttl each time, since finding out whether that is due would track.

local h = redis.call('HMGET', KEYS[1], 'epoch', 'pos', 'nonce')
if not (h[1] and h[3] and tonumber(h[2])) then
  return {}
end
local out = {h[1], h[2], h[3]}
for i = 2, #KEYS do
  local v = redis.pcall('GETEX', KEYS[i], 'EX', ARGV[1])
  if type(v) ~= 'string' or not string.match(v, '^%d+$') then
    v = h[2]
    redis.call('SET', KEYS[i], v, 'EX', ARGV[1])
  end
  out[#out + 1] = v
end
return out
