-- register.lua: read the stamps of tags, creating a missing one at the end of the log. Put before claim.lua too.
--
-- register(n, ttl) returns {epoch, pos, nonce, stamp...}, or {} if there is no log.
-- KEYS[n] head    KEYS[n+1..] stamps    ttl of a stamp in seconds
--
-- GETEX reads without being a read command: so stamps take no room in the server's
-- tracking table, and a drop that raises them sends no pushes besides its announcement.
-- It renews the ttl each time, since finding out whether that is due would track.

local function register(n, ttl)
  local h = redis.pcall('HMGET', KEYS[n], 'epoch', 'pos', 'nonce')
  if not (h[1] and h[3] and tonumber(h[2])) then
    return {}
  end
  local out = {h[1], h[2], h[3]}
  for i = n + 1, #KEYS do
    local v = redis.pcall('GETEX', KEYS[i], 'EX', ttl)
    if type(v) ~= 'string' or not string.match(v, '^%d+$') then
      v = h[2]
      redis.call('SET', KEYS[i], v, 'EX', ttl)
    end
    out[#out + 1] = v
  end
  return out
end

