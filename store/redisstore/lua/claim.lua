-- claim.lua: look an entry up and try to lease it; see store.Claim.
-- Returns {1} leased by a lease record, {2, bytes} held, {3, ms left} busy, {4} gone,
-- {5} leased by a side lease. With KEYS[3]: {that, what register.lua returns}.
--
-- KEYS[1] entry          KEYS[2] its side lease, for refreshes
-- ARGV[1] id of lease    ARGV[2] lease record    ARGV[3] ttl of lease in ms
-- ARGV[4] identity seen, '' if absent            ARGV[5] '1' refresh, else '0'
--
-- To register tags on the way, where all is in one place:
-- KEYS[3..] head and stamps                      ARGV[6] ttl of a stamp in seconds
--
--	holds             refresh=0          refresh=1
--	nothing           lease record, 1    4
--	lease of ours     1                  1
--	other's lease     3                  3
--	what was seen     lease record, 1    side lease, 5 (or 3)
--	anything else     2                  2
--
-- A lease without expiry (copied or PERSISTed by hand) would block for ever, and counts
-- as nothing.

local function claim()
  -- Nearly always there is nothing.
  if ARGV[4] == '' and ARGV[5] == '0' and redis.call('SET', KEYS[1], ARGV[2], 'NX', 'PX', ARGV[3]) then
    redis.call('STRLEN', KEYS[1]) -- a read, so that the caller goes on tracking the key
    return {1}
  end

  local v, id = look(KEYS[1])
  if is_lease(v) then
    if id == ARGV[1] then
      return {1}
    end
    local ms = redis.call('PTTL', KEYS[1])
    if ms >= 0 then
      return {3, ms}
    end
    id = ''
  end

  if id == '' then
    if ARGV[5] == '1' then
      return {4}
    end
  elseif id ~= ARGV[4] then
    return {2, v}
  elseif ARGV[5] == '1' then
    local ms = redis.call('PTTL', KEYS[2])
    if ms >= 0 and look(KEYS[2]) ~= ARGV[1] then
      return {3, ms}
    end
    redis.call('SET', KEYS[2], ARGV[1], 'PX', ARGV[3])
    return {5}
  end

  redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
  redis.call('STRLEN', KEYS[1])
  return {1}
end

if KEYS[3] then
  return {claim(), register(3, ARGV[6])}
end
return claim()
