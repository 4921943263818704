-- name: packs_that_wait
-- Packs in quarantine of batches that go by an images policy, or of all, by what they wait for.
select p.reason as code, p.kind, p.explanation, count(*) as count, coalesce(sum(p.size_bytes), 0)::bigint as bytes
  from mover.pack p join mover.batch b on b.id = p.batch_id
 where p.state = 'quarantined' and (%(policy)s::text is null or b.policy = %(policy)s)
 group by p.reason, p.kind, p.explanation order by count(*) desc, p.reason, p.kind limit 1000

-- name: runs_of_policy
-- Runs that were asked for under a stage policy of late, and how many of them stand.
select count(*) as runs, count(*) filter (where state in ('ready', 'finishing', 'protecting', 'protected')) as standing,
       coalesce(sum(wanted_bytes), 0)::bigint as bytes
  from mover.run where policy = %(policy)s and created_at > now() - make_interval(days => %(days)s)

-- name: runs_to_clean
-- Runs on a flash tier that are protected and not cleaned, the longest first.
select id, wanted_bytes as bytes from mover.run where tier = %(tier)s and state = 'protected'
 order by finished_at, id limit %(limit)s

-- name: slides_on
-- Slides that stand on a tier, and how many of them have a whole copy elsewhere.
select count(*) as slides, coalesce(sum(s.size_bytes), 0)::bigint as bytes,
       count(*) filter (where exists (select from mover.slide_copy c
                                       where c.number = s.number and c.tier <> s.tier and c.state = 'whole')) as copied
  from mover.slide s where s.tier = %(tier)s
