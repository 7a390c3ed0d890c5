-- Scans for wrk: a code, a device's token and a fresh nonce each; every 50th scan repeats an earlier one's ticket.
-- Arguments: folder of codes.txt and tokens.txt, threads, first and last line to use, a name for nonces, the path.
local threads = {}

function setup(thread)
  thread:set("number", #threads)
  table.insert(threads, thread)
end

function init(args)
  local folder, first, last = args[1], tonumber(args[3]), tonumber(args[4])
  stride, name, path = tonumber(args[2]), args[5], args[6]
  host = args[0]:match("//([^/]+)")
  codes, tokens = {}, {}
  local line = 0
  for code in io.lines(folder .. "/codes.txt") do
    line = line + 1
    if line >= first and line <= last and line % stride == number then codes[#codes + 1] = code end
  end
  for token in io.lines(folder .. "/tokens.txt") do tokens[#tokens + 1] = token end
  sent, admitted, unexplained, statuses = 0, 0, 0, {}
end

function request()
  sent = sent + 1
  local place = sent
  if sent > 610 and sent % 50 == 0 then place = sent - 610 end
  local code, token = codes[(place - 1) % #codes + 1], tokens[sent % #tokens + 1]
  local body = '{"code":"' .. code .. '","nonce":"' .. name .. "-" .. number .. "-" .. sent .. '"}'
  return "POST " .. path .. " HTTP/1.1\r\nHost: " .. host .. "\r\nAuthorization: Bearer " .. token
    .. "\r\nContent-Type: application/json\r\nContent-Length: " .. #body .. "\r\n\r\n" .. body
end

function response(status, headers, body)
  statuses[tostring(status)] = (statuses[tostring(status)] or 0) + 1
  if status == 200 and body:find('"admitted"', 1, true) then admitted = admitted + 1 end
  if status == 503 and not (headers["retry-after"] or headers["Retry-After"]) then unexplained = unexplained + 1 end
end

function done(summary, latency, requests)
  local total, entered, bare = {}, 0, 0
  for _, thread in ipairs(threads) do
    for status, times in pairs(thread:get("statuses")) do total[status] = (total[status] or 0) + times end
    entered, bare = entered + thread:get("admitted"), bare + thread:get("unexplained")
  end
  local words = {}
  for status, times in pairs(total) do words[#words + 1] = '"' .. status .. '":' .. times end
  local errors = summary.errors
  io.write(string.format(
    '\n{"seconds":%.3f,"p50_ms":%.3f,"p99_ms":%.3f,"admitted":%d,"no_retry_after":%d,"broken":%d,"timeouts":%d,"statuses":{%s}}\n',
    summary.duration / 1e6, latency:percentile(50) / 1e3, latency:percentile(99) / 1e3, entered, bare,
    errors.connect + errors.read + errors.write, errors.timeout, table.concat(words, ",")))
end
