-- Quarantines a key or a pool by name, or lets it go.
--
-- args: now, name, seconds: a number, true for "until let go", false to let go
local key, seconds = PREFIX .. 'x:' .. args[2], args[3]
if not seconds then
  redis.call('DEL', key)
elseif seconds == true then
  redis.call('SET', key, '1e15', 'EX', 30 * 86400)  -- every worker says it again every few seconds
else
  redis.call('SET', key, string.format('%.6f', now + seconds), 'PX', math.ceil(seconds * 1000) + 60000)
end
return 1
