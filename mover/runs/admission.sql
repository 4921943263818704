-- name: lock_tier
-- Admission decisions of one tier happen one after the other.
select name, capacity_bytes from mover.tier where name = %(tier)s for update

-- name: reserved
-- Bytes promised to live runs of every project.
select mover.tier_reserved(%(tier)s) as bytes

-- name: outstanding
-- Bytes of those promises that are not on the tier yet.
select mover.tier_outstanding(%(tier)s) as bytes

-- name: reserve
-- Promise the run its bytes on the tier.
update mover.run set reserved_bytes = %(bytes)s where id = %(id)s

-- name: waiting
-- Runs that wait for space on a tier, of every project, oldest first.
select run_id, project_id from mover.runs_waiting(%(tier)s, %(limit)s)

-- name: lock_waiting
-- A run that still waits, held for the verdict, with the bytes it asks for.
select r.*, coalesce(s.bytes, 0) as bytes from mover.run r left join mover.selection s on s.id = r.selection_id
 where r.id = %(id)s and r.state = 'requested' for update of r

-- name: to_copy
-- Bytes of a run whose digests do not stand on the tier yet.
select coalesce(sum(size_bytes), 0)::bigint as bytes from (
    select distinct e.digest, e.size_bytes from mover.run_entry e
     where e.run_id = %(run)s
       and not exists (select from mover.content c where c.tier = %(tier)s and c.digest = e.digest)) missing

-- name: paths
-- Entries that are not staged yet, for cutting into shards.
select path from mover.run_entry where run_id = %(run)s and staged_at is null order by path

-- name: evictable_bytes
-- What eviction could give back to a run that does not want it itself.
select coalesce(sum(c.size_bytes), 0)::bigint as bytes from mover.content c
 where c.tier = %(tier)s and c.digest not in (select digest from mover.content_held(%(tier)s))
   and c.digest not in (select digest from mover.run_entry where run_id = %(run)s)

-- name: explain_waiting
-- Why a run is not let in yet.
update mover.run set explanation = %(explanation)s where id = %(id)s and state = 'requested'
