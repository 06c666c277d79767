-- The law: how a refusal moves what is learned. docs/limits.md states it; ceilings.lua names the fields.
local ENOUGH, ENOUGH_SECONDS = 40, 4   -- calls and seconds that a measurement takes,
local LONG = 25                        -- or so many seconds, where calls are rare
local SOME = 6             -- calls in a row without a refusal that it counts
local SHORT_STAY = 30      -- seconds until a rate that is less sure is probed upwards
local BETTER = 1.08        -- of the measurements before: they had lost unused quota
local FAR = 2              -- of what was taken: such a rate was nowhere near yet
local REST = 0.3           -- calls that the quota was still good for when one was refused
local AGAIN = 0.75         -- of that rate: where the measurement goes on then
local DOUBTFUL = 1.25      -- of what was taken in between: a call refused at such a rate came after unused quota was lost
local LESS = {0.985, 0.97} -- after the first incident and the second in a row; the third begins a measurement
local CLOSE = 25           -- seconds within which incidents follow one another
local PROBED = 1.15        -- a probe that comes so far shows that more is allowed now
local LONGEST_STAY = 180
local SHUT = 0.8           -- of what was taken before: where refusals count, any rate above the limit finds nothing left
local FIRST = 0.5          -- calls a second, at least: where nothing was taken yet, little is known
local FIRST_SECONDS = 5    -- after a limit was stated, refusals are about what was granted before
local WRONG = 0.1          -- share of refused calls that shows that a stated limit isn't the real one
local FELL, FALLS = 0.96, 3  -- so many measurements in a row that each found less: no rate is behind the refusals
local LET_BE = 600         -- seconds, then such a server's refusals teach again
local WALL, WALL_SECONDS = 3, 2.5  -- calls refused in so many seconds, none taken: a whole minute's quota is used up
local CALLS_A_SECOND, SLOW = 4, 0.25   -- where fewer are allowed, a rate grows more slowly, so that enough calls show it
local STRAY = 0.005        -- share of the calls of 10 s that may be refused without an incident
local CAP_LEAST = 0.5      -- no incident lowers a cap by more, once it was found
local FELL_TO = 0.35       -- of the cap that was found at first,
local FEW_IN_FLIGHT = 4    -- or so few: where the provider doesn't name calls in flight, they aren't the reason then

local pool = args[2]

-- What was taken and refused of a model in the last `seconds`, and over how many seconds, in units of `each` a call. '' is all models
-- together.
local function taken(model, each, seconds)
  local second, got, lost, first = math.floor(now), 0, 0, 0
  local function sum(kind, back)
    local key = PREFIX .. kind .. ':' .. pool .. ':' .. (second - back)
    local total = 0
    for _, n in ipairs(model == '' and redis.call('HVALS', key) or redis.call('HMGET', key, model)) do total = total + tonumber(n or 0) end
    return total
  end
  for back = 0, seconds - 1 do
    local g = sum('gm', back)
    got, lost = got + g, lost + sum('nm', back)
    if g > 0 then first = back end
  end
  return each * math.max(0, got - lost), each * lost, math.max(1, first + now - second)
end

-- Units of a call on average.
local function each_of(e, unit, call)
  if unit == 'requests' then return 1 end
  return e.n > 0 and e.t / e.n or call.amount
end

local function change(e, g, top)
  g.top, g.age, g.mark, g.at = math.max(SLOWEST, top), 0, e.n, now
  g.slow = math.min(1, SLOW + g.top / (CALLS_A_SECOND * (g == e.tokens and e.n > 0 and e.t / e.n or 1)))
end

-- A measurement begins at a refused call: the server's quota is used up there, and will be at the next one. What was taken in between is
-- its rate; where refusals follow one another, they may have used up quota, too, so that such a time doesn't count.
local function measure(e, g, call, top)
  g.found = false
  top = math.max(top, LEAST * (g == e.tokens and e.n > 0 and e.t / e.n or 1))
  g.n0, g.p0, g.s0, g.took, g.span, g.calls = call.n, call.place, call.start, 0, 0, 0
  change(e, g, top)
