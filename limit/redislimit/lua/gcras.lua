-- gcras.lua: decide one charge of each of several GCRA limits without penalties, all or nothing.
--
-- KEYS[i] TAT       ARGV[3i−2], ARGV[3i−1], ARGV[3i] as the three of gcra.lua
--
-- Returns a debt for each, as gcra.lua does: after the charge if all are positive or zero, else as they were.
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local tats = redis.call('MGET', unpack(KEYS)) -- false also for what is no string
local debts, fits = {}, true
for i = 1, #KEYS do
	local tat, debt = tonumber(tats[i]), 0
	if tat and tat > now then
		debt = tat - now
		local cap = tonumber(ARGV[3 * i])
		if debt > cap then
			debt = tat < 9007199254740992 and cap or 0
			if debt > 0 then
				redis.call('SET', KEYS[i], now + debt, 'PXAT', math.ceil((now + debt) / 1000))
			else
				redis.call('DEL', KEYS[i])
			end
		elseif debt % 1 ~= 0 then
			debt = 0
		end
	end
	if debt > tonumber(ARGV[3 * i - 1]) then
		fits = false
		if debt > 0 and redis.call('PTTL', KEYS[i]) < 0 then
			redis.call('PEXPIREAT', KEYS[i], math.ceil((now + debt) / 1000))
		end
		debt = -1 - debt
	end
	debts[i] = debt
end
if fits then
	for i = 1, #KEYS do
		local cost = ARGV[3 * i - 2]
		if cost ~= '0' then
			local debt = debts[i] + cost
			local tat = now + debt
			redis.call('SET', KEYS[i], tat, 'PXAT', math.ceil(tat / 1000))
			debts[i] = debt
		end
	end
end
return debts
