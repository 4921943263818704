-- name: seen
-- Somebody delivers events: from now on they are collected.
insert into mover.lineage_reader default values on conflict (one) do update set seen_at = now()

-- name: take
-- Events that are due, held for as long as one delivery may take.
select * from mover.lineage_take(%(limit)s, %(for_s)s)

-- name: facts
-- What an event says of its run.
select r.id as run, r.project_id as project, r.policy, r.selection_id as selection, r.manifest_root, s.count, s.bytes,
       c.name || '@' || c.version as cohort,
       array(select repository_id from mover.snapshot where run_id = r.id and state <> 'forgotten' order by sequence)
           as snapshots
  from mover.run r join mover.selection s on s.id = r.selection_id left join mover.cohort c on c.id = s.cohort_id
 where r.id = %(run)s

-- name: delivered
-- The receiver has it, or it is too old for anybody.
delete from mover.lineage where run_id = %(run)s and event = %(event)s

-- name: later
-- Tried in vain.
update mover.lineage set not_before = now() + make_interval(secs => %(pause_s)s)
 where run_id = %(run)s and event = %(event)s
