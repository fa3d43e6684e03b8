-- gcrabatch.lua: decide charges of GCRA limits without penalties, each by itself, and some of them several times.
--
-- KEYS[i] TAT       ARGV[4i−3], ARGV[4i−2], ARGV[4i−1] as the three of gcra.lua   ARGV[4i] how many such charges there are
--
-- Returns for each how many of them fit, and the debt after that.
local call, format = redis.call, string.format
local time = call('TIME')
local now = time[1] * 1000000 + time[2]
local tats = call('MGET', unpack(KEYS)) -- false also for what is no string
local out, seen = {}, {}
for i = 1, #KEYS do
	local key, a = KEYS[i], 4 * i
	local tat, debt, write = seen[key] or tonumber(tats[i]), 0, false
	if tat and tat > now then
		debt = tat - now
		local cap = tonumber(ARGV[a - 1])
		if debt > cap then -- the clock stepped back, or the policy shrank
			debt = tat < 9007199254740992 and cap or 0
			write = true
		elseif debt % 1 ~= 0 then
			debt = 0
		end
	end
	local cost, room, fit = tonumber(ARGV[a - 3]), ARGV[a - 2] - debt, 0
	if room >= 0 then
		fit = tonumber(ARGV[a])
		if cost > 0 then
			-- Both are below 2^49, so the quotient in the remainder is never rounded up to a whole number.
			fit = math.min(fit, (room - room % cost) / cost + 1)
			debt, write = debt + fit * cost, true
		end
	end
	if write then
		tat = now + debt
		if debt > 0 then
			call('SET', key, format('%d', tat), 'PXAT', format('%d', tat / 1000 + 1))
		else
			call('DEL', key)
		end
		seen[key] = tat
	elseif debt > 0 and call('PTTL', key) == -1 then
		call('PEXPIREAT', key, format('%d', tat / 1000 + 1))
	end
	out[2 * i - 1], out[2 * i] = fit, debt
end
return out
