-- name: kept
-- What the first repository keeps, in order of record.
select repository_id from mover.snapshot
 where policy = %(policy)s and tier = %(tier)s and state = 'checked' and missing_at is null order by sequence

-- name: gone
-- What was forgotten, and whose file was removed from the first repository by us; also by its ids before repairs.
select unnest(was || repository_id) as repository_id from mover.snapshot
 where policy = %(policy)s and tier = %(tier)s and state = 'forgotten' and purged_at is not null
