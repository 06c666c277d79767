-- Whose limits hold: each pool's word of the worker that started last. See ruling.py.
--
-- KEYS[1] is the hash tag; ARGV[1] is a MessagePack array: a new mark, the pools that the asking worker has itself, the milliseconds in
-- which all that is granted is in the ledger, then a pool and a packed word in turns
-- reply: the mark that stands, then each pool and its word in turns. The mark changes whenever what the words say of limits or keys
-- does; not with who says it, or a fleet that starts would be granted nothing until its last worker is there.
local function same(a, b)
  if type(a) ~= 'table' or type(b) ~= 'table' then return a == b end
  for name, value in pairs(a) do
    if not same(value, b[name]) then return false end
  end
  for name in pairs(b) do
    if a[name] == nil then return false end
  end
  return true
end

local DAYS = 86400
local FORGET = 7 * DAYS   -- a pool that no living worker has had for so long is forgotten
local KEEP = 30 * DAYS    -- and everything if no worker comes at all

local args = cmsgpack.unpack(ARGV[1])
local words, mark, seen = KEYS[1] .. ':limits-of', KEYS[1] .. ':limits-mark', KEYS[1] .. ':limits-seen'
local now = tonumber(redis.call('TIME')[1])

-- What starts to count now, or counts for one key more, may be there from earlier, without the calls since: it begins anew, with what
-- the ledger says, once all is in there that was granted by the earlier word.
local function begin_anew(pool, old, new)
  local had, more = {}, false
  for _, key in ipairs(old.keys or {}) do had[key] = true end
  for _, key in ipairs(new.keys or {}) do more = more or not had[key] end
  local function compare(prefix, before, after)
    for unit in pairs(after) do
      if more or before[unit] == nil then
        redis.call('DEL', KEYS[1] .. ':b:' .. prefix .. unit)
        redis.call('SET', KEYS[1] .. ':limits-changed', '', 'PX', args[3])
      end
    end
  end
  compare(pool .. '|', old.whole, new.whole)
  for model, limits in pairs(new.models) do compare(pool .. '|' .. model .. '|', old.models[model] or {}, limits) end
  for model, limits in pairs(new.days or {}) do
    compare(pool .. '|' .. (model == '' and '' or model .. '|'), (old.days or {})[model] or {}, limits)
  end
end

local first, changed = redis.call('EXISTS', words) == 0, redis.call('EXISTS', mark) == 0
for n = 4, #args, 2 do
  local stands, new = redis.call('HGET', words, args[n]), cmsgpack.unpack(args[n + 1])
  local old = stands and cmsgpack.unpack(stands)
  if not old or old.worker < new.worker then
    redis.call('HSET', words, args[n], args[n + 1])
    if not (old and same(old.whole, new.whole) and same(old.models, new.models) and same(old.keys, new.keys)
        and same(old.days or {}, new.days or {})) then
      changed = true
      if not first then begin_anew(args[n], old or {whole = {}, models = {}}, new) end
    end
  end
end
if changed then redis.call('SET', mark, args[1]) end

for _, pool in ipairs(args[2]) do redis.call('HSET', seen, pool, now) end
for _, pool in ipairs(redis.call('HKEYS', words)) do
  local last = tonumber(redis.call('HGET', seen, pool))
  if not last then
    redis.call('HSET', seen, pool, now)
  elseif now - last > FORGET then
    redis.call('HDEL', words, pool)
    redis.call('HDEL', seen, pool)
  end
end
for _, key in ipairs({words, mark, seen}) do redis.call('EXPIRE', key, KEEP) end

local reply = redis.call('HGETALL', words)
table.insert(reply, 1, redis.call('GET', mark))
return reply
