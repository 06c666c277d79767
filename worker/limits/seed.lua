-- Begins buckets that Redis does not know with what the ledger says of their last minute, and frees the seeding lock.
--
-- args: now, bucket ids, for each a flat list of age in seconds and amount, name of the lock, its token
local ids, seeds, lock, token = args[2], args[3], PREFIX .. args[4], args[5]
for n = 1, #ids do
  local key = bucket_key(ids[n])
  if redis.call('EXISTS', key) == 0 then
    local b = {time = now, credit = 1e15, sum = 0, oldest = current - SPAN, born = current}
    for j = 1, #seeds[n], 2 do
      local slot, amount = math.floor((now - seeds[n][j]) / SLOT), seeds[n][j + 1]
      if slot >= b.oldest and amount > 0 then
        redis.call('HINCRBY', key, math.min(slot, current), amount)
        b.sum, b.credit = b.sum + amount, 0
      end
    end
    save(key, b)
  end
end
if redis.call('GET', lock) == token then redis.call('DEL', lock) end
return 1
