-- name: known
-- Does the catalog know this snapshot of the repository?
select id from mover.snapshot where tier = %(tier)s and repository_id = %(repository_id)s

-- name: run
-- The run of a series, where the catalog still has it.
select id from mover.run where 'run:' || id = %(series)s

-- name: insert_snapshot
-- A snapshot that was found again; it protects nothing before it is checked.
insert into mover.snapshot (id, project_id, run_id, series, tier, repository_id, policy, files, bytes, added_bytes)
values (%(id)s, %(project)s, %(run)s, %(series)s, %(tier)s, %(repository_id)s, %(policy)s, %(files)s, %(bytes)s, 0)

-- name: checked
-- Every blob was read back, decrypted and hashed; the database says whether it is like what came before.
select mover.snapshot_checked(%(id)s)

-- name: incomplete
-- Not whole; it stays.
select mover.snapshot_incomplete(%(id)s)
