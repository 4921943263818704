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
