-- What is booked, cooling and blocked, for showing.
--
-- args: now, bucket ids, key names, key pools
-- reply: {booked units a bucket}, {for a key what cools: model ('' for all), seconds left, ...}, {seconds still blocked a key}
local ids, names, pools = args[2], args[3], args[4]
local booked, cooling, blocked = {}, {}, {}
for n = 1, #ids do
  local b = load(ids[n])
  booked[n] = b and b.sum or 0
end
for n = 1, #names do
  local marks = redis.call('MGET', PREFIX .. 'x:' .. names[n], PREFIX .. 'x:' .. pools[n])
  blocked[n] = math.max(0, tonumber(marks[1] or 0) - now, tonumber(marks[2] or 0) - now)
  cooling[n] = {}
  for model, entry in pairs(cooldowns(pools[n]) or {}) do
    if entry[1] > now then
      table.insert(cooling[n], model)
      table.insert(cooling[n], entry[1] - now)
    end
  end
end
return cmsgpack.pack({booked, cooling, blocked})
