-- release.lua: give a lease back; one that is lost already is left alone.
--
-- KEYS[1] entry          KEYS[2] its side lease
-- ARGV[1] id of lease    ARGV[2] 'lease', 'refresh' or 'plain'

local v, id = look(KEYS[1])
if ARGV[2] == 'lease' then
  if is_lease(v) and id == ARGV[1] then
    redis.call('UNLINK', KEYS[1])
  end
elseif look(KEYS[2]) == ARGV[1] then
  redis.call('UNLINK', KEYS[2])
  if ARGV[2] == 'plain' and v == '' then
    redis.call('UNLINK', KEYS[1])
  end
end
return 1
