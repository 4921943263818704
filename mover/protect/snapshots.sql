-- name: page
-- Newest first, from where the page before ended, down to `since`.
select *, mover.is_held(id) as held from mover.snapshot
 where (recorded_at, sequence) < (%(at)s, %(before)s) and recorded_at >= %(since)s
 order by recorded_at desc, sequence desc limit %(limit)s

-- name: page_of_series
-- The same of one series.
select *, mover.is_held(id) as held from mover.snapshot
 where series = %(series)s and (recorded_at, sequence) < (%(at)s, %(before)s) and recorded_at >= %(since)s
 order by recorded_at desc, sequence desc limit %(limit)s

-- name: page_of_state
-- The same of what is in one state of a policy: the trash, above all.
select *, mover.is_held(id) as held from mover.snapshot
 where policy = %(policy)s and state = %(state)s and (recorded_at, sequence) < (%(at)s, %(before)s)
   and recorded_at >= %(since)s
 order by recorded_at desc, sequence desc limit %(limit)s

-- name: page_of_tag
-- The same of what bears a tag. The page is found first, then each of its rows: a limit that the planner cannot undo.
select s.*, mover.is_held(s.id) as held from (
    select recorded_at, sequence, snapshot_id from mover.tagged_snapshot
     where tag = %(tag)s and (recorded_at, sequence) < (%(at)s, %(before)s) and recorded_at >= %(since)s
     order by recorded_at desc, sequence desc limit %(limit)s) t,
   lateral (select * from mover.snapshot where id = t.snapshot_id limit 1) s
 order by t.recorded_at desc, t.sequence desc

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
