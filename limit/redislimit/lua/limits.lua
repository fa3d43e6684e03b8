-- limits.lua: decide charges of several limits of any kind, all or nothing; or look at them; or adjust each of them; or renew
-- or release a lease.
--
-- ARGV[1] is "take", "peek", "adjust", "renew" or "release", and ARGV[2] the letters of all kinds that there are. Then there are twelve arguments for each limit; in front of those that depend on
-- the kind:
--
--	kind    g, s, f or c
--	shadow  1 or 0
--	cost    0: asks for room for 1
--	After, Within, Block of the penalty; After 0: none
--
--	g  Interval  Tolerance  Cap    Burst+Debt  –
--	s  Limit     Grain      Span   Limit+Debt  Keep
--	f  Limit     windows    –      Limit+Debt  –    windows: "a b c d"
--	c  Limit     TTL        lease  –           –
--
-- and the At of an adjustment, whose cost are the units, negative if they are given back. In KEYS stands the state of each
-- limit, and after it the record of its penalty, if it has one.
--
-- Returns the time, and six numbers for each limit:
--
--	code    1 fits + 2 charged
--	block   until − now of the penalty, 0 if not blocked
--	used    after the charge; GCRA: the debt
--	retry, more, reset    Strict and Concurrency; Fixed: the window's end − now thrice
--
-- Of renew and release, the time, and 1, or 0 if the lease isn't held.
--
-- Only the time if it is in none of the windows of a Fixed limit: then nothing was done.
local call = redis.call
local pack, unpack_ = struct.pack, struct.unpack
local max, min, format = math.max, math.min, string.format
local time = call('TIME')
local now = time[1] * 1000000 + time[2]
local mode, kinds = ARGV[1], ARGV[2]
local reading = mode == 'peek'

-- What is done with each kind, by its letter. Making a function costs time, so those of kinds that aren't there aren't made.
local look, save, take, adjust, change = {}, {}, {}, {}, nil

-- heal gives a key the expiry at, if it has none.
local function heal(key, at)
	if call('PTTL', key) == -1 then
		call('PEXPIREAT', key, format('%d', at / 1000 + 1))
	end
end

local function put(key, value, at)
	call('SET', key, value, 'PXAT', format('%d', at / 1000 + 1))
end

-- GCRA: TAT as a decimal number.

if kinds:find('g', 1, true) then
	local function lookGCRA(l)
		local tat, debt = tonumber(redis.pcall('GET', l.key)), 0
		if tat and tat > now then
			debt = tat - now
			if debt > l.n3 then
				debt = tat < 9007199254740992 and l.n3 or 0
				l.dirty = true
			elseif debt % 1 ~= 0 then
				debt = 0
			end
		end
		l.used, l.found = debt, debt > 0
		l.never = l.need * l.n1 > l.n2 or l.n1 == 0
		l.fits = not l.never and debt + l.need * l.n1 <= l.n2
		l.retry, l.more, l.reset = debt + l.need * l.n1 - l.n2, 0, debt
	end

	local function saveGCRA(l)
		if l.used > 0 then
			put(l.key, format('%d', now + l.used), now + l.used)
		else
			call('DEL', l.key)
		end
	end

	look.g, save.g = lookGCRA, saveGCRA
	function take.g(l)
		l.used = l.used + l.cost * l.n1
		saveGCRA(l)
	end
	function adjust.g(l)
		l.used = max(min(l.used + max(min(l.cost, l.n4), -l.n4) * l.n1, l.n3), 0)
		saveGCRA(l)
	end
end

-- Strict: the sum of units, then pairs of a time and its units, all in 8 bytes, big-endian. What doesn't count any more stands at
-- the front, and is dropped with the next charge without looking at the rest.

