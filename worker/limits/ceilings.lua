-- Learned ceilings: the rates and the calls in flight that a server really takes, by pool and model. docs/limits.md states the law.
--
-- They are packed into one value a pool, which is read together with its cooldowns: where nothing was learned, that is all it costs.
-- An entry, by model ('' where the server counts all models of the pool together):
--   n, t        calls granted since it was made, and the tokens booked for them: the place of a call among the others
--   seen        when it was last used
--   requests, tokens   the gates, nil where no such rate is learned
--   cap         calls in flight; nil where that isn't limited. And for it:
--     gentle    true while nothing was refused: it grows from a few calls on
--     cap_mark  the last call that was granted before the cap was lowered
--     cap_at    when it last changed, or last had something to wait for
--     cap_stay  seconds until more are tried: `step` calls, of which `more` still may be granted; `spare`: those of them that
--               may still be refused; cap_top: the cap that was found at first; late: calls are answered late beyond it
--   flying      by worker: {when it last reported, its calls in flight}
--   off         nothing is learned until then: refusals have another reason
-- A gate:
--   top         the rate, in units a second, that the law is scaled by
--   age         seconds in which it held calls back, since the last change
--   last        start of the last call
--   found       whether the rate is known; else it is measured:
--     n0, p0, s0    the last refused call: its place in calls and in units, and its start
--     took, span, calls  units, seconds and calls between refusals, in sum
--   mark        the last call that was granted before the last change: refusals up to it are of the same incident
--   at, again   time of the last incident, and how many came close before it
--   stay        seconds until it is probed upwards
--   low         since when a measurement is at the least that is tried
--   slow        how fast it grows, of 1; doubts: measurements in a row that may have lost unused quota; wall: a whole minute's quota is used up; walls: how
--               often that was; trickle: its rate; wall_place, wall_at, wall_lost: where it began, and what was refused since
--   falls       measurements in a row that each found less
local FOUND = 0.985        -- of the rate that was measured: where it stays
local RECOVER, SHORT = 10, 0.06  -- seconds and share below, right after a measurement: the server's quota is used up then
local STAY = 150           -- seconds until a rate that held is probed upwards
local PROBE = 0.3          -- the probe's growth after a minute; with the third power of time
local CALM = 1             -- seconds without a refusal, from which on a rate that is measured grows: by 2 % after another one, twofold
local BELOW = 0.93         -- of the rate that is measured: where it goes on, since a server that counts refusals, too, takes nothing above its limit
local GROWTH = 0.02        -- after six, fivefold after nine; the exponent's factor of the square of seconds
local OPEN, TRICKLE, LEAST = 5, 0.3, 0.2  -- everything is refused: calls a second (no more than before, but at the least), until none was
-- refused for so many seconds
local SHORT_WALL = 8       -- seconds; where it took longer, a minute's quota was used up
local SLOWEST = 1 / 60     -- a second
local START = 8            -- calls in flight where nothing is known
local CAP_STAY = 60        -- seconds until one call in flight more is tried
local LATE_STAY = 300      -- the same where calls are late beyond it: they hold their places for long
local CAP_GROWTH = 0.25    -- of the cap: a step, while nothing is known
local PROVEN = 2           -- seconds that a call more goes without a refusal until another is tried
local SILENT = 10          -- seconds, then a worker that reports nothing has no calls in flight
local MOST_LEARNED = 100   -- models of one pool: who submits lines may name any
local CEILING_KEEP = 7 * 86400
local GATES = {'requests', 'tokens'}

local function ceiling_key(pool) return PREFIX .. 'a:' .. pool end

