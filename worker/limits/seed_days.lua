-- Begins counters of days that Redis does not know with what the ledger has of them, and frees the lock.
--
-- args: now, bucket ids, days, amounts, name of the lock, its token
local lock, token = PREFIX .. args[5], args[6]
if redis.call('GET', lock) ~= token then return 0 end  -- too late: another worker does it, or has done it, by a younger look
for n = 1, #args[2] do
  if not load_day(args[2][n], args[3][n]) then new_day(args[2][n], args[3][n], args[4][n]) end
end
redis.call('DEL', lock)
return 1
