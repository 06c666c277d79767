-- What is booked, cooling and blocked, for showing.
--
-- args: now, bucket ids, key names, key pools
-- reply: {booked units a bucket}, {seconds still cooling a key}, {seconds still blocked a key}
local ids, names, pools = args[2], args[3], args[4]
local booked, cooling, blocked = {}, {}, {}
for n = 1, #ids do
  local b = load(ids[n])
  booked[n] = b and b.sum or 0
end
for n = 1, #names do
  local marks = redis.call('MGET', PREFIX .. 'x:' .. names[n], PREFIX .. 'x:' .. pools[n], PREFIX .. 'c:' .. pools[n])
  blocked[n] = math.max(0, tonumber(marks[1] or 0) - now, tonumber(marks[2] or 0) - now)
  cooling[n] = math.max(0, tonumber(marks[3] or 0) - now)
end
return cmsgpack.pack({booked, cooling, blocked})
