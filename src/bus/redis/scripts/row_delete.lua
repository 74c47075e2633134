-- Deletes the location row of one user on one node, unless a newer epoch of that node has written it.
-- KEYS[1] the user's rows; ARGV: node, epoch.
-- Returns {1, node, row, ...} with the rows that are left, whether or not there was one to delete, or {0, epoch}.
local row = redis.call('HGET', KEYS[1], ARGV[1])
if row then
  local epoch = string.match(row, '^%d+')
  if epoch and tonumber(epoch) > tonumber(ARGV[2]) then
    return {0, epoch}
  end
  redis.call('HDEL', KEYS[1], ARGV[1])
end
local result = {1}
local rows = redis.call('HGETALL', KEYS[1])
for i = 1, #rows do
  result[i + 1] = rows[i]
end
return result