end

-- The first incident of a model. Most of what was granted in the last seconds isn't answered yet, so that the measurement begins with the
-- first call that is refused after it.
local function first_gate(e, model, unit, call)
  local took, _, over = taken(model, each_of(e, unit, call), 10)
  local g = {last = now, again = 0, stay = STAY, falls = 0, found = false}
  change(e, g, math.max(0.7 * took / over, FIRST * each_of(e, unit, call)))
  return g
end

-- A whole minute's quota is used up: the server refuses everything until it begins anew, in `left` seconds, or nobody knows when. What it
-- took in that minute is its limit. Where it states no time, `reopen` judges it later.
local function spent(e, unit, model, call, left)
  local g = e[unit] or {last = now, again = 0, stay = STAY, falls = 0, walls = 0, found = false}
  local each = each_of(e, unit, call)
  local took = taken(model, each, left and math.max(1, math.ceil(60 - left)) or 60)
  if e[unit] then took = math.min(took, 60 * (g.found and g.top or rate_of(g))) end
  if g.wall_place and call.place and now - g.wall_at < 60 then took = math.min(took, call.place - g.wall_place - g.wall_lost) end
  g.walls = (g.walls or 0) + 1
  if not left then
    local lately, _, over = taken(model, each, 8)
    local rate = rate_of(g)
    g.trickle = each * math.max(LEAST, math.min(TRICKLE, rate / each))
    g.wall, g.wall_top, g.wall_rate = true, math.max(took / 60, LEAST * each), lately >= SOME * call.amount and SHUT * lately / over or SHUT * rate
  end
  g.found, g.n0 = left ~= nil, nil
  g.wall_place, g.wall_at, g.wall_lost = call.place, now, 0
  change(e, g, math.max(took / 60, left and 0.1 * (g.top or 0) or g.wall_top))
  e[unit] = g
end

-- Nothing was taken in the last seconds, and several were refused.
local function is_wall(g, model, call)
  local took, lost = taken(model, 1, 4)
  local first = g.all_since
  if took > 0 then g.all_since = nil else g.all_since = first or call.start end
  return took == 0 and lost >= WALL and call.start - g.all_since >= WALL_SECONDS
end

local function refused_measuring(e, g, model, unit, call, rate)
  local lately, _, over = taken(model, each_of(e, unit, call), 5)
  if not g.n0 then
    if call.n > g.mark then measure(e, g, call, math.min(rate, lately / over)) end
    return
  end
  if call.n <= g.n0 then return end
  local took, calls, span = call.place - g.p0 - call.amount, call.n - g.n0 - 1, call.start - g.s0
  g.n0, g.p0, g.s0 = call.n, call.place, call.start
  local doubtful = calls >= SOME and rate > DOUBTFUL * took / span
  if doubtful then
    g.doubts = (g.doubts or 0) + (rate < FAR * took / span and 1 or 0)
    g.took, g.span, g.calls = took, span, calls
  elseif calls >= SOME then
    -- quota that is lost makes a measurement too low, and nothing makes it too high
    if g.calls > 0 and took / span > BETTER * g.took / g.span then g.took, g.span, g.calls = 0, 0, 0 end
    g.took, g.span, g.calls = g.took + took, g.span + span, g.calls + calls
  end
  if call.n <= g.mark then return end
  local measured = g.calls > 0 and g.took / g.span or math.min(rate, math.max(lately / over, 0.5 * rate))
  local least = LEAST * each_of(e, unit, call)
  if measured < least and g.calls == 0 then
    -- a minute's quota may be used up: nothing lower is concluded before it is over
    g.low = g.low or now
    if now - g.low < 65 then measured = least end
  end
  if doubtful and g.doubts > 2 or not doubtful and (g.span >= ENOUGH_SECONDS and g.calls >= ENOUGH or g.span >= LONG) then
    local before = g.before
    g.found, g.stay, g.again, g.doubts = true, doubtful and SHORT_STAY or STAY, 0, 0
    change(e, g, measured * (1 + REST / g.calls))
    g.falls = before and g.top < FELL * before and g.falls + 1 or 0
    g.before = g.top
    return g.falls >= FALLS
  end
  change(e, g, math.min(rate, doubtful and math.max(measured, math.min(AGAIN * rate, DOUBTFUL * measured)) or measured))
