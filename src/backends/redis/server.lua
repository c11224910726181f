-- A server's state: its time, restarts and replicas. Both scripts begin with this.
local call = redis.call

local LAG = 2 -- whole seconds since a replica that is in step was last heard of

local function text(number) return string.format('%.0f', number) end

local time = call('TIME')
local micros = time[1] * 1000000 + time[2]
local now = math.floor(micros / 1000)

-- An ACL may forbid it; the client says so.
local function info(section)
    local said = redis.pcall('INFO', section)
    return type(said) == 'string' and said or ''
end

-- The replication history gets a new name at each restart and each promotion.
local replication = info('replication')
local history = string.match(replication, 'master_replid:(%x+)') or ''
local promoted = history ~= '' and not string.find(replication, 'second_repl_offset:-1', 1, true)

-- A replica that has gone to another server may count for a while: the client decides in the end,
-- with WAIT.
local function count_in_step()
    local count = 0
    for lag in string.gmatch(replication, 'slave%d+:[^\n]*state=online[^\n]*lag=(%d+)') do
        if tonumber(lag) <= LAG then count = count + 1 end
    end
    return count
end

-- Whether a semaphore was decided on in this history, with so many replicas in step. It remembers
-- HISTORY:REPLICAS for that.
local function is_decided(remembered, replicas)
    local name, with = string.match(remembered or '', '^(%x+):(%d+)$')
    return name == history and tonumber(with) >= replicas
end

-- Since when the former server has extended nothing; for how long this one is up, in ms; and its
-- run_id. By the wall clock: if it went back, the uptime is negative and counts as 0. No server
-- says when it was promoted: the first call that finds it promoted, with so many replicas in step,
-- `notes` the moment, which is later.
local function began(key, replicas, notes)
    local said = info('server')
    local run = string.match(said, 'run_id:(%x+)')
    local up = math.max(0, tonumber(string.match(said, 'uptime_in_seconds:(-?%d+)') or 0) * 1000)
    if not promoted then return now - math.max(0, up - 1000), up, run end -- it counts whole seconds
    local since
    -- A shard of a cluster cannot keep that key.
    if not string.find(said, 'redis_mode:cluster', 1, true) then
        local field = 'with:' .. replicas
        local seen, at = unpack(call('HMGET', key, 'history', field))
        since = seen == history and tonumber(at or nil)
        if not since and notes then
            if seen ~= history then call('DEL', key) end
            call('HSET', key, 'history', history, field, text(now))
        end
    end
    return math.min(now, since or now), up, run
end

-- Until when no permit is granted of a semaphore that is new in this history. `known`: this server
-- remembers anything of it. `longest`: the longest possible lease, in ms.
local function not_before(known, since, up, quarantine, longest)
    local moment = 0
    if not known and up < quarantine then moment = now - up + quarantine end
    -- This server may not know what the former one granted or extended at its end.
    if known or promoted then moment = math.max(moment, since + math.min(quarantine, longest)) end
    return moment
end

