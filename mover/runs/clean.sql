-- name: artifacts
-- What checked snapshots of this run hold, by path below the run root; one whose file vanished holds nothing.
select a.path, a.digest, a.size_bytes from mover.artifact a join mover.snapshot s on s.id = a.snapshot_id
 where s.run_id = %(run)s and s.state = 'checked' and s.missing_at is null order by s.sequence

-- name: put_stray
-- A stray is recorded before it is moved, so that a crash between leaves it findable.
insert into mover.stray (project_id, run_id, path, size_bytes, why, moved_to)
values (%(project)s, %(run)s, %(path)s, %(size_bytes)s, %(why)s, %(moved_to)s)
on conflict (run_id, path) do nothing

-- name: cleaned
-- The proof of emptiness stands.
update mover.run set state = 'cleaned', cleaned_proof = %(proof)s, cleaned_at = now(), reserved_bytes = 0
 where id = %(id)s

-- name: explain
-- Why a run does not move on.
update mover.run set explanation = %(explanation)s where id = %(id)s
