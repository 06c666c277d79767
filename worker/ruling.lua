-- Whose limits hold: each pool's word of the worker that started last. See ruling.py.
--
-- KEYS[1] is the hash tag; ARGV[1] is a MessagePack array: a new mark, then a pool and a packed word in turns
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

local args = cmsgpack.unpack(ARGV[1])
local words, mark = KEYS[1] .. ':limits-of', KEYS[1] .. ':limits-mark'
local changed = redis.call('EXISTS', mark) == 0
for n = 2, #args, 2 do
  local stands, new = redis.call('HGET', words, args[n]), cmsgpack.unpack(args[n + 1])
  local old = stands and cmsgpack.unpack(stands)
  if not old or old.worker < new.worker then
    redis.call('HSET', words, args[n], args[n + 1])
    changed = changed or not (old and same(old.whole, new.whole) and same(old.models, new.models) and same(old.keys, new.keys))
  end
end
if changed then redis.call('SET', mark, args[1]) end
local reply = redis.call('HGETALL', words)
table.insert(reply, 1, redis.call('GET', mark))
return reply
