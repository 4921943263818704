-- name: begin_turn
-- A turn begins unless one runs, or the last began too short a while ago; of many daemons one gets the row.
insert into mover.archive_turn (id, project_id, policy, created_by)
select %(id)s, %(project)s, %(policy)s, %(by)s
 where not exists (select from mover.archive_turn t where t.policy = %(policy)s
                      and t.started_at > now() - make_interval(secs => %(every_s)s))
on conflict (project_id, policy) where state = 'running' do nothing
returning id

-- name: turn
-- A turn as it stands.
select t.*, now() as now from mover.archive_turn t where id = %(id)s

-- name: last_turn
-- The newest turn of a policy.
select * from mover.archive_turn where policy = %(policy)s order by started_at desc limit 1

-- name: count
-- What a turn did so far.
update mover.archive_turn
   set copied = copied + %(copied)s, bytes = bytes + %(bytes)s, failed = failed + %(failed)s, locked = locked + %(locked)s,
       missing = missing + %(missing)s
 where id = %(id)s

-- name: end_turn
-- It is over.
update mover.archive_turn set state = %(state)s, explanation = %(explanation)s, finished_at = now()
 where id = %(id)s and state = 'running'

-- name: uncopied
-- Slides without a whole second copy, in order; what failed in this turn waits for the next, what is withdrawn for good.
select s.number, w.number is not null as withdrawn
  from mover.slide s left join mover.slide_copy c on c.number = s.number and c.tier = %(second)s
  left join mover.slide_withdrawal w on w.number = s.number
 where s.tier = %(first)s and s.number > %(after)s
   and (c.number is null or c.state = 'writing' or (c.state = 'failed' and c.tried_at < %(since)s))
   and (w.number is null or c.state = 'writing')
 order by s.number limit %(limit)s

-- name: share_withdrawals
-- A copy begins before its slide is withdrawn, or not at all.
select pg_advisory_xact_lock_shared(hashtextextended('mover withdrawals', 0))

-- name: begin_copy
-- The word comes before the first byte. None where the slide was withdrawn meanwhile.
insert into mover.slide_copy as c (number, tier)
select %(number)s, %(tier)s where not exists (select from mover.slide_withdrawal where number = %(number)s)
on conflict (number, tier) do update set state = 'writing', reason = null, tried_at = now() where c.state <> 'whole'
returning number

-- name: files
-- Every file of a slide as the catalog knows it, beside its sidecar.
select s.key, s.digest, s.size_bytes, coalesce(s.root, s.digest) as root from mover.slide s where s.number = %(number)s
 union all
select f.key, f.digest, f.size_bytes, null from mover.slide_file f where f.number = %(number)s
 union all
select s.thumbnail_key, s.thumbnail_digest, s.thumbnail_bytes, null from mover.slide s
 where s.number = %(number)s and s.thumbnail_key is not null

-- name: copied
-- All files stand on the second tier, each read back; the proof says so.
update mover.slide_copy set state = 'whole', proof = %(proof)s, reason = null
 where number = %(number)s and tier = %(tier)s and state = 'writing'

-- name: not_copied
-- Why there is none, unless another turn has made it whole meanwhile. What of it stands there is found again, by
-- whoever copies or removes it.
update mover.slide_copy set state = 'failed', reason = %(reason)s
 where number = %(number)s and tier = %(tier)s and state <> 'whole'

-- name: doubt
-- A file of the archive is not what the catalog says.
insert into mover.archive_doubt (project_id, tier, key, reason) values (%(project)s, %(tier)s, %(key)s, %(reason)s)
on conflict do nothing

-- name: doubted
-- Doubts become the work list of a reading.
delete from mover.archive_doubt d
 where (d.project_id, d.tier, d.key) in (select project_id, tier, key from mover.archive_doubt
                                          where tier = %(tier)s order by at limit %(limit)s)
returning key

-- name: doubted_tiers
-- Where there are any.
select distinct tier from mover.archive_doubt order by tier

-- name: unlocked
-- Files on a tier that kept manifests name and that are not locked for long enough, in order.
select s.number, k.key
  from mover.slide s
  join lateral (select s.key
                union all select f.key from mover.slide_file f where f.number = s.number
                union all select s.thumbnail_key where s.thumbnail_key is not null
                union all select 'slides/' || s.number || '/sidecar.json') k on true
  left join mover.object_lock l on l.tier = %(tier)s and l.key = k.key
 where s.number >= %(number)s and (s.number, k.key) > (%(number)s, %(key)s)
   and (s.tier = %(tier)s or exists (select from mover.slide_copy c
                                      where c.number = s.number and c.tier = %(tier)s and c.state = 'whole'))
   and (l.until is null or l.until < %(enough)s)
   and not exists (select from mover.slide_withdrawal w where w.number = s.number)
   and mover.slide_pinned(s.number)
 order by s.number, k.key limit %(limit)s

-- name: locked
-- Locks that hold now. A row never goes back.
insert into mover.object_lock as l (tier, key, until)
select %(tier)s, t.key, t.until from unnest(%(keys)s::text[], %(untils)s::timestamptz[]) as t (key, until)
on conflict (tier, key) do update set until = greatest(l.until, excluded.until)

-- name: standing
-- How the slides of a policy stand. `late`: published more than a day ago and without a whole second copy.
select count(*) as slides, coalesce(sum(s.size_bytes + s.files_bytes), 0)::bigint as bytes,
       count(*) filter (where c.state = 'whole') as copied,
       count(*) filter (where c.state = 'failed') as failed,
       count(*) filter (where c.state is distinct from 'whole' and s.created_at < now() - interval '1 day') as late
  from mover.slide s left join mover.slide_copy c on c.number = s.number and c.tier = %(second)s
 where s.tier = %(first)s and not exists (select from mover.slide_withdrawal w where w.number = s.number)

-- name: damage
-- What stands open on either tier: found damaged or missing and not repaired, or doubted and not read yet.
select (select count(*) from mover.verification_finding f
         where f.state = 'open' and f.kind <> 'stranger' and f.tier = any (%(tiers)s)) as damaged,
       (select count(*) from mover.archive_doubt d where d.tier = any (%(tiers)s)) as doubted

-- name: locked_until
-- The first lock of these tiers that runs out.
select min(until) as until from mover.object_lock where tier = any (%(tiers)s) and starts_with(key, 'slides/')
