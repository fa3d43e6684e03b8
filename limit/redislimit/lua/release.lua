-- release.lua: end a lease. Returns the units that were held.
--
-- KEYS[1] the leases       ARGV[1] id
local removed = redis.pcall('ZREM', KEYS[1], ARGV[1])
if removed ~= 1 then
	return 0
end
local more = ARGV[1] .. 'u'
local units = redis.call('ZSCORE', KEYS[1], more)
if units then
	units = -units
	redis.call('ZREM', KEYS[1], more)
else
	units = 1
end
local used = -(redis.call('ZSCORE', KEYS[1], '') or 0) - units
if used > 0 then
	redis.call('ZADD', KEYS[1], -used, '')
else
	redis.call('DEL', KEYS[1])
end
return units
