-- name: get
-- A run as it stands.
select * from mover.run where id = %(id)s

-- name: lock
-- The run, held for a change of state.
select * from mover.run where id = %(id)s for update

-- name: set_state
-- Move along the lifecycle table; the caller has checked the step.
update mover.run set state = %(state)s::mover.run_state, reason = %(reason)s, explanation = %(explanation)s
 where id = %(id)s

-- name: entries
-- Every entry of a run, in the manifest's order.
select * from mover.run_entry where run_id = %(run)s order by path collate "C"

-- name: strays
-- What cleanup moved aside.
select path, size_bytes, why, moved_to from mover.stray where run_id = %(run)s order by path

-- name: expression
-- The expression a selection was frozen from.
select expression from mover.selection where id = %(selection)s

-- name: hold_staging
-- A run that is staged, and stays so until the commit.
select id from mover.run where id = %(id)s and state = 'staging' for share

-- name: withdrawn
-- Slides of a run, or of some of its entries, that were withdrawn since it was asked for.
select count(distinct e.number) as count from mover.run_entry e join mover.slide_withdrawal w using (number)
 where e.run_id = %(run)s and (%(paths)s::text[] is null or e.path = any (%(paths)s))
