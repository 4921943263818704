-- name: entries_by_path
-- The entries a shard is to stage.
select * from mover.run_entry where run_id = %(run)s and path = any(%(paths)s) and staged_at is null order by path

-- name: add_offenders
-- Files of which no copy is whole; the run fails with all of them.
update mover.run set offenders = coalesce(offenders, '[]') || %(offenders)s where id = %(run)s

-- name: mark_staged
-- Entries whose flash copy was read back cold.
update mover.run_entry set staged_at = now(), staged_how = %(how)s where run_id = %(run)s and path = any(%(paths)s)

-- name: failed
-- A run that could not be staged.
update mover.run set state = 'failed', reason = %(reason)s, explanation = %(explanation)s
 where id = %(id)s and state in ('admitted', 'staging', 'sealed')
returning id, tier
