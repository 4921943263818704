-- name: declare
-- One walk of one place at a time: the same again is the one that runs.
insert into mover.scan (id, project_id, tier, prefix, method, options, created_by)
values (%(id)s, %(project)s, %(tier)s, %(prefix)s, %(method)s, %(options)s, %(actor)s)
on conflict (project_id, tier, prefix) where state in ('waiting', 'walking', 'merging') do nothing
returning id

-- name: running
-- The walk of a place that is not at its end.
select id, method from mover.scan
 where tier = %(tier)s and prefix = %(prefix)s and state in ('waiting', 'walking', 'merging')

-- name: get
-- A scan as it stands, with the tier's zone, which says whether keys may be shown.
select s.*, t.zone from mover.scan s join mover.tier t on t.name = s.tier where s.id = %(id)s

-- name: page
-- Newest first.
select s.*, t.zone from mover.scan s join mover.tier t on t.name = s.tier
 where (%(tier)s::text is null or s.tier = %(tier)s) and (%(after)s::text is null or s.id < %(after)s)
 order by s.id desc limit %(limit)s

-- name: trouble
-- Why a scan waits, if it waits for something to come back.
select error_code as code, error from mover.shard
 where subject_id = %(id)s and state in ('waiting', 'running') and error is not null order by created_at limit 1

-- name: findings
-- What could not be seen, and what drifted, in the order in which it was found.
select id, code, key, at from mover.scan_finding
 where scan_id = %(id)s and id > %(after)s order by id limit %(limit)s

-- name: lock
-- A scan, held for a change of state.
select * from mover.scan where id = %(id)s for update

-- name: finish
-- The end of a scan.
update mover.scan set state = %(state)s, finished_at = now(), error_code = null where id = %(id)s

-- name: fail
-- A scan that cannot go on; what it has staged is dropped, what it has merged is true.
with dropped as (delete from mover.staged where scan_id = %(id)s),
     left_over as (delete from mover.scan_folder where scan_id = %(id)s)
update mover.scan set state = 'failed', finished_at = now(), error_code = %(code)s, explanation = %(error)s
 where id = %(id)s
