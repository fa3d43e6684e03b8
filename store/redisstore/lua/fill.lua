-- fill.lua: store an entry if its key still holds what the lease observed.
-- Returns 1 stored, 0 lease lost.
--
-- KEYS[1] entry          KEYS[2] its side lease
-- ARGV[1] id of lease    ARGV[2] 'lease', 'refresh' or 'plain'
-- ARGV[3] identity seen (refresh)    ARGV[4] entry's bytes    ARGV[5] its ttl in ms

local v, id = look(KEYS[1])
local held
if ARGV[2] == 'lease' then
  held = is_lease(v) and id == ARGV[1]
elseif ARGV[2] == 'refresh' then
  held = id ~= '' and id == ARGV[3] and look(KEYS[2]) == ARGV[1]
else
  held = v == '' and look(KEYS[2]) == ARGV[1]
end
if not held then
  -- The side lease goes with the chance it stood for: a key that was dropped and filled anew
  -- can be refreshed at once.
  if ARGV[2] ~= 'lease' and look(KEYS[2]) == ARGV[1] then
    redis.call('UNLINK', KEYS[2])
  end
  return 0
end

redis.call('SET', KEYS[1], ARGV[4], 'PX', ARGV[5])
if ARGV[2] ~= 'lease' then
  redis.call('UNLINK', KEYS[2])
end
redis.call('STRLEN', KEYS[1]) -- a read, so that the caller goes on tracking the key
return 1
