-- Answers a 429: the key's buckets lose their pacing credit, and the model cools down on the pool if it was not a lone one. The whole
-- pool does if the provider named it, or if a second model is refused while the first one rests and no other is answered.
--
-- args: now, pool, model, bucket ids, seconds to cool, whether the provider asked for that many, 429s that cool, their share of
--       the grants, Retry-After that cools at once, seconds from which on a trial comes first, what the provider named ('' nothing,
--       'model', 'pool'), whether other models of the pool are answered just now, seconds since the call was sent, the model's 429s
--       that weren't counted yet: seconds since they were sent, how many, ...; and false where it teaches nothing, or which limit
--       it is about ('requests', 'tokens', 'calls', '' unknown), whether calls in flight are its guess then, the call's place in calls, in tokens and among those in flight (false:
--       none), its tokens, the caller's calls in flight, the caller, whether the provider stated a wait
-- reply: seconds that the model cools, seconds that the pool cools; 0: it does not; and what was learned by it: requests and tokens a
--        minute, calls in flight, or 0
local pool, model, ids, seconds, asked = args[2], args[3], args[4], args[5], args[6]
local several, share, long, try_from, named, answered = args[7], args[8], args[9], args[10], args[11], args[12]
local sent, more, kind = args[13], args[14], args[15]
local guessed, place, token_place, flying = args[16], args[17], args[18], args[19]
local tokens, own_calls, worker, stated, usual = args[20], args[21], args[22], args[23], args[24]
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
count(sent, 1)
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
-- One is never several. From three on it takes a third of the share, so that stray ones in a thousand never stop a fast pool.
local cools = (asked and seconds > long)
  or (refused >= several and refused > share * grants * 0.3)
  or (refused >= 2 and refused > share * grants)

-- What a refusal teaches, for the model or (where the provider named it) for all models of the pool. Only several teach something new.
local MANY = 20  -- calls of a minute that show that its quota was used up by them
local learned = {0, 0, 0}
local function learn()
  local entries = ceilings_of(redis.call('GET', ceiling_key(pool)))
  local name = named == 'pool' and '' or model
  local e = entries[name] or new_entry()
  if e.off and e.off > now then return end
  entries[name], e.off, e.seen = e, nil, now
  if own_calls then
    -- calls that left before anything was learned weren't counted
    if e.cap and not e.gentle and not place and not e.flying[worker] then e.cap = e.cap + own_calls end
    e.flying[worker] = {now, own_calls}
  end
  local capped = e.cap and not e.gentle
  local known = e.requests or e.tokens or capped
  local kind = kind
  if kind == '' then
    if capped or (guessed or e.gentle and not stated) and (e.rate_until or 0) < now then kind = 'calls' else kind = e.tokens and 'tokens' or e.requests and 'requests' or usual end
  end
  local long_wait = asked and seconds > long
  if kind == 'calls' and (cools or known or e.gentle) then
    if learn_cap(e, {n = place, flying = flying}, args[15] == 'calls') then
      forget_cap(e)
      e.rate_until, kind = now + LET_BE, 'requests'
    else
      e.requests, e.tokens = nil, nil
      cools = long_wait or e.cap == 1 and cools
    end
  end
  if kind ~= 'calls' then
    if e.cap and not e.gentle then forget_cap(e) end
    local amount = kind == 'tokens' and tokens or 1
    local call = {n = place, place = kind == 'tokens' and token_place or place, amount = amount, start = now - sent}
    if long_wait then
      local got, lost = taken(name, 1, 60)
      if got > 0 and (e[kind] or lost >= 2 or got >= MANY) then
        if not e[kind] or (place or 0) > e[kind].mark then spent(e, kind, name, call, seconds) end
      end
    else
      if learn_rate(e, name, kind, call, cools) then
        e.requests, e.tokens = nil, nil
        if (e.rate_until or 0) < now and args[15] == '' then
          learn_cap(e, {n = place, flying = flying})
        else
          e.off = now + LET_BE
        end
      end
      if e[kind] then cools = refused > 0.5 * grants and refused >= several end
    end
  end
  local function minute(g) return g and g.at == now and 60 * rate_of(g) or 0 end
  learned = {minute(e.requests), minute(e.tokens), e.cap and not e.gentle and e.cap_at == now and e.cap or 0}
  save_ceilings(pool, entries)
end
if kind and (model ~= '' or named == 'pool') and not (asked and seconds > 65) then learn() end
if not cools then return cmsgpack.pack({0, 0, learned[1], learned[2], learned[3]}) end
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
return cmsgpack.pack({whole and 0 or left(model), left(''), learned[1], learned[2], learned[3]})
