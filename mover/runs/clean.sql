-- name: artifacts
-- What checked snapshots of this run hold, by path below the run root; one whose file vanished holds nothing.
select a.path, a.digest, a.size_bytes from mover.artifact a join mover.snapshot s on s.id = a.snapshot_id
 where s.run_id = %(run)s and s.state = 'checked' and s.missing_at is null order by s.sequence

-- name: content_marks
-- How the inodes of a run's content look as long as nobody touched them.
select e.path, c.mark from mover.run_entry e join mover.content c on c.tier = %(tier)s and c.digest = e.digest
 where e.run_id = %(run)s and e.shard is null and c.mark <> ''
 union all
select t.path, c.mark from mover.run_tar t join mover.content c on c.tier = %(tier)s and c.digest = t.digest
 where t.run_id = %(run)s and c.mark <> ''

-- name: put_strays
-- Strays are recorded before they are moved, so that a crash between leaves them findable.
insert into mover.stray (project_id, run_id, path, size_bytes, why, moved_to)
select %(project)s, %(run)s, s.* from unnest(%(paths)s::text[], %(sizes)s::bigint[], %(why)s::text[], %(moved_to)s::text[]) s
on conflict (run_id, path) do nothing

-- name: strays
-- How many were recorded, by all attempts.
select count(*) from mover.stray where run_id = %(run)s

-- name: cleaned
-- The proof of emptiness stands.
update mover.run set state = 'cleaned', cleaned_proof = %(proof)s, cleaned_at = now(), reserved_bytes = 0
 where id = %(id)s

-- name: explain
-- Why a run does not move on.
update mover.run set explanation = %(explanation)s where id = %(id)s
