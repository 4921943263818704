-- name: slide
-- Where a slide of the project stands, and whether anybody may look at it.
select s.number, s.family, s.extension, s.size_bytes, s.files_bytes, s.digest, coalesce(s.root, s.digest) as root, s.tier,
       s.key, s.facts, w.reason as withdrawn, w.removed_at,
       array(select c.tier from mover.slide_copy c where c.number = s.number and c.state = 'whole' order by c.tier) as copies
  from mover.slide s left join mover.slide_withdrawal w using (number) where s.number = %(number)s

-- name: files
-- The files beside its main one, by name.
select name, size_bytes, digest, key from mover.slide_file where number = %(number)s order by name
