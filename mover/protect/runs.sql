-- name: run
-- The run a snapshot is made of.
select * from mover.run where id = %(id)s

-- name: lock_run
-- The run, held for a change of state.
select * from mover.run where id = %(id)s for update

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

-- name: digests
-- What is known of each file of a snapshot.
select path, digest from mover.artifact where snapshot_id = %(snapshot)s

-- name: insert_snapshot
-- A snapshot is written; it protects nothing before it is checked.
insert into mover.snapshot (id, project_id, run_id, series, tier, repository_id, policy, files, bytes, added_bytes,
                            missing)
values (%(id)s, %(project)s, %(run)s, %(series)s, %(tier)s, %(repository_id)s, %(policy)s, %(files)s, %(bytes)s,
        %(added)s, %(missing)s)

-- name: checked
-- Every blob was read back, decrypted and hashed; the database says whether it is like what came before.
select mover.snapshot_checked(%(id)s) as doubt

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

-- name: incomplete
-- Not whole; it stays.
select mover.snapshot_incomplete(%(id)s)

-- name: cut_off
-- Attempts whose snapshot was never checked; the run is protected by a later one now.
select mover.snapshots_cut_off(%(series)s)
