-- All leases: living ones, and the graves of those that have run out, were released or replaced, and are not cleaned up yet.
-- KEYS[1] the leases.
-- Returns node, epoch, instance, milliseconds it lives on (negative: since when it does not), about, and again.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local leases = redis.call('HGETALL', KEYS[1])
local result = {}
for i = 1, #leases, 2 do
  -- What is under no node's name is no lease, and does not look like one.
  local held, expires, instance, about = string.match(leases[i + 1], '^(%d+) (%d+) (%S+) ?(.*)$')
  if held then
    result[#result + 1] = string.match(leases[i], '^(.*)\n%d+$') or leases[i]
    result[#result + 1] = held
    result[#result + 1] = instance
    result[#result + 1] = string.format('%.0f', tonumber(expires) - now)
    result[#result + 1] = about
  end
end
return result
