-- Deletes the location row of one user on one node, unless a newer epoch of that node has written it, or a later write of this epoch:
-- what was still under way on a connection that was given up may be carried out after what was sent on the next one.
-- KEYS[1] the user's rows; ARGV: node, epoch, serial of this write or '' for the last.
-- Returns {1, node, row, ...} with the rows that are left, whether or not there was one to delete, or {0, epoch}.
local row = redis.call('HGET', KEYS[1], ARGV[1])
if row then
  local epoch = string.match(row, '^%d+')
  if epoch and tonumber(epoch) > tonumber(ARGV[2]) then
    return {0, epoch}
  end
  local serial = string.match(row, '^%d+ %d+ (%d+)$')
  if ARGV[3] == '' or not serial or tonumber(serial) <= tonumber(ARGV[3]) then
    redis.call('HDEL', KEYS[1], ARGV[1])
  end
end
local result = {1}
local rows = redis.call('HGETALL', KEYS[1])
for i = 1, #rows do
  result[i + 1] = rows[i]
end
return result
