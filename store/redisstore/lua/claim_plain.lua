-- claim_plain.lua: claim.lua for keys that hold bare values. A leased key holds an
-- empty string, which other programs read as a miss, and the id lies in the side lease.
-- Returns {1} leased, {2, bytes} held, {3, ms left} busy.
--
-- KEYS[1] entry          KEYS[2] its side lease
-- ARGV[1] id of lease    ARGV[2] ttl of lease in ms    ARGV[3] identity seen, '' if absent
--
--	holds                          outcome
--	'', side lease of ours         1
--	'', side lease of another      3
--	nothing, '' alone, or seen     '' and side lease, 1
--	another type than a string     '' and side lease, 1
--	anything else                  2

local v, id = look(KEYS[1])
if v == '' then
  local holder = look(KEYS[2])
  if holder == ARGV[1] then
    return {1}
  end
  local ms = redis.call('PTTL', KEYS[2])
  if holder and ms >= 0 then
    return {3, ms}
  end
elseif id ~= '' and id ~= ARGV[3] and redis.call('TYPE', KEYS[1]).ok == 'string' then
  return {2, v}
end

redis.call('SET', KEYS[1], '', 'PX', ARGV[2])
redis.call('SET', KEYS[2], ARGV[1], 'PX', ARGV[2])
redis.call('STRLEN', KEYS[1]) -- a read, so that the caller goes on tracking the key
return {1}