local function save_ceilings(pool, entries)
  local names = {}
  for model in pairs(entries) do names[#names + 1] = model end
  if #names > MOST_LEARNED then
    table.sort(names, function(a, b) return entries[a].seen > entries[b].seen end)
    for n = MOST_LEARNED + 1, #names do entries[names[n]] = nil end
  end
  if next(entries) == nil then
    redis.call('DEL', ceiling_key(pool))
  else
    redis.call('SET', ceiling_key(pool), cmsgpack.pack(entries), 'EX', CEILING_KEEP)
  end
end

local function ceilings_of(packed) return packed and cmsgpack.unpack(packed) or {} end

local function new_entry() return {n = 0, t = 0, seen = now, flying = {}} end

-- The rate a second that a gate that is measured allows at an age, and that any gate allows now.
local function rate_at(g, age) return g.top * BELOW * math.exp(GROWTH * (g.slow * math.max(0, age - CALM)) ^ 2) end

local function rate_of(g)
  if g.wall and g.age < OPEN then return g.trickle end
  if not g.found then return rate_at(g, g.age) end
  if g.age < RECOVER then return g.top * (FOUND - SHORT * (1 - g.age / RECOVER)) end
  if g.age < g.stay then return g.top * FOUND end
  return g.top * FOUND * (1 + PROBE * ((g.age - g.stay) / 60) ^ 3)
end

-- Everything was refused for a while, and now isn't. Where it took long, a minute's quota was used up, which is believed the second time;
-- otherwise the rate was too high for a server that counts refusals, too.
local function reopen(g)
  if g.at - g.wall_at < SHORT_WALL then
    g.found, g.top, g.walls = true, g.wall_rate, 0
  else
    g.found, g.top = g.walls > 1, g.wall_top
  end
  g.wall, g.age, g.stay = nil, 0, STAY
end

-- Calls in flight on an entry, by the last report of each worker and what was granted since.
local function in_flight(e)
  local count = 0
  for worker, one in pairs(e.flying) do
    if one[1] > now + STEP or now - one[1] > SILENT then e.flying[worker] = nil else count = count + one[2] end
  end
  return count
end

local function found_gate(top, stay)
  return {top = math.max(SLOWEST, top), age = 0, last = now, found = true, mark = 0, at = now, again = 0, stay = stay, falls = 0, slow = 1}
end

-- A call had to wait for the cap. A few calls more than that are tried, and only when nothing has come of it, the cap is raised. While
-- nothing is known they are tried once, so that what is too much holds few places. `pause`: seconds until that shows, at least a call's duration; nil while calls take longer than
-- they should.
local function grow_cap(e, pause)
  if e.step then
    if not pause or now - e.cap_at < math.max(pause, e.gentle and 0 or PROVEN) then return end
    e.cap = e.cap + e.step
    e.step = e.gentle and math.ceil(e.cap * CAP_GROWTH) or math.min(2 * e.step, math.max(1, math.floor(e.cap / 2)))
  elseif e.gentle then
    e.step = math.ceil(e.cap * CAP_GROWTH)
  elseif now - e.cap_at >= e.cap_stay then
    e.step = 1
  else
    return
  end
  e.more, e.cap_at = e.step, now
end

-- Calls are answered late where more are in flight. It concerns only keys of which nothing is configured, which began with a few.
local function lower_cap(e, cap)
  if e.gentle or e.late then
    cap = math.max(1, cap)
    if cap < e.cap then e.cap, e.step, e.more, e.cap_mark, e.cap_at, e.cap_stay = cap, nil, 0, e.n, now, LATE_STAY end
    if e.gentle then e.gentle, e.late, e.cap_top, e.spare = nil, true, e.cap, 0 end
  end
end

-- What is shown and stored of an entry: requests and tokens a minute and calls in flight (0: not learned), whether the search for them is
-- over, and when it was last used.
local function shown(e)
  if e.off then return 0, 0, 0, true, e.seen end
  local function minute(g) return g and 60 * (g.found and g.top or rate_of(g)) or 0 end
  local function over(g) return not g or g.found and not g.wall end
  return minute(e.requests), minute(e.tokens), e.cap and not e.gentle and e.cap or 0, over(e.requests) and over(e.tokens), e.seen
end

-- An entry that begins with what was learned before (0: not learned); nil where nothing was.
local function seeded(requests, tokens, cap)
  if requests + tokens + cap == 0 then return nil end
  local e = new_entry()
  for unit, rate in pairs({requests = requests, tokens = tokens}) do
    if rate > 0 then
      e[unit] = found_gate(rate / 60, STAY)
      e[unit].age = RECOVER
    end
  end
  if cap > 0 then e.cap, e.cap_top, e.more, e.spare, e.cap_mark, e.cap_at, e.cap_stay = cap, cap, 0, 0, 0, now, CAP_STAY end
  return e
end
