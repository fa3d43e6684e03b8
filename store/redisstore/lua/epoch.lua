-- epoch.lua: begin a new epoch, if the log is still where the caller saw it.
-- Returns {'ok', pos, epoch} or {'moved'}.
--
-- KEYS[1] head    KEYS[2] log
-- ARGV[1..3] epoch, pos and nonce seen, '' if there was no log
-- ARGV[4] random part of the new epoch, below 2048    ARGV[5] nonce of the entry    ARGV[6] rest of its message
-- ARGV[7] channel      ARGV[8] length to which the log is trimmed, about
-- ARGV[9] position above which it begins    ARGV[10] PUBLISH or SPUBLISH

-- Whatever else somebody put at our names is lost history like any other.
local function clear(key, want)
  local is = redis.call('TYPE', key).ok
  if is ~= want and is ~= 'none' then
    redis.call('DEL', key)
    is = 'none'
  end
  return is == want
end

local h = {false, false, false}
if clear(KEYS[1], 'hash') then
  h = redis.call('HMGET', KEYS[1], 'epoch', 'pos', 'nonce')
end
local last = h[1] and h[3] and tonumber(h[2])
if not last then
  h, last = {'', '', ''}, 0
end
if h[1] ~= ARGV[1] or h[2] ~= ARGV[2] or h[3] ~= ARGV[3] then
  return {'moved'}
end

-- The stream may have outlived the head: never go below it.
if clear(KEYS[2], 'stream') then
  local info = redis.call('XINFO', 'STREAM', KEYS[2])
  for i = 1, #info, 2 do
    if info[i] == 'last-generated-id' then
      last = math.max(last, tonumber(string.match(info[i + 1], '^%d+')))
    end
  end
end
local t = redis.call('TIME')
local n = math.max(last + 1, ARGV[9] + 1, t[1] * 1000000 + t[2])
local pos = string.format('%.0f', n)
-- pos * 2048 + random in 64 bits, which a number of Lua doesn't have; see store.EpochAt.
local epoch = string.format('%08x%08x', math.floor(n / 2097152), n % 2097152 * 2048 + ARGV[4])

local prev, nonce = h[2], h[3]
if prev == '' then
  prev, nonce = '0', '0000000000000000'
end
local msg = '1 epoch ' .. epoch .. ' ' .. pos .. ' ' .. ARGV[5] .. ' ' .. prev .. ' ' .. nonce .. ' ' .. ARGV[6]
redis.call('XADD', KEYS[2], 'MAXLEN', '~', ARGV[8], pos .. '-0', 'm', msg)
redis.call('HSET', KEYS[1], 'epoch', epoch, 'pos', pos, 'nonce', ARGV[5])
if type(redis.pcall(ARGV[10], ARGV[7], msg)) == 'table' then
  redis.call('PUBLISH', ARGV[7], msg) -- before Redis 7 there is no SPUBLISH
end
return {'ok', pos, epoch}