end

local function refused_found(e, g, model, unit, call, rate)
  if call.n <= g.mark then return end
  local took, lost, over = taken(model, each_of(e, unit, call), 10)
  if lost <= STRAY * took or g.stated and now - g.at < FIRST_SECONDS then return end
  if g.stated and lost > WRONG * (took + lost) then  -- the server enforces less than it states
    g.stated = nil
    measure(e, g, call, math.min(rate, took / over))
    return
  end
  if g.age >= g.stay then
    if rate > PROBED * g.top then
      local lately, _, over = taken(model, each_of(e, unit, call), 5)
      measure(e, g, call, math.min(rate, lately / over))
    else
      g.stay = LONGEST_STAY
      change(e, g, math.max(g.top * 0.995, 0.9 * rate))
      g.age = RECOVER
    end
    g.again = 0
  else
    g.again = now - g.at < CLOSE and g.again + 1 or 1
    if g.again > #LESS then
      local lately, _, over = taken(model, each_of(e, unit, call), 10)
      measure(e, g, call, math.min(rate, lately / over))
    else
      change(e, g, g.top * LESS[g.again])
      g.age = RECOVER / 2
    end
  end
end

-- A refusal that a rate caused. `call`: {n, place, amount, start}, or without a place where it was granted before anything was learned.
-- Returns true where measurements in a row have found less and less.
local function learn_rate(e, model, unit, call, first)
  local g = e[unit]
  if not g then
    if first then e[unit] = first_gate(e, model, unit, call) end
    return
  end
  if not call.n then return end
  if g.wall_lost then g.wall_lost = g.wall_lost + call.amount end
  if g.wall and g.age < OPEN then  -- it isn't over
    if call.n > g.mark then change(e, g, g.top) end
    return
  end
  if g.wall then reopen(g) end
  if is_wall(g, model, call) and call.n > g.mark then
    g.all_since = nil
    spent(e, unit, model, call, nil)
    return
  end
  if g.found then return refused_found(e, g, model, unit, call, rate_of(g)) end
  return refused_measuring(e, g, model, unit, call, rate_of(g))
end

-- A refusal that calls in flight caused. All those of a herd, which were granted before it was known, lower the cap by one each: what is
-- left is what the server took. Returns true where the cap has come down so far that calls in flight can't be the reason; `named`: they
-- are, by the provider's word.
local function learn_cap(e, call, named)
  local flying = math.max(in_flight(e), call.flying or 0) - 1
  local step = e.step
  e.step, e.more = nil, 0
  if not e.cap or e.gentle then
    e.cap, e.gentle, e.cap_mark = math.max(1, flying), nil, e.n
    e.cap_top, e.spare = e.cap, 0
  elseif (call.n or e.n) <= e.cap_mark then
    if e.spare > 0 then
      e.spare = e.spare - 1
      return false
    end
    e.cap = math.max(1, e.cap - 1)
    if not e.settled then e.cap_top = e.cap end
  elseif step then  -- they were too many
    e.spare, e.settled, e.cap_mark, e.cap_at = step - 1, true, e.n, now
    e.cap_stay = step > 1 and PROVEN or math.min(LONGEST_STAY, CAP_STAY + e.cap_stay / 2)
    return false
  else
    if not named and (e.cap <= FELL_TO * e.cap_top or e.cap < FEW_IN_FLIGHT) then return true end
    e.cap, e.cap_mark = math.max(1, math.min(e.cap - 1, flying), math.floor(e.cap * CAP_LEAST)), e.n
    e.settled, e.spare = true, 0
  end
  -- what is left may be too little by those that were answered meanwhile
  e.cap_stay, e.cap_at = PROVEN, now
  return false
end

local function forget_cap(e) e.cap, e.step, e.cap_top, e.settled, e.gentle, e.late = nil, nil, nil, nil, nil, nil end
