-- Learned ceilings: the rate of requests that a server really takes, by pool and model. See docs/limits.md for the law.
--
-- They are packed into one value a pool, which is read together with its cooldowns: where nothing was learned, that is all it costs.
-- An entry:
--   top          rate a second that the law is scaled by
--   age          seconds in which the ceiling was what held calls back, since the last incident
--   next         no start before
--   seen, at     when it was last looked at; the last incident
--   search       1 while the limit isn't found, 2 while even its size isn't, else 0
--   stay         seconds until it is probed upwards
--   first, took  the rate, and what was taken, 10 s after a row of incidents `began`
--   off          alone in an entry: nothing is learned until then
local DECREASE = 0.95      -- after an incident, of the rate that held
local FOUND = 0.985        -- of that rate: where it stays
local RECOVER = 15         -- seconds from DECREASE to FOUND
local STAY = 150           -- seconds, then it probes upwards
local FIRST_STAY = 30      -- seconds, when the limit has just been found, which is not exact
local PROBE = 0.3          -- the probe's growth after a minute; with the third power of time
local OVERSHOT = 0.9       -- of the rate at which a probe was refused: what held by then, since a second's burst hides what is too much
local GROWTH = 1.08        -- a second, while the limit isn't found,
local FAST_GROWTH = 1.3    -- and where nothing is known but that there is one
local YOUNG = 3            -- seconds of calls, from which on there is more that is known
local AHEAD = 1.2          -- seconds that calls are granted ahead, and start late
local STRAY = 0.005        -- share of the calls of 10 s that may be refused without an incident
local HERD = 0.2           -- share of refused calls from which on the rate says nothing, and what was taken says all
local SPENT = 0.7          -- share of refused calls of 3 s from which on a whole minute's quota may be spent
local LEAST = 0.4          -- of the rate: no incident lowers it by more,
local LEAST_OF_HERD = 0.1  -- but where a herd was refused
local FAR, FOLLOWS = 0.35, 1.25  -- of the rate at first; where what is taken fell with it, about, no limit is behind that
local LET_BE = 600         -- seconds, then such a server's 429s teach again
local SLOWEST = 1 / 60     -- a second
local MOST_LEARNED = 100   -- models of one pool: who submits lines may name any
local CEILING_KEEP = 7 * 86400

local function ceiling_key(pool) return PREFIX .. 'a:' .. pool end

local function save_ceilings(pool, entries)
  local names = {}
  for model in pairs(entries) do names[#names + 1] = model end
  if #names > MOST_LEARNED then
    local function last(model) return entries[model].seen or entries[model].off end
    table.sort(names, function(a, b) return last(a) > last(b) end)
    for n = MOST_LEARNED + 1, #names do entries[names[n]] = nil end
  end
  if next(entries) == nil then
    redis.call('DEL', ceiling_key(pool))
  else
    redis.call('SET', ceiling_key(pool), cmsgpack.pack(entries), 'EX', CEILING_KEEP)
  end
end

-- The rate a second that the law allows now.
local function rate_of(e)
  if e.search > 0 then return e.top * (e.search == 2 and FAST_GROWTH or GROWTH) ^ e.age end
  if e.age < RECOVER then return e.top * (FOUND - (FOUND - DECREASE) * (1 - e.age / RECOVER)) end
  if e.age < e.stay then return e.top * FOUND end
  return e.top * FOUND * (1 + PROBE * ((e.age - e.stay) / 60) ^ 3)
end

-- What is shown and stored of an entry: requests a minute, tokens a minute and calls in flight (0: not learned), whether the search for
-- them is over, and when it was last used.
local function shown(e)
  if e.off then return 0, 0, 0, true, e.off - LET_BE end
  local rate = rate_of(e)
  if e.search == 0 then rate = math.max(e.top * FOUND, rate * OVERSHOT) end  -- a probe is not proven yet
  return rate * 60, 0, 0, e.search == 0, e.seen
end

-- An entry that stays at what was learned before, as after a search. 0 or nil: not learned; all of them: no entry.
local function seeded(requests, tokens, in_flight)
  if (requests or 0) <= 0 then return nil end
  return {top = requests / 60 / FOUND, age = RECOVER, next = now, seen = now, at = now, search = 0, stay = STAY}
end
