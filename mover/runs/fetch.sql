-- name: copies
-- Other tiers on which a slide's files were proved to stand, under the same keys.
select tier from mover.slide_copy where number = %(number)s and state = 'whole' order by tier

-- name: doubt
-- A copy of an archived file is not what the catalog says; whoever keeps the archive reads and repairs it.
insert into mover.archive_doubt (project_id, tier, key, reason) values (%(project)s, %(tier)s, %(key)s, %(reason)s)
on conflict do nothing
