-- name: seen
-- Runs as people see them, without what is long. `offenders`: how many of a refused one's at most.
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
       coalesce(t.files, r.wanted_files) as count, coalesce(t.bytes, r.wanted_bytes) as bytes,
       coalesce(t.staged_files, 0) as staged_count, coalesce(t.staged_bytes, 0) as staged_bytes,
       coalesce(t.linked_files, 0) as linked_count
  from mover.run r left join mover.run_tally t on t.run_id = r.id
 where r.id = any (%(ids)s) order by r.id desc

-- name: page
-- Newest runs first.
select id from mover.run where (%(after)s::text is null or id < %(after)s) order by id desc limit %(limit)s

-- name: staged
-- Entries usable as they come, in the order in which they came.
select staged_in, path, number, size_bytes, digest, shard, shard_offset as offset from mover.run_entry
 where run_id = %(run)s and staged_at is not null and (staged_in, path) > (%(turn)s, %(path)s)
 order by staged_in, path limit %(limit)s

-- name: snapshots
-- Snapshots that hold these runs.
select run_id, array_agg(id order by sequence) as ids from mover.snapshot
 where run_id = any (%(runs)s) and state <> 'forgotten' group by run_id

-- name: strays
-- How much cleanup moved aside, and the first of it.
select run_id, count, first from unnest(%(runs)s::text[]) as asked (run_id)
 cross join lateral (select count(*) from mover.stray s where s.run_id = asked.run_id) all_of_it
 cross join lateral (
       select jsonb_agg(to_jsonb(s)) as first from (
              select path, size_bytes, why, moved_to from mover.stray s
               where s.run_id = asked.run_id order by path limit %(limit)s) s) shown
 where count > 0

-- name: stray_page
-- A page of it.
select path, size_bytes, why, moved_to from mover.stray
 where run_id = %(run)s and path > %(after)s order by path limit %(limit)s

-- name: removed
-- Slides of kept manifests whose bytes are gone for good: from those, which are few, and not from the manifests.
select e.run_id, count(distinct e.number) as count,
       (array_agg(distinct e.number order by e.number))[:%(limit)s] as first
  from mover.slide_withdrawal w join mover.slide s using (number)
  join mover.run_entry e on e.digest = s.digest and e.number = s.number
 where w.removed_at is not null and e.run_id = any (%(runs)s) group by e.run_id

-- name: damaged
-- Files of runs whose content on flash was found to be other bytes since it was linked.
select run_id, count, first from unnest(%(runs)s::text[]) as asked (run_id)
 cross join lateral (
       select count(*) as count, jsonb_agg(jsonb_build_object('path', path, 'number', number, 'found_at', at) order by path)
              filter (where place <= %(limit)s) as first
         from (select path, number, at, row_number() over (order by path) as place from (
               select e.path, e.number, e.damaged_at as at from mover.run_entry e
                where e.run_id = asked.run_id and e.damaged_at is not null
                union all
               select t.path, null, t.damaged_at from mover.run_tar t
                where t.run_id = asked.run_id and t.damaged_at is not null) found) placed) counted
 where count > 0

-- name: trouble
-- Why the work on runs waits, if it waits for something to come back.
select distinct on (subject_id) subject_id as run_id, error_code as code, error from mover.shard
 where subject_id = any (%(runs)s) and state in ('waiting', 'running') and error is not null
 order by subject_id, created_at

-- name: events
-- The states a run came into.
select seq, state::text, reason, at from mover.run_event where run_id = %(run)s and seq > %(after)s order by seq

-- name: line
-- Who waits before a tier, whatever the project, and what is promised on it now.
select coalesce((select jsonb_agg(jsonb_build_array(run_id, bytes)) from (
           select run_id, bytes from mover.run_queue(%(tier)s, %(most)s)
            where policy = any (%(policies)s) limit %(limit)s) line), '[]') as waiting,
       mover.tier_reserved(%(tier)s) as promised

-- name: holders
-- What runs of every project were promised, and since when.
select bytes, held_s from mover.run_holders(%(tier)s)

-- name: holds
-- For how long the newest runs of a tier held their place.
select seconds from mover.run_holds(%(tier)s, %(limit)s)

-- name: paces
-- How long the newest runs between two tiers took to be staged.
select copy_bytes, files, seconds from mover.run_paces(%(tier)s, %(policies)s, %(limit)s)

-- name: hooks
-- What the site's cleanup hooks said of a run, in the order in which they came.
select phase, name, state, attempts, why, exit_status, output, output_bytes, began_at, ended_at from mover.run_hook
 where run_id = %(run)s order by phase desc, began_at
