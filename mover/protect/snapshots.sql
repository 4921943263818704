-- name: page
-- Newest first, from where the page before ended.
select *, mover.is_held(id) as held from mover.snapshot
 where sequence < %(before)s order by sequence desc limit %(limit)s

-- name: page_of_series
-- The same of one series.
select *, mover.is_held(id) as held from mover.snapshot
 where series = %(series)s and sequence < %(before)s order by sequence desc limit %(limit)s

-- name: page_of_state
-- The same of what is in one state: the trash, above all.
select *, mover.is_held(id) as held from mover.snapshot
 where policy = %(policy)s and state = %(state)s and sequence < %(before)s order by sequence desc limit %(limit)s

-- name: holds
-- The holds on a snapshot that are not over.
select id, snapshot_id, reason, until, placed_by, placed_at from mover.hold
 where snapshot_id = %(snapshot)s and released_at is null and (until is null or until > now()) order by placed_at, id

-- name: get
-- One snapshot by our id or by the repository's.
select *, mover.is_held(id) as held from mover.snapshot where id = %(id)s or repository_id = %(id)s

-- name: digests
-- BLAKE3 of what a snapshot holds.
select path, digest from mover.artifact where snapshot_id = %(snapshot)s
