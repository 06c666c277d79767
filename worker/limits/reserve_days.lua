-- The part of reserve.lua that keeps limits by day. `days` is false where no key has any, and then nothing of this is called. Else it is
-- a list: bucket ids, units, limits, the days that a call granted now may count for (a list of starts for each bucket), the seconds until
-- calls may start that don't count for each of these any more, and the buckets of each key.
local days = args[19]
local counters, booked_days, spent_days = {}, {}, {}

-- Reads the counters. Returns those that this run of the server has never seen, as bucket and day in turns.
local function begin_days(create)
  local unknown = {}
  for i, id in ipairs(days[1]) do
    counters[i] = {}
    for n, day in ipairs(days[4][i]) do
      local counter = load_day(id, day)
      if not counter and create then counter = new_day(id, day, 0) end
      if not counter then
        unknown[#unknown + 1] = i
        unknown[#unknown + 1] = day
      end
      counters[i][n] = counter
    end
  end
  return unknown
end

-- The seconds until the days of key `k` have room for the charge; 0: they have it now.
local function day_wait(k, charge)
  local wait = 0
  for _, i in ipairs(days[6][k]) do
    local amount = charge[days[2][i]]
    if amount > 0 then
      for n, counter in ipairs(counters[i]) do
        if counter.used + amount > days[3][i] then
          wait = math.max(wait, days[5][i][n])
          spent_days[i] = math.max(spent_days[i] or 0, days[5][i][n])
        end
      end
    end
  end
  return wait
end

local function book_day(k, charge)
  for _, i in ipairs(days[6][k]) do
    local amount = charge[days[2][i]]
    for _, counter in ipairs(counters[i]) do counter.used = counter.used + amount end
    booked_days[i] = true
  end
end

-- Stores what was booked, and adds to the reply the buckets that kept somebody waiting, with the seconds until they have room. What was
-- booked by workers that were killed, or settled too late, makes a counter differ from the ledger: it is made anew before anybody
-- waits for the next day; not where there is no ledger (`create`).
local function end_days(reply, create)
  for i in pairs(booked_days) do
    for n, counter in ipairs(counters[i]) do
      counter.booked = now
      save_day(days[1][i], days[4][i][n], counter)
    end
  end
  for i, seconds in pairs(spent_days) do
    for n, counter in ipairs(counters[i]) do
      if not create and counter.booked >= counter.born and now - counter.booked > RECOUNT then
        redis.call('HDEL', bucket_key(days[1][i]), days[4][i][n])
      end
    end
    reply[#reply + 1] = i
    reply[#reply + 1] = seconds
  end
end
