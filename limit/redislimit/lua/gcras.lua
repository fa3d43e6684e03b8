-- gcras.lua: decide one charge of each of several GCRA limits without penalties, all or nothing.
--
-- KEYS[i] TAT       ARGV[3i−2], ARGV[3i−1], ARGV[3i] as the three of gcra.lua
--
-- Returns a debt for each, as gcra.lua does: after the charge if all are positive or zero, else as they were.
local call, format = redis.call, string.format
local time = call('TIME')
local now = time[1] * 1000000 + time[2]
local debts = call('MGET', unpack(KEYS)) -- of TATs at first; false also for what is no string
local fits = true
for i = 1, #debts do
	local tat, debt = tonumber(debts[i]), 0
	if tat and tat > now then
		debt = tat - now
		local cap = tonumber(ARGV[3 * i])
		if debt > cap then
			debt = tat < 9007199254740992 and cap or 0
			if debt > 0 then
				tat = now + debt
				call('SET', KEYS[i], format('%d', tat), 'PXAT', format('%d', tat / 1000 + 1))
			else
				call('DEL', KEYS[i])
			end
		elseif debt % 1 ~= 0 then
			debt = 0
		end
	end
	if debt > tonumber(ARGV[3 * i - 1]) then
		fits = false
		if debt > 0 and call('PTTL', KEYS[i]) == -1 then
			call('PEXPIREAT', KEYS[i], format('%d', tat / 1000 + 1))
		end
		debt = -1 - debt
	end
	debts[i] = debt
end
if fits then
	for i = 1, #debts do
		local cost = ARGV[3 * i - 2]
		if cost ~= '0' then
			local debt = debts[i] + cost
			local tat = now + debt
			call('SET', KEYS[i], format('%d', tat), 'PXAT', format('%d', tat / 1000 + 1))
			debts[i] = debt
		end
	end
end
return debts
