-- name: own
-- Which of these snapshot files are on the project's record, and as what.
select id, repository_id from mover.snapshot where repository_id = any (%(ids)s) order by sequence
