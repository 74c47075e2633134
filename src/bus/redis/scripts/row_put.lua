-- Writes or renews the location row of one user on one node.
-- KEYS[1] the user's rows; ARGV: node, epoch, shard, serial of this write, time to live in milliseconds.
-- Returns {1, node, row, ...} with the rows of other nodes, or {0, epoch} where a newer epoch of this node has written.
local row = redis.call('HGET', KEYS[1], ARGV[1])
if row then
  local epoch = string.match(row, '^%d+')
  if epoch and tonumber(epoch) > tonumber(ARGV[2]) then
    return {0, epoch}
  end
end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2] .. ' ' .. ARGV[3] .. ' ' .. ARGV[4])
redis.call('PEXPIRE', KEYS[1], ARGV[5])
local result = {1}
if redis.call('HLEN', KEYS[1]) > 1 then
  local rows = redis.call('HGETALL', KEYS[1])
  for i = 1, #rows, 2 do
    if rows[i] ~= ARGV[1] then
      result[#result + 1] = rows[i]
      result[#result + 1] = rows[i + 1]
    end
  end
end
return result
