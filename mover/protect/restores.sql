-- name: as_of
-- The newest checked snapshot of a series that was on record at a time.
select * from mover.snapshot
 where state = 'checked' and missing_at is null and series = %(series)s
   and (%(as_of)s::timestamptz is null or recorded_at <= %(as_of)s)
 order by sequence desc limit 1

-- name: remember
-- Bind a key to its restore, in the transaction that makes it.
insert into mover.idempotency (project_id, key, route, body_digest, subject_id)
values (%(project)s, %(key)s, 'POST /v1/restores', %(body_digest)s, %(subject)s)
on conflict (project_id, key) do nothing
returning subject_id

-- name: remembered
-- The restore an idempotency key already stands for.
select subject_id, body_digest from mover.idempotency where project_id = %(project)s and key = %(key)s

-- name: insert
-- A restore that waits for its worker.
insert into mover.restore (id, project_id, snapshot_id, tier, node, path, target, first, agreed, local, posix_uid,
                           posix_gid, created_by)
values (%(id)s, %(project)s, %(snapshot)s, %(tier)s, %(node)s, %(path)s, %(target)s, %(first)s, %(agreed)s, %(local)s,
        %(uid)s, %(gid)s, %(actor)s)

-- name: get
-- A restore as it stands, and how long it has been worked on since it was last claimed.
select r.*, extract(epoch from now() - r.started_at)::double precision as since_s from mover.restore r where r.id = %(id)s

-- name: lock
-- A restore, held for a change of state.
select * from mover.restore where id = %(id)s for no key update

-- name: page
-- Newest first.
select r.*, extract(epoch from now() - r.started_at)::double precision as since_s from mover.restore r
 where %(after)s::text is null
    or (created_at, id) < (select created_at, id from mover.restore where id = %(after)s)
 order by created_at desc, id desc limit %(limit)s

-- name: trouble
-- Why it does not go on, when its last attempt was put back.
select error_code as code, error from mover.shard
 where subject_id = %(id)s and kind = 'restore' and state = 'waiting' and error is not null
 order by created_at desc limit 1

-- name: begin
-- Somebody works on it; what there is to restore is known by now.
update mover.restore
   set state = 'restoring', started_at = now(), of_files = %(files)s, of_bytes = %(bytes)s, of_packs = %(packs)s
 where id = %(id)s and state in ('waiting', 'restoring')

-- name: progress
-- How far it is, and whether it is still wanted.
update mover.restore
   set files = %(files)s, bytes = %(bytes)s,
       first_at = coalesce(first_at, case when %(first)s then now() end)
 where id = %(id)s and state = 'restoring'
returning cancel

-- name: end
-- Done, given up or broken; `seconds` are those of this attempt.
update mover.restore
   set state = %(state)s, finished_at = now(), reason = %(reason)s, explanation = %(explanation)s,
       files = coalesce(%(files)s, files), bytes = coalesce(%(bytes)s, bytes), seconds = seconds + %(seconds)s,
       first_at = coalesce(first_at, case when %(state)s in ('complete', 'incomplete') then now() end),
       damaged_count = %(damaged_count)s, damaged = %(damaged)s, left_count = %(left_count)s, left_paths = %(left)s,
       warnings_count = %(warnings_count)s, warnings = %(warnings)s, aside = %(aside)s
 where id = %(id)s and state in ('waiting', 'restoring')
returning id

-- name: ask_to_stop
-- Nobody wants it any more.
update mover.restore set cancel = true where id = %(id)s and state in ('waiting', 'restoring') returning id

-- name: hasten
-- A restore that waits to be tried again is stopped now, not in a minute.
update mover.shard set not_before = now() where subject_id = %(id)s and kind = 'restore' and state = 'waiting'

-- name: measured
-- What the newest restores of this tier took.
select files, bytes, seconds from mover.restore
 where tier = %(tier)s and state = 'complete' and seconds > 0 order by finished_at desc limit %(limit)s

-- name: digests
-- BLAKE3 of the files a snapshot holds.
select path, digest from mover.artifact where snapshot_id = %(snapshot)s
