-- gcra.lua: decide one charge of one GCRA limit without a penalty.
--
-- KEYS[1] TAT       ARGV[1] cost·Interval   ARGV[2] Tolerance − need·Interval, negative if the cost can't ever fit   ARGV[3] Cap
--
-- Returns the debt after the decision: as it is if the cost fits, as −1 − debt if not.
--
-- Numbers are written with %d, which is a quarter faster than to leave that to Redis (%.17g). An expiry is the next whole ms
-- after the TAT: absolute, so that it doesn't matter how long the script takes.
local call, format = redis.call, string.format
local time = call('TIME')
local now = time[1] * 1000000 + time[2]
local tat = tonumber(redis.pcall('GET', KEYS[1])) -- nil if absent, or no number, or no string
local debt = 0
if tat and tat > now then
	debt = tat - now
	local cap = tonumber(ARGV[3])
	if debt > cap then -- the clock stepped back, or the policy shrank
		debt = tat < 9007199254740992 and cap or 0
		if debt > 0 then
			tat = now + debt
			call('SET', KEYS[1], format('%d', tat), 'PXAT', format('%d', tat / 1000 + 1))
		else
			call('DEL', KEYS[1])
		end
	elseif debt % 1 ~= 0 then
		debt = 0
	end
end
local fits = debt <= tonumber(ARGV[2])
if fits and ARGV[1] ~= '0' then
	debt = debt + ARGV[1]
	tat = now + debt
	call('SET', KEYS[1], format('%d', tat), 'PXAT', format('%d', tat / 1000 + 1))
elseif debt > 0 and call('PTTL', KEYS[1]) == -1 then
	call('PEXPIREAT', KEYS[1], format('%d', tat / 1000 + 1))
end
return fits and debt or -1 - debt
