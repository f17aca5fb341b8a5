-- The transcoder drops unknown fields of a JSON body, and has no option to refuse them. So this walks the body along
-- its message, and reports unknown fields. MESSAGES (generated from the contracts) maps each message's fields, by both
-- of their JSON names, to the message that a field holds, or to `true` for a value that is not checked. A map accepts
-- any key: its entry is `*`.

local QUOTE, COLON, COMMA, BACKSLASH = 0x22, 0x3A, 0x2C, 0x5C
local OPEN_OBJECT, CLOSE_OBJECT, OPEN_LIST, CLOSE_LIST = 0x7B, 0x7D, 0x5B, 0x5D
local NOT_JSON = "the body is not JSON"

-- Returns the first byte at or after `at` that is not whitespace, and its position.
local function token(text, at)
  local position = string.find(text, "[^ \t\r\n]", at)
  if position == nil then
    error(NOT_JSON, 0)
  end
  return string.byte(text, position), position
end

-- Returns the position of the quote that ends the string that begins at `at`. Searches for quotes as plain bytes,
-- because a pattern takes ten times as long on a large text.
local function end_of_string(text, at)
  local position = at
  local before
  repeat
    position = string.find(text, '"', position + 1, true)
    if position == nil then
      error(NOT_JSON, 0)
    end
    before = position - 1
    while string.byte(text, before) == BACKSLASH do
      before = before - 1
    end
  until (position - before) % 2 == 1 -- An even number of backslashes escapes each other, and not the quote.
  return position
end

-- Returns the position after a value that is not checked. Counts brackets instead of recursing, so that no depth can
-- exhaust the stack.
local function after_value(text, at)
  local depth = 0
  repeat
    local byte, position = token(text, at)
    if byte == QUOTE then
      at = end_of_string(text, position) + 1
    elseif byte == OPEN_OBJECT or byte == OPEN_LIST then
      depth = depth + 1
      at = position + 1
    elseif byte == CLOSE_OBJECT or byte == CLOSE_LIST then
      depth = depth - 1
      at = position + 1
    elseif depth > 0 and (byte == COMMA or byte == COLON) then
      at = position + 1
    else
      local _, last = string.find(text, "^[%w.+-]+", position)
      if last == nil then
        error(NOT_JSON, 0)
      end
      at = last + 1
    end
  until depth <= 0
  return at
end

local walk

-- Walks the comma-separated items between brackets: `item` takes a position and returns the position after the item.
local function walk_items(text, at, closing, item)
  local byte, position = token(text, at)
  if byte == closing then
    return position + 1
  end
  while true do
    byte, position = token(text, item(position))
    if byte == closing then
      return position + 1
    elseif byte ~= COMMA then
      error(NOT_JSON, 0)
    end
    _, position = token(text, position + 1)
  end
end

local function walk_object(text, at, message)
  local fields = MESSAGES[message]
  return walk_items(text, at, CLOSE_OBJECT, function(position)
    if string.byte(text, position) ~= QUOTE then
      error(NOT_JSON, 0)
    end
    local last = end_of_string(text, position)
    local name = string.sub(text, position + 1, last - 1)
    local holds = fields[name] or fields["*"]
    if holds == nil then
      error("there is no field " .. string.sub(name, 1, 64), 0)
    end
    local byte, colon = token(text, last + 1)
    if byte ~= COLON then
      error(NOT_JSON, 0)
    end
    return walk(text, colon + 1, holds)
  end)
end

-- Returns the position after the value at `at`; raises an error for a field that `message` does not have.
walk = function(text, at, message)
  local byte, position = token(text, at)
  if message == true then
    return after_value(text, position)
  elseif byte == OPEN_OBJECT then
    return walk_object(text, position + 1, message)
  elseif byte == OPEN_LIST then
    return walk_items(text, position + 1, CLOSE_LIST, function(item)
      -- No contract has a list in a list, but the transcoder would accept its items.
      if string.byte(text, item) == OPEN_LIST then
        error("there is a list in a list", 0)
      end
      return walk(text, item, message)
    end)
  end
  return after_value(text, position)
end

-- Returns what is wrong with a body of this message; nil when it is valid.
local function what_does_not_belong(text, message)
  if not string.find(text, "[^ \t\r\n]") then
    return nil
  end
  local fits, after = pcall(walk, text, 1, message)
  if not fits then
    return after
  elseif string.find(text, "[^ \t\r\n]", after) then
    return NOT_JSON
  end
  return nil
end
