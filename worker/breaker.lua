-- The breaker of one provider, for all workers, on the server's clock. See breaker.py.
--
-- KEYS[1] is the hash tag; ARGV[1] is a MessagePack array:
--   now (or false for the server's clock), provider, window, least bad, share, seconds between probes, hurry,
--   "record", ok, bad, stuck  reply: "closed" or "open", as it stands afterwards
--   "admit", how many         reply: how many may go, and the seconds (as text) until one may try again; for none only how it stands
--
-- State, packed: open (0 or 1), when the next probe may go, probes not answered yet, then second, ok, bad for each second seen.
local args = cmsgpack.unpack(ARGV[1])
local now, provider, window, least, share, pause, hurry = args[1], args[2], args[3], args[4], args[5], args[6], args[7]
local op = args[8]
if not now then
  local t = redis.call('TIME')
  now = tonumber(t[1]) + tonumber(t[2]) / 1000000
end
local key = KEYS[1] .. ':k:' .. provider
local second = math.floor(now)

local state = {0, 0, 0}
local stored = redis.call('GET', key)
if stored then state = cmsgpack.unpack(stored) end
local open, next_probe, probing = state[1] == 1, state[2], state[3]
-- A probe further off than one pause means that the server's clock went back.
if next_probe > now + 2 * pause then next_probe = now end

local function save(seen)
  local fresh = {open and 1 or 0, next_probe, probing}
  for _, number in ipairs(seen) do fresh[#fresh + 1] = number end
  redis.call('SET', key, cmsgpack.pack(fresh), 'EX', open and 600 or math.ceil(window) + 5)
end

if op == 'admit' then
  local count = args[9]
  if not open then return {count, '0'} end
  if now < next_probe or count < 1 then return {0, string.format('%.6f', math.max(0.001, next_probe - now))} end
  next_probe, probing = now + pause, probing + 1
  save({})
  return {1, string.format('%.6f', pause)}
end

local ok, bad, stuck = args[9], args[10], args[11]
if open then
  -- Only an answer that came after a probe went may close it: those sent before it opened come in for minutes.
  if ok > 0 and probing > 0 then
    redis.call('DEL', key)
    return 'closed'
  end
  save({})
  return 'open'
end

local seen, all_ok, all_bad, found = {}, ok, bad, false
local late_ok, late_bad = ok, bad  -- of the last seconds alone: many good calls before them don't speak for a provider that is gone
for n = 4, #state, 3 do
  local at, o, b = state[n], state[n + 1], state[n + 2]
  if at > second - window and at <= second then
    all_ok, all_bad = all_ok + o, all_bad + b
    if at > second - hurry then late_ok, late_bad = late_ok + o, late_bad + b end
    if at == second then
      o, b, found = o + ok, b + bad, true
    end
    seen[#seen + 1], seen[#seen + 2], seen[#seen + 3] = at, o, b
  end
end
if not found then seen[#seen + 1], seen[#seen + 2], seen[#seen + 3] = second, ok, bad end
if (all_bad >= least and all_bad >= share * (all_ok + all_bad)) or (late_bad >= least and late_bad >= 0.9 * (late_ok + late_bad))
  or (stuck and all_bad >= 2 and all_ok == 0) then
  open, next_probe, probing, seen = true, now + pause, 0, {}
end
save(seen)
return open and 'open' or 'closed'
