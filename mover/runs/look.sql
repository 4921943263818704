-- name: staged
-- Entries usable as they come, in order of path.
select path, number, size_bytes, digest from mover.run_entry
 where run_id = %(run)s and staged_at is not null and path > %(after)s order by path limit %(limit)s

-- name: snapshots
-- Snapshots that hold this run.
select id from mover.snapshot where run_id = %(run)s and state <> 'forgotten' order by sequence

-- name: progress
-- How far staging is.
select count(*) as count, coalesce(sum(size_bytes), 0)::bigint as bytes,
       count(*) filter (where staged_at is not null) as staged_count,
       coalesce(sum(size_bytes) filter (where staged_at is not null), 0)::bigint as staged_bytes,
       count(*) filter (where staged_how = 'linked') as linked_count
  from mover.run_entry where run_id = %(run)s

-- name: trouble
-- Why the work on a run waits, if it waits for something to come back.
select error_code as code, error from mover.shard
 where subject_id = %(id)s and state in ('waiting', 'running') and error is not null order by created_at limit 1

-- name: page
-- Newest runs first.
select id from mover.run where (%(after)s::text is null or id < %(after)s) order by id desc limit %(limit)s

-- name: rate
-- Bytes a second this tier was staged at, from the newest runs: the estimate learns from history.
select sum(bytes) / nullif(sum(seconds), 0) as bytes_s from (
    select s.bytes, extract(epoch from r.ready_at - r.created_at) as seconds
      from mover.run r join mover.selection s on s.id = r.selection_id
     where r.tier = %(tier)s and r.ready_at is not null order by r.ready_at desc limit 20) newest
