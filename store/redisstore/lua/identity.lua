-- identity.lua: what an entry key holds. Put before claim.lua, fill.lua and release.lua.
--
-- look(key) returns the bytes and their identity, as Go's store.IdentityOf: the id of
-- a record, else the SHA-1 of the bytes. An absent key is (false, ''), an empty string
-- ('', ''), and a key that is no string ('type:hash', its SHA-1).

local function is_record(v)
  return v and #v >= 24 and string.sub(v, 1, 4) == '\245FR\1'
end

local function is_lease(v)
  return is_record(v) and #v == 24 and string.sub(v, 5, 5) == 'L'
end

local function look(key)
  local v = redis.pcall('GET', key)
  if type(v) == 'table' then
    v = 'type:' .. redis.call('TYPE', key).ok
  end
  if not v or v == '' then
    return v, ''
  end
  if is_record(v) then
    return v, string.sub(v, 9, 24)
  end
  return v, redis.sha1hex(v)
end

