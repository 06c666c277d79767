-- Lifts the holds of one want, so that its buckets need not wait for them to run out.
--
-- args: now, want id, bucket ids
local id = args[2]
for _, bucket in ipairs(args[3]) do
  local b = load(bucket)
  if b and b.hold == id then redis.call('HDEL', bucket_key(bucket), 'h') end
end
return 1
