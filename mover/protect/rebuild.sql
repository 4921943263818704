-- name: known
-- Does the catalog know this snapshot of the repository?
select id from mover.snapshot where tier = %(tier)s and repository_id = %(repository_id)s

-- name: run
-- The run of a series, where the catalog still has it.
select id from mover.run where 'run:' || id = %(series)s
