--[[
The run of a job, by Slurm's burst_buffer/lua: staged while the job is pending and no GPU is held, protected and
cleaned after it. Stands beside slurm.conf; docs/schedulers.md tells how it is set up. A job says:

  #BB_LUA pool=flash capacity=2000             (optional: GiB in Slurm's own account of the flash tier)
  #BB_LUA stage_in cohort=prostate@3           (or expression="...", files=/path/of/list, like=RUN,
                                                or splits=train=prostate-train@1,test=prostate-test@1)
  #BB_LUA stage_out code=/home/ana/model       (optional: beside the run's out/, which is always kept)

This script only reads these lines; `mover-slurm` does what they say. What slurmctld calls with its locks held
(job_process, pools, paths) reads one small file at most; what may take long is called beside it.
Every word of a user's line is quoted for the shell, and control characters are refused. What a user wrote is told to
nobody but the user, at submission: a job's reason and slurmctld's log are read by others.
]]

-- the two lines a site may edit
local COMMAND = "/usr/bin/mover-slurm --config /etc/mover/slurm.yaml"
local STATE = "/var/lib/mover-slurm"

local HEADER_BYTES = 256 * 1024
local KNOWN = {
  stage_in = { cohort = 1, expression = 1, files = 1, like = 1, splits = 1, policy = 1, tier = 1, layout = 1,
               label = 1, shard_bytes = 1, priority = 1, deadline = 1, lease_s = 1, project = 1 },
  stage_out = { artifacts = 1, code = 1, logs = 1 },
}
local SETS = { "cohort", "expression", "files", "like", "splits" }

-- --- a user's lines ------------------------------------------------------------------------------------------

