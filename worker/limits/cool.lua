-- Answers a 429: the key's buckets lose their pacing credit, and the model cools down on the pool if it was not a lone one. The whole
-- pool does if the provider named it, or if a second model is refused while the first one rests and no other is answered.
--
-- args: now, pool, model, bucket ids, seconds to cool, whether the provider asked for that many, 429s that cool, their share of
--       the grants, Retry-After that cools at once, seconds from which on a trial comes first, what the provider named ('' nothing,
--       'model', 'pool'), whether other models of the pool are answered just now, seconds since the call was sent (false: its rate
--       teaches nothing), the model's 429s that weren't counted yet: seconds since they were sent, how many, ...
-- reply: seconds that the model cools, seconds that the pool cools; 0: it does not; the rate a minute that was learned by it, or 0
local pool, model, ids, seconds, asked = args[2], args[3], args[4], args[5], args[6]
local several, share, long, try_from, named, answered = args[7], args[8], args[9], args[10], args[11], args[12]
local sent, more = args[13], args[14]
for _, id in ipairs(ids) do
  local b = load(id)
  if b then
    b.credit, b.time = math.min(b.credit, 0), math.max(b.time, now)
    save(bucket_key(id), b)
  end
end
local second = math.floor(now)
local function count(age, n)
  local key = PREFIX .. 'nm:' .. pool .. ':' .. math.floor(now - age)
  redis.call('HINCRBY', key, model, n)
  redis.call('EXPIRE', key, 65)
end
count(sent or 0, 1)
for n = 1, #more, 2 do count(more[n], more[n + 1]) end
local whole = named == 'pool' or model == ''
local function counted(kind)
  local sum = 0
  for back = 0, 9 do
    local key = PREFIX .. kind .. pool .. ':' .. (second - back)
    for _, n in ipairs(whole and redis.call('HVALS', key) or redis.call('HMGET', key, model)) do
      sum = sum + tonumber(n or 0)
    end
  end
  return sum
end
local refused, grants = counted('nm:'), counted('gm:')
-- The calls of the model that were granted in the last `seconds`, those of them that were refused, and the seconds since the first.
local function taken(seconds)
  local got, lost, first = 0, 0, 0
  for back = 0, seconds - 1 do
    local g = tonumber(redis.call('HGET', PREFIX .. 'gm:' .. pool .. ':' .. (second - back), model) or 0)
    got, lost = got + g, lost + tonumber(redis.call('HGET', PREFIX .. 'nm:' .. pool .. ':' .. (second - back), model) or 0)
    if g > 0 then first = back end
  end
  return got, lost, math.max(1, first + now - second)
end

-- An incident: the server refused calls that were sent after the last one was answered by a lower rate. Returns the new rate, or nil
-- where nothing is taken at all: then the rate is not what matters.
local function lower(entries, e)
  local got, lost, over = taken(10)
  if got == 0 then return nil end
  local asked_for = e and rate_of(e) or got / over
  local rate = math.min(asked_for, math.max(0, got - lost) / over)
  local soon_got, soon_lost = taken(3)
  local top, search, stay = nil, 0, STAY
  local took = math.max(0, got - lost) / over
  if e and (not e.began or e.search == 0 and e.age >= e.stay) then e.began, e.first = now, nil end
  if e and not e.first and now - e.began >= 10 then
    e.first, e.took = asked_for, took
  elseif e and e.first and asked_for < FAR * e.first and took < FOLLOWS * e.took * asked_for / e.first then
    entries[model] = {off = now + LET_BE}
    save_ceilings(pool, entries)
    return nil
  end
  local spent = asked and seconds > long
  if spent or soon_lost >= SPENT * soon_got then
    local all, none, long_over = taken(60)
    if e and not spent and soon_lost >= soon_got and now - e.at < 60 then return nil end
    -- a server that asks for so long counts whole minutes, and the last one is used up
    if spent or long_over >= 50 then
      top, stay = math.max(0, all - none) / 60, FIRST_STAY
      if e then top = math.min(top, asked_for) end
    end
  end
  if top then
    if e then top = math.max(top, asked_for * LEAST) end
  elseif not e and over < YOUNG then
    top, search = asked_for * LEAST_OF_HERD, 2  -- most of what was granted isn't answered yet
  elseif not e or lost >= HERD * got then
    top, search = math.max(rate, asked_for * LEAST_OF_HERD) * DECREASE, 1
  elseif e.search == 2 then
    top, search = math.max(rate, asked_for * LEAST), 1
  elseif e.search == 1 then
    top, stay = math.max(rate, asked_for * LEAST), FIRST_STAY
  elseif e.age < e.stay then
    top = asked_for * 0.97
  else
    top = math.max(e.top * 0.99, asked_for * OVERSHOT)
  end
  e = e or {next = now}
  e.top, e.age, e.at, e.seen, e.search, e.stay = math.max(SLOWEST, top), 0, now, now, search, stay
  e.next = math.max(now, math.min(e.next, now + 1 / rate_of(e)))
  entries[model] = e
  save_ceilings(pool, entries)
  return rate_of(e)
end

-- One is never several. From three on it takes a third of the share, so that stray ones in a thousand never stop a fast pool.
local cools = (asked and seconds > long)
  or (refused >= several and refused > share * grants * 0.3)
  or (refused >= 2 and refused > share * grants)
local rate = 0
if sent and model ~= '' and named ~= 'pool' and not (asked and seconds > 65) then
  local packed = redis.call('GET', ceiling_key(pool))
  local entries = packed and cmsgpack.unpack(packed) or {}
  local e = entries[model]
  if e and e.off and e.off <= now then e = nil end
  if e and e.off then
    rate = 0
  elseif e then
    if e.at > now then e.at = now end  -- the server's clock was set back
    local began, lost = e.at + AHEAD, 0  -- what was granted before is of the last incident
    for back = 0, 9 do
      if second - back >= math.floor(began) then
        lost = lost + tonumber(redis.call('HGET', PREFIX .. 'nm:' .. pool .. ':' .. (second - back), model) or 0)
      end
    end
    if now - sent > began and lost > STRAY * grants then rate = lower(entries, e) or 0 end
    cools = asked and seconds > long or refused > 0.5 * grants and refused >= several
  elseif cools then
    local lost, _ = refused
    if asked and seconds > long then _, lost = taken(60) end  -- while it cools, few calls are left that could be refused
    if lost >= 2 then rate = lower(entries, nil) or 0 end
  end
end
if not cools then return cmsgpack.pack({0, 0, rate * 60}) end
if seconds > BELIEVED then seconds = LONGEST end
local till, trial = now + seconds, seconds > try_from and 1 or 0
local entries = cooldowns(pool) or {}
if whole then
  cool_down(entries, '', till, 0, trial)
else
  cool_down(entries, model, till, named == 'model' and 1 or 0, trial)
  if named == '' and not answered then
    local second_till = 0
    for other, entry in pairs(entries) do
      if other ~= '' and other ~= model and entry[2] == 0 then second_till = math.max(second_till, entry[1]) end
    end
    if second_till > now then
      local both = math.min(till, second_till)
      cool_down(entries, '', both, 0, both - now > try_from and 1 or 0)
    end
  end
end
save_cooldowns(pool, entries)
local function left(name) return entries[name] and math.max(0, entries[name][1] - now) or 0 end
return cmsgpack.pack({whole and 0 or left(model), left(''), rate * 60})
