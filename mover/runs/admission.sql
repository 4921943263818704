-- name: anybody
-- Is there anything to judge or to begin?
select exists (select from mover.run_queue(%(tier)s, 1)) as waiting,
       exists (select from mover.runs_admitted(%(tier)s, 1)) as admitted

-- name: lock_tier
-- Judgements of one tier happen one after the other; a run that is being asked for refers to the tier and waits for none.
select capacity_bytes from mover.tier where name = %(tier)s for no key update

-- name: outstanding
-- Bytes promised to live runs of every project that are not on the tier yet.
select mover.tier_outstanding(%(tier)s) as bytes

-- name: promised
-- What a tier was promised to live runs of every project.
select mover.tier_reserved(%(tier)s) as bytes

-- name: holders
-- What live runs of every project were promised.
select bytes from mover.run_holders(%(tier)s)

-- name: queue
-- Runs that wait for space on a tier, of every project, in the order in which they are let in. Those whose policy is
-- not loaded stand beside the line and keep nobody from it.
select run_id, project_id, selection_id, policy, bytes, overdue from mover.run_queue(%(tier)s, %(most)s)
 where policy = any (%(policies)s) limit %(limit)s

-- name: without_policy
-- Those.
select run_id, project_id, policy from mover.run_queue(%(tier)s, %(most)s)
 where policy <> all (%(policies)s) limit %(limit)s

-- name: hold_waiting
-- A run that still waits, held for the verdict.
select id from mover.run where id = %(id)s and state = 'requested' for update

-- name: name_offenders
-- What keeps its set from being whole.
update mover.run set offenders = %(offenders)s where id = %(id)s

-- name: reserve
-- Promise the run its bytes on the tier.
update mover.run set reserved_bytes = %(bytes)s, copy_bytes = %(to_copy)s, admitted_at = now() where id = %(id)s

-- name: to_copy
-- Bytes of a run whose digests do not stand on the tier yet.
select coalesce(sum(size_bytes), 0)::bigint as bytes from (
    select distinct e.digest, e.size_bytes from mover.run_entry e
     where e.run_id = %(run)s and e.shard is null
       and not exists (select from mover.content c where c.tier = %(tier)s and c.digest = e.digest)
     union all
    select distinct t.made_of, t.size_bytes from mover.run_tar t
     where t.run_id = %(run)s
       and not exists (select from mover.content c where c.tier = %(tier)s and c.made_of = t.made_of)) missing

-- name: evictable_bytes
-- What eviction could give back to a run that does not want it itself. Asked under the tier's lock: `not in` was a look
-- through all entries of the run for each content, from 87,000 entries on.
with held as materialized (select digest from mover.content_held(%(tier)s))
select coalesce(sum(c.size_bytes), 0)::bigint as bytes from mover.content c
 where c.tier = %(tier)s and not exists (select from held h where h.digest = c.digest)
   and not exists (select from mover.run_entry e
                    where e.run_id = %(run)s and e.shard is null and e.digest = c.digest)
   and not exists (select from mover.run_tar t where t.run_id = %(run)s and t.made_of = c.made_of)

-- name: explain_waiting
-- Why a run does not even stand in the line.
update mover.run set explanation = %(explanation)s
 where id = %(id)s and state = 'requested' and explanation is distinct from %(explanation)s

-- name: admitted
-- Runs that were let in and whose staging has not begun.
select run_id, project_id from mover.runs_admitted(%(tier)s, %(limit)s)

-- name: lock_admitted
-- One of them, held to begin; another daemon may be at it.
select id, project_id, tier, policy, layout from mover.run where id = %(id)s and state = 'admitted' for update skip locked

-- name: paths
-- What is not staged yet, for cutting into shards: files that stand in no tar, and tars.
select path, size_bytes from mover.run_entry where run_id = %(run)s and staged_at is null and shard is null
 union all
select path, size_bytes from mover.run_tar where run_id = %(run)s and staged_at is null order by path