-- The words of a line; "…" and '…' hold spaces, \" and \\ stand for themselves within "…".
local function split(line)
  local words, at = {}, 1
  while true do
    at = line:find("%S", at)
    if not at then return words end
    local word, quote = {}, nil
    while at <= #line do
      local c = line:sub(at, at)
      if quote == '"' and c == "\\" then
        at = at + 1
        c = line:sub(at, at)
      elseif c == quote then
        quote, c = nil, ""
      elseif not quote and (c == '"' or c == "'") then
        quote, c = c, ""
      elseif not quote and c:find("%s") then
        break
      end
      word[#word + 1] = c
      at = at + 1
    end
    if quote then return nil, "a quote is not closed" end
    words[#words + 1] = table.concat(word)
  end
end

local function read_words(words, said, seen)
  local verb = words[1]
  if not KNOWN[verb] then
    return "unknown word " .. tostring(verb) .. ": a line begins with pool=, stage_in or stage_out"
  end
  for i = 2, #words do
    local key, value = words[i]:match("^([%a_]+)=(.+)$")
    if not key or not KNOWN[verb][key] then return "unknown word " .. words[i] .. " after " .. verb end
    if seen[verb .. key] then return key .. "= stands twice" end
    seen[verb .. key] = value
    table.insert(said[verb], key .. "=" .. value)
  end
end

-- Before a script comes to a stage, Slurm puts %j, %u, %x and others of its own into these lines and drops what it does
-- not know of: like 'AT2%' would end without its quote, and '%x%' ask for the job's name. Only %% is left as %.
local function read_line(rest, said, seen, as_written)
  if rest:find("%c") then return "a control character" end
  if as_written and (rest:gsub("%%%%", "")):find("%%") then return "write %% for a %: Slurm replaces %x" end
  if as_written and rest:find("%%") and rest:find("\\\\", 1, true) then return "\\\\ and % in one line" end
  local words, problem = split(rest)
  if not words then return problem end
  -- Slurm's own words, which it has read already
  if #words == 0 or words[1]:find("^pool=") or words[1]:find("^capacity=") then return nil end
  return read_words(words, said, seen)
end

-- {stage_in = {...}, stage_out = {...}}, or nil and what is wrong, for its author's eyes
local function read_script(path, as_written)
  local file = io.open(path, "r")
  if not file then return nil, "mover: the job script cannot be read" end
  local text = file:read(HEADER_BYTES) or ""
  file:close()
  local said, seen, number = { stage_in = {}, stage_out = {} }, {}, 0
  for line in (text .. "\n"):gmatch("(.-)\r?\n") do
    number = number + 1
    -- like Slurm, no further than the first line that is no comment
    if line ~= "" and line:sub(1, 1) ~= "#" then break end
    local rest = line:match("^#BB_LUA%s+(.*)$")
    local problem = rest and read_line(rest, said, seen, as_written)
    if problem then return nil, "mover: line " .. number .. " of the script: " .. problem end
  end
  local sets = 0
  for _, key in ipairs(SETS) do
    if seen["stage_in" .. key] then sets = sets + 1 end
  end
  if sets ~= 1 then
    return nil, "mover: the script needs one #BB_LUA stage_in line with exactly one of " .. table.concat(SETS, "=, ") .. "="
  end
  return said
end

-- The same for everybody's eyes: what is wrong was told at submission.
local function read_again(path)
  local said = read_script(path, false)
  if said then return said end
  return nil, "mover: the #BB_LUA lines of the script are not those that were submitted"
end

-- --- mover-slurm -------------------------------------------------------------------------------------------

local function quoted(word) return "'" .. word:gsub("'", "'\\''") .. "'" end

-- Its own last line says how it went; Lua 5.1 cannot tell the exit status of a pipe.
local function call(verb, job, words)
  if not tostring(job):find("^%d+$") then return slurm.ERROR, "mover: no job id" end
  local parts = { COMMAND, verb, job, "--" }
  for _, word in ipairs(words or {}) do parts[#parts + 1] = quoted(word) end
  local pipe = io.popen(table.concat(parts, " ") .. " 2>&1", "r")
  if not pipe then return slurm.ERROR, "mover: mover-slurm could not be started" end
  local last = "mover-slurm ended without a word"
  for line in pipe:lines() do
    if line == "ok" or line:find("^error: ") then last = line end
  end
  pipe:close()
  if last == "ok" then return slurm.SUCCESS, "" end
  slurm.log_error("mover: %s of job %s: %s", verb, job, last)
  return slurm.ERROR, "mover: " .. last:sub(1, 480)
end

-- --- the phases --------------------------------------------------------------------------------------------

-- At submission, with locks held: an error is printed where sbatch was called.
function slurm_bb_job_process(job_script)
  local said, problem = read_script(job_script, true)
  if not said then return slurm.ERROR, problem end
  return slurm.SUCCESS
end

-- With locks held. `mover-slurm keep` writes the file; without it Slurm keeps no account of the flash tier.
function slurm_bb_pools()
  local file = io.open(STATE .. "/pools.json", "r")
  if not file then return slurm.SUCCESS end
  local pools = file:read("*a")
  file:close()
  return slurm.SUCCESS, pools
end

function slurm_bb_setup()
  return slurm.SUCCESS
end

-- The job stays pending until its run is ready; an error holds it, and stands in its reason and comment.
function slurm_bb_data_in(job, job_script)
  local said, problem = read_again(job_script)
  if not said then return slurm.ERROR, problem end
  return call("stage", job, said.stage_in)
end

function slurm_bb_real_size()
  return slurm.SUCCESS
end

-- With locks held: what `stage` wrote becomes the job's environment.
function slurm_bb_paths(job, job_script, path_file)
  local file = io.open(STATE .. "/" .. tostring(job):gsub("%D", "") .. ".env", "r")
  if not file then return slurm.ERROR, "mover: no run is staged for this job" end
  local lines = file:read("*a")
  file:close()
  local target = io.open(path_file, "w")
  if not target then return slurm.ERROR, "mover: the job's environment cannot be written" end
  target:write(lines)
  target:close()
  return slurm.SUCCESS
end

function slurm_bb_pre_run(job)
  return call("check", job)
end

function slurm_bb_post_run()
  return slurm.SUCCESS
end

-- An error leaves the job in STAGE_OUT with the reason, its nodes free and its run on flash.
function slurm_bb_data_out(job, job_script)
  local said, problem = read_again(job_script)
  if not said then return slurm.ERROR, problem end
  return call("finish", job, said.stage_out)
end

-- What cannot be ended now is ended by `mover-slurm keep`, and at the latest by the run's lease: Slurm need not wait.
function slurm_bb_job_teardown(job)
  call("end", job)
  return slurm.SUCCESS
end

function slurm_bb_get_status()
  return slurm.SUCCESS, "mover: see `mover run list`\n"
end
