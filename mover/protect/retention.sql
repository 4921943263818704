-- name: of_run
-- A run's snapshots in order of record.
select id, repository_id, sequence, recorded_at, state from mover.snapshot
 where run_id = %(run)s and state = 'checked' order by sequence

-- name: keep
-- Why a snapshot is kept.
update mover.snapshot set reasons = %(reasons)s where id = %(id)s

-- name: forget
-- Why a snapshot was forgotten, and when by the server's clock.
update mover.snapshot set state = 'forgotten', forgotten_at = now(), reasons = %(reasons)s where id = %(id)s

-- name: list
-- Newest snapshots first.
select * from mover.snapshot where (%(run)s::text is null or run_id = %(run)s) order by sequence desc limit %(limit)s
