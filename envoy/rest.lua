-- Completes what the transcoder does, on the routes for REST. Each call of Envoy's API costs about a microsecond on a
-- busy machine, so a plain read makes few.

-- Returns what is wrong with a query; nil when it is valid. The transcoder would let a parameter override what the path
-- says, and add to what the body says. `taken` are the fields of the path and the body, in lower case without
-- underscores, because a field has two names in JSON; `*` is every field.
local function what_the_query_may_not_hold(query, taken)
  for name in string.gmatch(query, "([^&=]*)[^&]*&?") do
    if taken == "*" and name ~= "" then
      return "the path takes no query parameters; send the fields in the body"
    elseif string.find(name, "[^%w_.]") then
      return "a query parameter's name has a character that no field has"
    end
    local field = string.lower(string.gsub(name, "_", ""))
    for other in string.gmatch(taken or "", "[^,]+") do
      if field == other or string.sub(field, 1, #other + 1) == other .. "." then
        return "the query must not hold " .. string.sub(name, 1, 64) .. ", which the path or the body holds"
      end
    end
  end
  return nil
end

-- An empty query parameter (`?status=&page=`) means the same as none, but is not a valid enum or number.
local function without_empty_parameters(path, mark)
  local kept = {}
  for parameter in string.gmatch(string.sub(path, mark + 1), "[^&]+") do
    if not string.find(parameter, "^[^=]*=?$") then
      kept[#kept + 1] = parameter
    end
  end
  local bare = string.sub(path, 1, mark - 1)
  return #kept == 0 and bare or bare .. "?" .. table.concat(kept, "&")
end

-- Returns whether `if-none-match` (a list of etags, or `*`) contains this etag; weak and strong etags count as equal.
local function matches(if_none_match, etag)
  if if_none_match == "*" then
    return true
  end
  local known = string.match(etag, '"[^"]*"')
  for candidate in string.gmatch(if_none_match, '"[^"]*"') do
    if candidate == known then
      return true
    end
  end
  return false
end

-- Stores what the response needs to know about the request, because the request's headers are not available then.
local function remember(handle, key, value)
  handle:streamInfo():dynamicMetadata():set("rest", key, value)
end

-- Reads the whole response and sends an empty body. Keeps `content-length`, because HEAD asks for it.
local function drop_body(handle)
  local body = handle:body()
  if body ~= nil then
    local length = body:length()
    body:setBytes("")
    handle:headers():replace("content-length", tostring(length))
  end
end

-- The error that a server's gRPC library sends when a deadline passes has no details; usually ours arrives a moment
-- earlier.
local LATE = '{"code":4,"message":"The deadline passed before the response was ready.","details":[{"@type":' ..
  '"type.googleapis.com/google.rpc.ErrorInfo","reason":"DEADLINE_EXCEEDED","domain":"protomesh","metadata":{}}]}'

local function tell_in_full(handle)
  local body = handle:body()
  if body ~= nil and string.find(body:getBytes(0, body:length()), '"details":[]', 1, true) then
    handle:headers():replace("content-length", tostring(body:setBytes(LATE)))
  end
end

function envoy_on_request(handle)
  local headers = handle:headers()
  local path = headers:get(":path")
  local mark = string.find(path, "?", 1, true)
  if mark ~= nil then
    local fault = what_the_query_may_not_hold(string.sub(path, mark + 1), handle:metadata():get("taken"))
    if fault then
      handle:respond({[":status"] = "400"}, fault)
      return
    end
    headers:replace(":path", without_empty_parameters(path, mark))
  end
  local method = headers:get(":method")
  if method == "HEAD" then
    headers:replace(":method", "GET")
    remember(handle, "head", "true")
  end
  if method == "HEAD" or method == "GET" then
    -- For a change the header means something else, and 304 would hide that the change was made.
    local if_none_match = headers:get("if-none-match")
    if if_none_match ~= nil then
      remember(handle, "if_none_match", if_none_match)
    end
    return
  end
  local route = handle:metadata()
  local message = route:get("body")
  local limit = tonumber(route:get("max_bytes") or math.huge)
  local body = message and handle:body()
  if body and body:length() > limit then
    handle:respond({[":status"] = "413"}, "")
    return
  end
  local fault = body and what_does_not_belong(body:getBytes(0, body:length()), message)
  if fault then
    handle:respond({[":status"] = "400"}, fault)
  end
end

function envoy_on_response(handle)
  local headers = handle:headers()
  local status = headers:get(":status")
  if status == "504" then
    tell_in_full(handle)
  end
  local request = handle:streamInfo():dynamicMetadata():get("rest") or {}
  if status == "200" then
    local route = handle:metadata()
    local success_status = route:get("success_status")
    if success_status ~= nil then
      headers:replace(":status", success_status)
    end
    local cache_control = route:get("cache_control")
    if cache_control ~= nil then
      headers:replace("cache-control", cache_control)
    end
    local etag = request.if_none_match and headers:get("etag")
    if etag and matches(request.if_none_match, etag) then
      headers:replace(":status", "304")
      headers:remove("content-type")
      drop_body(handle)
      return
    end
  end
  if request.head ~= nil then
    drop_body(handle)
  end
end
