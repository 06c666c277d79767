-- Corrects the days that calls were counted for, upwards and downwards.
--
-- args: now, bucket ids, days, slots that the calls were booked in, deltas (actual minus booked): four lists of one length
-- reply: how many counters were still there
local done = 0
for n = 1, #args[2] do
  local id, day, delta = args[2][n], args[3][n], args[5][n]
  local counter = load_day(id, day)
  if counter then
    if delta < 0 and args[4][n] < math.floor(counter.born / SLOT) then
      -- The ledger may have had it already. It is asked again before anybody waits for the next day.
      counter.booked = math.max(counter.booked, now)
    else
      counter.used = math.max(0, counter.used + delta)
    end
    save_day(id, day, counter)
    done = done + 1
  end
end
return done
