-- name: insert_artifact
-- A protected file with its digest, so that cleanup can tell it from a changed one.
insert into mover.artifact (project_id, snapshot_id, path, size_bytes, digest)
values (%(project)s, %(snapshot)s, %(path)s, %(size_bytes)s, %(digest)s)

-- name: insert_snapshot
-- A snapshot is written; it protects nothing before it is checked.
insert into mover.snapshot (id, project_id, run_id, series, tier, repository_id, policy, files, bytes, added_bytes,
                            missing)
values (%(id)s, %(project)s, %(run)s, %(series)s, %(tier)s, %(repository_id)s, %(policy)s, %(files)s, %(bytes)s,
        %(added)s, %(missing)s)

-- name: digests
-- What is known of each file of a snapshot.
select path, digest from mover.artifact where snapshot_id = %(snapshot)s

-- name: checked
-- Every blob was read back, decrypted and hashed; the database says whether it is like what came before.
select mover.snapshot_checked(%(id)s) as doubt

-- name: incomplete
-- Not whole; it stays.
select mover.snapshot_incomplete(%(id)s)

-- name: cut_off
-- Attempts whose snapshot was never checked; a later one is proved now.
select mover.snapshots_cut_off(%(series)s)
