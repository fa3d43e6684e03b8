-- renew.lua: make a lease last for another TTL, if it is still held. Returns 1, or 0 if it isn't.
--
-- KEYS[1] the leases       ARGV[1] id   ARGV[2] TTL in µs
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local held = redis.pcall('ZSCORE', KEYS[1], ARGV[1])
if type(held) ~= 'string' or tonumber(held) <= now then
	return 0
end
local until_ = now + ARGV[2]
redis.call('ZADD', KEYS[1], until_, ARGV[1])
redis.call('PEXPIREAT', KEYS[1], math.ceil(until_ / 1000)) -- no other lease holds for longer
return 1
