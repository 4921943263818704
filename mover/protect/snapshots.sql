-- name: list
-- Newest snapshots first.
select * from mover.snapshot where (%(run)s::text is null or run_id = %(run)s) order by sequence desc limit %(limit)s

-- name: get
-- One snapshot by our id or by the repository's.
select * from mover.snapshot where id = %(id)s or repository_id = %(id)s

-- name: digests
-- BLAKE3 of what a snapshot holds.
select path, digest from mover.artifact where snapshot_id = %(snapshot)s
