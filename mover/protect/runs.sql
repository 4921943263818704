-- name: run
-- The run a snapshot is made of, without its manifest, which may have 250 MB.
select id, project_id, tier, state::text, finish, clean_after, requested_by, posix_uid, posix_gid, ready_at
  from mover.run where id = %(id)s

-- name: lock_run
-- The run, held for a change of state.
select id, project_id, tier, state::text, finish, clean_after, requested_by, posix_uid, posix_gid, ready_at
  from mover.run where id = %(id)s for update

-- name: manifest
-- The sealed manifest: a part of the snapshot.
select manifest from mover.run where id = %(id)s

-- name: protecting
-- Protection begins.
update mover.run set state = 'protecting' where id = %(id)s and state in ('finishing', 'protecting')
returning id

-- name: earlier
-- The newest snapshot of a run whose files' digests are known: files that are as they were are not read again.
select s.id, s.repository_id from mover.snapshot s
 where s.series = %(series)s and s.policy = %(policy)s and s.tier = %(tier)s and s.state in ('written', 'checked')
   and s.files <= %(most)s and exists (select from mover.artifact a where a.snapshot_id = s.id)
 order by s.sequence desc limit 1

-- name: protected
-- The proof stands.
update mover.run set state = 'protected', protected_proof = %(proof)s, explanation = null where id = %(id)s

-- name: cleaning
-- The policy cleans by itself.
update mover.run set state = 'cleaning' where id = %(id)s and state = 'protected'

-- name: back_to_ready
-- Protection was not whole: nothing is lost, the run may be finished again. What finish named goes: a refused path
-- may lie on an identified tier, and the next finish names its own.
update mover.run set state = 'ready', reason = %(reason)s, explanation = %(explanation)s, clean_after = false,
       finish = null,
       lease_until = now() + make_interval(secs => lease_s)
 where id = %(id)s and state in ('finishing', 'protecting')
returning id

-- name: known
-- Every snapshot of a run that the catalog knows.
select repository_id from mover.snapshot where run_id = %(run)s
