-- mark.lua: note how far a source was applied, if nobody else did since, and the log still has what was appended.
-- Returns {'ok'}, {'moved', owner, seq} or {'lost', pos}.
--
-- KEYS[1] mark    KEYS[2] log
-- ARGV[1..2] owner and seq of the mark seen, '' if there was none
-- ARGV[3..7] owner, seq, pos, tick and cert of the new one
-- ARGV[8..] position and nonce of each entry that the log must have

local is = redis.call('TYPE', KEYS[1]).ok
if is ~= 'hash' and is ~= 'none' then
  redis.call('DEL', KEYS[1]) -- whatever somebody put there is a lost mark
end
local m = redis.call('HMGET', KEYS[1], 'owner', 'seq')
local owner, seq = m[1] or '', m[2] or ''
if owner == ARGV[3] and seq == ARGV[4] then
  return {'ok'} -- asked for again, after an answer that was lost
end
if owner ~= ARGV[1] or seq ~= ARGV[2] then
  return {'moved', owner, seq}
end
for i = 8, #ARGV, 2 do
  local id = ARGV[i] .. '-0'
  local e = redis.pcall('XRANGE', KEYS[2], id, id)
  local msg = e[1] and e[1][2][2]
  if not msg or string.match(msg, '^%d+ %l+ %x+ %d+ (%x+) ') ~= ARGV[i + 1] then
    return {'lost', ARGV[i]}
  end
end
redis.call('HSET', KEYS[1], 'owner', ARGV[3], 'seq', ARGV[4], 'pos', ARGV[5], 'tick', ARGV[6], 'cert', ARGV[7])
return {'ok'}
