-- name: seen
-- Runs as people see them. `offenders`: how many of a refused one's at most. Nothing is counted of who still waits.
select r.id, r.tier, r.policy, r.state::text, r.reason, r.explanation, r.priority, r.deadline, r.wanted_files,
       r.wanted_bytes, r.copy_bytes, r.manifest_root, r.lease_until, r.created_at, r.ready_at, r.finished_at, r.cleaned_at,
       r.like_id, (select l.manifest_root from mover.run l where l.id = r.like_id) as like_root,
       coalesce(r.ready_proof, r.protected_proof, r.cleaned_proof) is not null as proved,
       coalesce((select max(v.seq) from mover.run_event v where v.run_id = r.id), 0) as event,
       (select x.expression from mover.selection x where x.id = r.selection_id) as expression,
       coalesce(jsonb_array_length(r.offenders), 0) as offenders_count,
       case when %(offenders)s::integer is null then r.offenders
            else (select jsonb_agg(o.what order by o.at) from jsonb_array_elements(r.offenders) with ordinality o (what, at)
                   where o.at <= %(offenders)s) end as offenders,
       coalesce(p.count, r.wanted_files) as count, coalesce(p.bytes, r.wanted_bytes) as bytes,
       coalesce(p.staged_count, 0) as staged_count, coalesce(p.staged_bytes, 0) as staged_bytes,
       coalesce(p.linked_count, 0) as linked_count
  from mover.run r
  left join lateral (
       select count(*) as count, coalesce(sum(size_bytes), 0)::bigint as bytes,
              count(*) filter (where staged_at is not null) as staged_count,
              coalesce(sum(size_bytes) filter (where staged_at is not null), 0)::bigint as staged_bytes,
              count(*) filter (where staged_how = 'linked') as linked_count
         from mover.run_entry where run_id = r.id) p on r.state not in ('requested', 'refused', 'admitted')
 where r.id = any (%(ids)s) order by r.id desc

-- name: page
-- Newest runs first.
select id from mover.run where (%(after)s::text is null or id < %(after)s) order by id desc limit %(limit)s

-- name: staged
-- Entries usable as they come, in order of path.
select path, number, size_bytes, digest from mover.run_entry
 where run_id = %(run)s and staged_at is not null and path > %(after)s order by path limit %(limit)s

-- name: snapshots
-- Snapshots that hold this run.
select id from mover.snapshot where run_id = %(run)s and state <> 'forgotten' order by sequence

-- name: removed
-- Slides of a manifest whose bytes are gone for good.
select distinct e.number from mover.run_entry e join mover.slide_withdrawal w using (number)
 where e.run_id = %(run)s and w.removed_at is not null
   and exists (select from mover.slide_withdrawal where removed_at is not null) order by e.number

-- name: trouble
-- Why the work on a run waits, if it waits for something to come back.
select error_code as code, error from mover.shard
 where subject_id = %(id)s and state in ('waiting', 'running') and error is not null order by created_at limit 1

-- name: events
-- The states a run came into.
select seq, state::text, reason, at from mover.run_event where run_id = %(run)s and seq > %(after)s order by seq

-- name: place
-- Where a run stands in the line before its tier, whatever the projects of the others; what it and those ahead of it
-- ask for, and what is promised now.
select q.position, q.asked, mover.tier_reserved(%(tier)s) as promised from (
    select run_id, row_number() over () as position, sum(bytes) over (rows unbounded preceding)::bigint as asked
      from mover.run_queue(%(tier)s, %(limit)s)) q
 where q.run_id = %(run)s

-- name: holders
-- What runs of every project were promised, and since when.
select bytes, held_s from mover.run_holders(%(tier)s)

-- name: holds
-- For how long the newest runs of a tier held their place.
select seconds from mover.run_holds(%(tier)s, %(limit)s)

-- name: paces
-- How long the newest runs between two tiers took to be staged.
select copy_bytes, files, seconds from mover.run_paces(%(tier)s, %(policies)s, %(limit)s)
