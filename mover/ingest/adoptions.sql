-- name: insert
-- A scan begins.
insert into mover.adoption (id, project_id, tier, prefix, trust_names, reason, created_by)
values (%(id)s, %(project)s, %(tier)s, %(prefix)s, %(trust_names)s, %(reason)s, %(actor)s)

-- name: standing
-- The same place, while it is being scanned.
select id from mover.adoption where tier = %(tier)s and prefix = %(prefix)s and state = 'scanning' limit 1

-- name: get
-- One adoption.
select * from mover.adoption where id = %(id)s

-- name: page
-- The newest adoptions.
select * from mover.adoption where (%(after)s::text is null or id < %(after)s) order by id desc limit %(limit)s

-- name: counts
-- Verdicts so far.
select verdict, count(*) as count, sum(size_bytes)::bigint as bytes from mover.adoption_file
 where adoption_id = %(id)s group by verdict

-- name: judged
-- Which of these files have a verdict already.
select key from mover.adoption_file where adoption_id = %(id)s and key = any(%(keys)s)

-- name: add_file
-- A verdict; a scan that begins again after a crash gives it once.
insert into mover.adoption_file (project_id, adoption_id, key, verdict, family, size_bytes, digest, reasons)
values (%(project)s, %(id)s, %(key)s, %(verdict)s, %(family)s, %(size_bytes)s, %(digest)s, %(reasons)s)
on conflict do nothing

-- name: files
-- One slice of the verdicts, by key.
select key, verdict, family, size_bytes, digest, reasons from mover.adoption_file
 where adoption_id = %(id)s and key > %(after)s order by key limit %(limit)s

-- name: complete
-- Every file has a verdict.
update mover.adoption set state = 'complete', root = %(root)s, judged_by = %(judged_by)s, finished_at = now()
 where id = %(id)s and state = 'scanning'

-- name: fail
-- The place could not be scanned.
update mover.adoption set state = 'failed', explanation = %(explanation)s, finished_at = now()
 where id = %(id)s and state = 'scanning'