if kinds:find('s', 1, true) then
	local function afterStrict(l, free)
		for at = l.from, #l.state, 16 do
			local time, units = unpack_('>I8I8', l.state, at)
			free = free - units
			if free <= 0 then
				return time + l.n3 - now
			end
		end
		return l.last + l.n3 - now -- the sum isn't that of the pairs: not ours
	end

	local function lookStrict(l)
		local s, span = redis.pcall('GET', l.key), l.n3
		local sum, from = 0, 9
		if type(s) ~= 'string' or #s < 24 or #s % 16 ~= 8 then
			s = ''
		else
			sum = unpack_('>I8', s)
			l.last = unpack_('>I8', s, #s - 15)
			if l.last > now then -- the clock stepped back
				local merged, keep = 0, {s:sub(1, 8)}
				for at = 9, #s, 16 do
					local time, units = unpack_('>I8I8', s, at)
					if time >= now then
						merged = merged + units
					else
						keep[#keep + 1] = s:sub(at, at + 15)
					end
				end
				keep[#keep + 1] = pack('>I8I8', now, merged)
				s, l.last, l.dirty = table.concat(keep), now, true
			end
		end
		local used = sum
		while from < #s do
			local time, units = unpack_('>I8I8', s, from)
			if now - time < span then
				break
			end
			used, from = used - units, from + 16
		end
		local counting = (#s - from + 1) / 16
		if s == '' or used < counting or sum >= 9007199254740992 then -- no sum of them: not ours
			s, sum, used, from, counting, l.dirty = '', 0, 0, 9, 0, false
		end
		l.state, l.sum, l.from, l.used, l.found = s, sum, from, used, counting > 0
		local limit, need = l.n1, l.need
		local room = max(limit - used, 0)
		l.never, l.fits = need > limit, need <= room
		l.more = room < limit and afterStrict(l, used + room + 1 - limit) or 0
		l.retry = not l.fits and not l.never and (need == 1 and l.more or afterStrict(l, used + need - limit)) or 0
		l.reset = l.found and l.last + span - now or 0
	end

	local function saveStrict(l)
		if l.state ~= '' then
			put(l.key, l.state, l.last + l.n5)
		else
			call('DEL', l.key)
		end
	end

	-- keepStrict makes the sum and pairs the state, and saves it.
	local function keepStrict(l, used, pairs_)
		l.used, l.sum, l.from, l.found = used, used, 9, pairs_ ~= ''
		l.state = l.found and pack('>I8', used) .. pairs_ or ''
		saveStrict(l)
	end

	local function spendStrict(l, units)
		local pairs_, slot = l.state:sub(l.from), now - now % l.n2
		if l.found and l.last >= slot then
			local _, had = unpack_('>I8I8', pairs_, #pairs_ - 15)
			pairs_ = pairs_:sub(1, -9) .. pack('>I8', had + units)
		else
			pairs_, l.last = pairs_ .. pack('>I8I8', slot, units), slot
		end
		keepStrict(l, l.used + units, pairs_)
	end

	local function giveStrict(l, units, at)
		at = at - at % l.n2
		if at > 0 and at + l.n3 <= now then
			units = 0
		end
		local keep = {}
		for i = l.from, #l.state, 16 do
			local time, had = unpack_('>I8I8', l.state, i)
			if time >= at then
				local n = min(units, had)
				had, units, l.used = had - n, units - n, l.used - n
			end
			if had > 0 then
				keep[#keep + 1] = pack('>I8I8', time, had)
				l.last = time
			end
		end
		keepStrict(l, l.used, table.concat(keep))
	end

	look.s, save.s = lookStrict, saveStrict
	function take.s(l)
		spendStrict(l, l.cost)
		l.more, l.reset = afterStrict(l, 1), l.last + l.n3 - now
	end
	function adjust.s(l)
		local units = min(l.cost, l.n4 - l.used)
		if l.cost < 0 then
			giveStrict(l, -l.cost, l.at)
		elseif units > 0 then
			spendStrict(l, units)
		elseif l.dirty then
			saveStrict(l)
		end
	end
end

-- Fixed: the window's start and the units used, both in 8 bytes, big-endian.

if kinds:find('f', 1, true) then
	local function lookFixed(l)
		local s = redis.pcall('GET', l.key)
		local used, start = 0, l.start
		if type(s) == 'string' and #s == 16 then
			local from
			from, used = unpack_('>I8I8', s)
			l.dirty = from > start and used > 0 -- the clock stepped back
			if from < start or used >= 9007199254740992 then
				used = 0
			end
		end
		local limit, need, rest = l.n1, l.need, l.stop - now
		l.used, l.found = used, used > 0
		l.never, l.fits = need > limit, need <= max(limit - used, 0)
		l.retry, l.more, l.reset = rest, rest, rest
	end

	local function saveFixed(l)
		if l.used > 0 then
			put(l.key, pack('>I8I8', l.start, l.used), l.stop)
		else
			call('DEL', l.key)
		end
	end

	look.f, save.f = lookFixed, saveFixed
	function take.f(l)
		l.used = l.used + l.cost
		saveFixed(l)
	end
	function adjust.f(l)
		if l.cost > 0 then
			l.used = max(l.used, min(l.used + l.cost, l.n4))
		elseif l.at == 0 or l.at >= l.start then
			l.used = max(l.used + l.cost, 0)
		end
		saveFixed(l)
	end
end

-- Concurrency: a sorted set. A lease is a member, its score the time until which it holds. A lease of other than 1 unit has a second
-- member, the id and "u", with minus its units for a score; and the empty member has minus the sum of all units.

if kinds:find('c', 1, true) then
	local function unitsOf(l, id)
		local n = call('ZSCORE', l.key, id .. 'u')
		return n and -n or 1
	end

	local function afterConcurrency(l, free)
		local from = 0
		while true do
			local held = call('ZRANGEBYSCORE', l.key, format('(%.0f', now), '+inf', 'WITHSCORES', 'LIMIT', from, 32)
			for i = 1, #held, 2 do
				free = free - unitsOf(l, held[i])
				if free <= 0 then
					return min(tonumber(held[i + 1]), l.until_) - now
				end
			end
			if #held < 64 then
				return l.until_ - now -- the sum isn't that of the leases: not ours
			end
			from = from + 32
		end
	end

	local function lookConcurrency(l)
		local used = redis.pcall('ZSCORE', l.key, '')
		used = -(type(used) == 'string' and tonumber(used) or 0)
		l.until_ = now + l.n2
		local first, last
		if used >= 1 and used % 1 == 0 and used < 9007199254740992 then
			first = call('ZRANGEBYSCORE', l.key, '(0', '+inf', 'WITHSCORES', 'LIMIT', 0, 1)
			if first[2] and tonumber(first[2]) <= now then
				l.gone = call('ZRANGEBYSCORE', l.key, '(0', now)
				for _, id in ipairs(l.gone) do
					used = used - unitsOf(l, id)
				end
				first = call('ZRANGEBYSCORE', l.key, format('(%.0f', now), '+inf', 'WITHSCORES', 'LIMIT', 0, 1)
			end
			first = tonumber(first[2])
		end
		if first then
			last = tonumber(call('ZREVRANGE', l.key, 0, 0, 'WITHSCORES')[2])
			l.dirty = last > l.until_ -- the clock stepped back, or the policy shrank
		else
			used = 0
		end
		used = max(used, first and 1 or 0)
		local limit, need = l.n1, l.need
		local room = max(limit - used, 0)
		l.used, l.found = used, first ~= nil
		l.never, l.fits = need > limit, need <= room
		l.more = 0
		if room < limit and first then
			l.more = used <= limit and min(first, l.until_) - now or afterConcurrency(l, used + room + 1 - limit)
		end
		l.retry = not l.fits and not l.never and (need == 1 and l.more or afterConcurrency(l, used + need - limit)) or 0
		l.reset = first and min(last, l.until_) - now or 0
	end

	-- tidyConcurrency writes what lookConcurrency found to be over, and the sum.
	local function tidyConcurrency(l)
		if not l.found then
			call('DEL', l.key)
			return
		end
		if l.gone then
			for _, id in ipairs(l.gone) do
				call('ZREM', l.key, id, id .. 'u')
			end
			l.gone = nil
		end
		if l.dirty then
			for _, id in ipairs(call('ZRANGEBYSCORE', l.key, format('(%.0f', l.until_), '+inf')) do
				call('ZADD', l.key, l.until_, id)
			end
		end
		call('ZADD', l.key, -l.used, '')
		call('PEXPIREAT', l.key, format('%d', (now + l.reset) / 1000 + 1))
	end

	local function takeConcurrency(l)
		if l.dirty or l.gone or not l.found then
			tidyConcurrency(l)
		end
		if l.found and call('ZSCORE', l.key, l.lease) then
			l.used = l.used - unitsOf(l, l.lease)
			call('ZREM', l.key, l.lease .. 'u')
		end
		l.used = l.used + l.cost
		call('ZADD', l.key, l.until_, l.lease, -l.used, '')
		if l.cost ~= 1 then
			call('ZADD', l.key, -l.cost, l.lease .. 'u')
		end
		call('PEXPIREAT', l.key, format('%d', l.until_ / 1000 + 1))
	end

	look.c, save.c = lookConcurrency, tidyConcurrency
	function take.c(l)
		takeConcurrency(l)
		l.more, l.reset = afterConcurrency(l, 1), l.n2
	end
	function adjust.c(l)
		if l.dirty or l.gone then
			tidyConcurrency(l)
		end
	end
	-- change renews or releases the lease, if it is held.
	function change(l)
		local held = l.found and call('ZSCORE', l.key, l.lease)
		if not held or tonumber(held) <= now then
			return 0
		end
		local used = l.used - unitsOf(l, l.lease)
		tidyConcurrency(l)
		if mode == 'renew' then
			call('ZADD', l.key, l.until_, l.lease)
			call('PEXPIREAT', l.key, format('%d', l.until_ / 1000 + 1))
		elseif used > 0 then
			call('ZREM', l.key, l.lease, l.lease .. 'u')
			call('ZADD', l.key, -used, '')
		else
			call('DEL', l.key)
		end
		return 1
	end
end

-- The record of a penalty: since, count and until, all in 8 bytes, big-endian.

local function lookRecord(l)
	l.since, l.count, l.blocked = 0, 0, 0
	if l.record then
		local s = redis.pcall('GET', l.record)
		if type(s) == 'string' and #s == 24 then
			local since, count, blocked = unpack_('>I8I8I8', s)
			l.since, l.count, l.blocked = min(since, now), count, min(blocked, now + l.block)
			l.changed = l.since ~= since or l.blocked ~= blocked -- the clock stepped back, or the policy shrank
		end
		if l.blocked > now then
			l.fits = false
		end
	end
end

-- refuse counts a refusal of l.
local function refuse(l)
	if l.never or l.blocked > now then
		return
	end
	if now - l.since >= l.within or l.blocked > 0 or l.count == 0 then
		l.since, l.count, l.blocked = now, 0, 0
	end
	l.count, l.changed = l.count + 1, true
	if l.count >= l.after then
		l.blocked = now + l.block
	end
end

local function saveRecord(l)
	local ends = l.blocked > 0 and l.blocked or l.since + l.within
	if l.changed then
		put(l.record, pack('>I8I8I8', l.since, l.count, l.blocked), ends)
	elseif l.count > 0 then
		heal(l.record, ends)
	end
end

local limits, admitted, k = {}, not reading, 1
for a = 3, #ARGV, 12 do
	local kind = ARGV[a]
	local l = {
		kind = kind, shadow = ARGV[a + 1] == '1', cost = tonumber(ARGV[a + 2]), key = KEYS[k],
		n1 = tonumber(ARGV[a + 6]), n3 = tonumber(ARGV[a + 8]), n4 = tonumber(ARGV[a + 9]), n5 = tonumber(ARGV[a + 10]),
	}
	k = k + 1
	if ARGV[a + 3] ~= '0' then
		l.after, l.within, l.block = tonumber(ARGV[a + 3]), tonumber(ARGV[a + 4]), tonumber(ARGV[a + 5])
		l.record = KEYS[k]
		k = k + 1
	end
	l.need = mode == 'adjust' and 1 or max(l.cost, 1)
	if kind == 'f' then
		local before
		for w in ARGV[a + 7]:gmatch('%d+') do
			w = tonumber(w)
			if now < w then
				l.start, l.stop = before, w
				break
			end
			before = w
		end
		if not l.start or not l.stop then
			return {now}
		end
	else
		l.n2 = tonumber(ARGV[a + 7])
	end
	l.lease, l.at = ARGV[a + 8], tonumber(ARGV[a + 11])
	limits[#limits + 1] = l
end

for _, l in ipairs(limits) do
	look[l.kind](l)
	lookRecord(l)
	admitted = admitted and (l.fits or l.shadow)
end

if mode == 'renew' or mode == 'release' then
	return {now, change(limits[1])}
end

if mode == 'adjust' then
	for _, l in ipairs(limits) do
		look[l.kind](l) -- another may have changed it
		adjust[l.kind](l)
		l.dirty = false
		look[l.kind](l)
		lookRecord(l)
	end
end

local out = {now}
for _, l in ipairs(limits) do
	local code = l.fits and 1 or 0
	if mode == 'take' then
		if l.fits and admitted and l.cost > 0 then
			code = 3
			take[l.kind](l)
		else
			if l.record and not l.fits then
				refuse(l)
			end
			if l.dirty then
				save[l.kind](l)
			elseif l.found then
				heal(l.key, l.kind == 's' and l.last + l.n5 or now + l.reset)
			end
		end
		if l.record then
			saveRecord(l)
		end
	end
	local n = #out
	out[n + 1], out[n + 2], out[n + 3] = code, max(l.blocked - now, 0), l.used
	out[n + 4], out[n + 5], out[n + 6] = l.retry, l.more, l.reset
end
return out
