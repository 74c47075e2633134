-- Lets a lease live on.
-- KEYS[1] the leases; ARGV: node, epoch, time to live in milliseconds, about.
-- Returns expires-at; 0 where there is no such lease any more, or it has run out; 2 where it is under a newer epoch.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local lease = redis.call('HGET', KEYS[1], ARGV[1])
if not lease then
  return 0
end
local held, expires, instance = string.match(lease, '^(%d+) (%d+) (%S+)')
if not held or tonumber(held) < tonumber(ARGV[2]) then
  return 0
end
if tonumber(held) > tonumber(ARGV[2]) then
  return 2
end
if tonumber(expires) <= now then
  return 0
end
redis.call('HSET', KEYS[1], ARGV[1], string.format('%s %.0f %s %s', held, now + ARGV[3], instance, ARGV[4]))
return now + ARGV[3]
