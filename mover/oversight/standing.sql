-- name: moving
-- What is on its way, the oldest first: how much of how much, and until when by the pace so far (a lease: by its word).
with found as (
select 'run' as noun, r.id, r.state::text as state, coalesce(t.staged_bytes, 0)::bigint as done,
       coalesce(t.bytes, 0)::bigint as total, 'bytes' as unit, r.created_at as began,
       case when r.state = 'ready' then r.lease_until end as until
  from mover.run r left join mover.run_tally t on t.run_id = r.id
 where r.state in ('requested', 'admitted', 'staging', 'sealed', 'ready', 'finishing', 'protecting', 'cleaning')
union all
select 'batch', b.id, b.state, (select count(*) from mover.pack p where p.batch_id = b.id and p.state <> 'found'),
       (select count(*) from mover.pack p where p.batch_id = b.id), 'packs', b.created_at, null
  from mover.batch b where b.state in ('declared', 'walking', 'working')
union all
select 'record', id, state, 0, 0, 'bytes', created_at, null
  from mover.record_set where state in ('waiting-for-images', 'matching')
union all
select 'transfer', id, state, moved_bytes::bigint, bytes::bigint, 'bytes', created_at, null
  from mover.transfer where state in ('planning', 'canary', 'moving', 'releasing')
union all
select 'verification', id, state, checked_bytes::bigint, bytes::bigint, 'bytes', coalesce(started_at, created_at), null
  from mover.verification where state in ('planning', 'reading', 'listing', 'confirming')
union all
select 'restore', id, state, bytes, coalesce(of_bytes, 0), 'bytes', created_at, null
  from mover.restore where state in ('waiting', 'restoring')
union all
select 'scan', id, state, 0, 0, 'bytes', created_at, null from mover.scan where state in ('waiting', 'walking', 'merging')
)
select noun, id, state, done, total, unit,
       coalesce(until, case when done > 0 and done < total
                            then now() + (now() - began) * ((total - done)::double precision / done) end) as until
  from found order by began limit %(limit)s

-- name: last
-- When what must happen again and again happened last, and well; null: never.
select 'snapshots' as of, 'snapshot' as what, (select max(recorded_at) from mover.snapshot where state = 'checked') as at
union all
select 'snapshots', 'restore drill', (select max(finished_at) from mover.protect_turn where kind = 'drill' and state = 'done')
union all
select 'dumps', 'dump', (select max(verified_at) from mover.dump where state = 'verified')
union all
select 'dumps', 'dump drill', (select max(finished_at) from mover.dump_drill where passed)
union all
select 'audit', 'checkpoint', (select at from mover.checkpoint order by n desc limit 1)
union all
select 'scans', 'scan', (select max(finished_at) from mover.scan where state = 'complete')
