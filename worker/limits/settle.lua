-- Corrects the slot a call was booked in, as far as the ring still has it, and the pacing credit by as much: a provider that
-- slices its minutes has counted the same. Credit never passes the burst (reserve.lua caps it), and the ring still guards the
-- minute, so nothing old is refunded into the present.
--
-- args: now, bucket ids, slots, deltas (actual minus booked): three lists of one length
-- reply: how many were still in the ring
local AHEAD = 10  -- slots: more than any call is granted ahead
local ids, slots, deltas = args[2], args[3], args[4]
local buckets, done = {}, 0
for n = 1, #ids do
  local id, slot, delta = ids[n], slots[n], deltas[n]
  local key = bucket_key(id)
  local b = buckets[id]
  if b == nil then
    b = load(id) or false
    buckets[id] = b
  end
  -- Slots from before `born` hold what the ledger said when the bucket was seeded, not what was booked then; those far ahead were
  -- booked before the server's clock was set back, and would stay until it comes there.
  if b and slot >= b.oldest and slot >= b.born and slot <= current + AHEAD then
    local amount = redis.call('HINCRBY', key, slot, delta)
    if amount < 0 then
      redis.call('HSET', key, slot, 0)
      delta = delta - amount
    end
    b.sum = b.sum + delta
    b.credit = b.credit - delta
    done = done + 1
  end
end
for id, b in pairs(buckets) do
  if b then save(bucket_key(id), b) end
end
return done
