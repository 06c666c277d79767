-- Whose limits hold: each pool's word of the worker that started last. See ruling.py.
--
-- KEYS[1] is the hash tag; ARGV[1] is a MessagePack array: a new mark, then a pool and a packed word in turns
-- reply: the mark that stands, then each pool and its word in turns. The mark changes whenever a word does.
local args = cmsgpack.unpack(ARGV[1])
local words, mark = KEYS[1] .. ':limits-of', KEYS[1] .. ':limits-mark'
local changed = redis.call('EXISTS', mark) == 0
for n = 2, #args, 2 do
  local stands = redis.call('HGET', words, args[n])
  if not stands or cmsgpack.unpack(stands).worker < cmsgpack.unpack(args[n + 1]).worker then
    redis.call('HSET', words, args[n], args[n + 1])
    changed = true
  end
end
if changed then redis.call('SET', mark, args[1]) end
local reply = redis.call('HGETALL', words)
table.insert(reply, 1, redis.call('GET', mark))
return reply
