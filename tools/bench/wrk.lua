-- The closed load for wrk: keys drawn from a set, one request or a pipeline of them at a time. Arguments, name=value:
--   get, put      paths, with %s where the key is
--   prefix, keys  a key is the prefix and a number below `keys`, of twelve digits
--   draw          uniform, or zipf:EXPONENT (number 0 is the most popular one)
--   writes        how many of a hundred requests are PUTs, of `bytes` bytes
--   pipeline      requests sent together
-- Prints one line of JSON when it is done; latencies in microseconds.

-- What is prepared before the start, so that making requests takes no time from the load. A set of keys that is larger
-- is drawn from anew for every request: else a cache would need to hold no more keys than these.
local PREPARED = 131072

local threads = 0
function setup(thread)
  thread:set("number", threads)
  threads = threads + 1
end

local options = {}
local batches, at = {}, 0

local function cumulative(count, exponent)
  local sums, sum = {}, 0
  for i = 1, count do
    sum = sum + 1 / i ^ exponent
    sums[i] = sum
  end
  return sums
end

local function zipf(sums)
  local wanted, low, high = math.random() * sums[#sums], 1, #sums
  while low < high do
    local middle = math.floor((low + high) / 2)
    if sums[middle] < wanted then low = middle + 1 else high = middle end
  end
  return low - 1
end

function init(arguments)
  for _, argument in ipairs(arguments) do
    local name, value = argument:match("^(%a+)=(.*)$")
    options[name] = tonumber(value) or value
  end
  math.randomseed(4711 + number)
  local exponent = tostring(options.draw):match("^zipf:(.*)$")
  local sums = exponent and cumulative(options.keys, tonumber(exponent))
  local function key()
    local drawn = sums and zipf(sums) or math.random(0, options.keys - 1)
    return string.format("%s%012d", options.prefix, drawn)
  end
  local function one()
    if math.random(100) <= options.writes then
      -- A new value each time: else a write would change nothing.
      local value = string.format("%08d", math.random(0, 99999999)):rep(math.ceil(options.bytes / 8))
      return wrk.format("PUT", options.put:format(key()), nil, value:sub(1, options.bytes))
    end
    return wrk.format("GET", options.get:format(key()))
  end
  local function batch()
    if options.pipeline == 1 then return one() end
    local requests = {}
    for i = 1, options.pipeline do requests[i] = one() end
    return table.concat(requests)
  end
  if options.keys > PREPARED then
    -- wrk asks for the first one to see how many requests a batch has; any will do.
    request = batch
    return
  end
  for i = 1, PREPARED / options.pipeline do batches[i] = batch() end
  local count = #batches
  at = math.floor(count / 7) * number
  request = function()
    at = at % count + 1
    return batches[at]
  end
end

function request()
  return wrk.format("GET", "/")
end

function done(summary, latency)
  local errors = summary.errors
  io.write(string.format(
    '{"requests":%d,"seconds":%.6f,"errors":%d,"p50":%.1f,"p99":%.1f,"p999":%.1f}\n',
    summary.requests, summary.duration / 1e6,
    errors.connect + errors.read + errors.write + errors.status + errors.timeout,
    latency:percentile(50), latency:percentile(99), latency:percentile(99.9)))
end
