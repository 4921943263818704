-- name: look
-- What a folder looks like now; the row is made at first sight.
insert into mover.protected_folder (id, project_id, policy, name, seen_mark, seen_since)
values (%(id)s, %(project)s, %(policy)s, %(name)s, %(mark)s, now())
on conflict (project_id, policy, name) do update
   set seen_since = case when protected_folder.seen_mark = excluded.seen_mark then protected_folder.seen_since
                         else now() end,
       seen_mark = excluded.seen_mark
returning *, now() as now

-- name: begin
-- An attempt begins, once.
update mover.protected_folder set state = 'running', started_at = now(), reason = null, explanation = null
 where id = %(id)s and state = 'idle' returning id

-- name: lock
-- The folder of a shard, held.
select * from mover.protected_folder where id = %(id)s for update

-- name: earlier
-- The newest whole snapshot of a series that is still in the repository: its equal files are not read again.
select id, repository_id from mover.snapshot
 where series = %(series)s and policy = %(policy)s and tier = %(tier)s and state = 'checked' and doubt is null
   and files <= %(most)s order by sequence desc limit 1

-- name: protected
-- The newest whole snapshot holds what was seen before it began.
update mover.protected_folder set state = 'idle', protected_mark = %(mark)s, protected_at = now(),
       snapshot_id = %(snapshot)s
 where id = %(id)s

-- name: gave_up
-- The attempt gave no whole snapshot; the next turn decides anew.
update mover.protected_folder set state = 'idle', reason = %(reason)s, explanation = %(explanation)s
 where id = %(id)s

-- name: ask
-- Somebody wants a snapshot now.
update mover.protected_folder set asked_at = now() where id = %(id)s or name = %(id)s returning *

-- name: list
-- All folders.
select f.*, now() as now, s.files, s.bytes from mover.protected_folder f
  left join mover.snapshot s on s.id = f.snapshot_id order by f.policy, f.name
