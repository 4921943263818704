-- name: ask_probe
-- The hour of a tier's next lock probe has come; of many daemons one gets the row.
insert into mover.tier_lock as l (tier, policy, means) values (%(tier)s, %(policy)s, %(means)s)
on conflict (tier) do update set asked_at = now(), policy = excluded.policy, means = excluded.means
 where l.asked_at < now() - make_interval(secs => %(every_s)s)
returning l.tier

-- name: tier_lock
-- What the last probes found, held for a change.
select * from mover.tier_lock where tier = %(tier)s for update

-- name: probed
-- What this probe found.
update mover.tier_lock
   set state = %(state)s, succeeded = %(succeeded)s, explanation = %(explanation)s, standing = %(standing)s,
       probed_at = now(), since = case when state = %(state)s then since else now() end
 where tier = %(tier)s

-- name: unanswered
-- A probe got no answer: what was known may be old, and is said with its time.
update mover.tier_lock set explanation = %(explanation)s where tier = %(tier)s

-- name: tier_locks
-- Every tier that is kept by some means.
select *, extract(epoch from now() - coalesce(probed_at, since))::float as age_s from mover.tier_lock order by tier

-- name: due_renewal
-- How long ago the last pass over a repository began, and whether one runs.
select extract(epoch from now() - max(started_at))::float as age_s,
       coalesce(bool_or(state = 'running'), false) as running, coalesce(bool_or(state = 'failed'), false) as failed
  from (select * from mover.lock_renewal where tier = %(tier)s and prefix = %(prefix)s
         order by started_at desc limit 1) as last

-- name: begin_renewal
-- A pass begins, unless one runs.
insert into mover.lock_renewal (id, project_id, tier, prefix, retain_s)
values (%(id)s, %(project)s, %(tier)s, %(prefix)s, %(retain_s)s)
on conflict (tier, prefix) where state = 'running' do nothing
returning id

-- name: renewal
-- A pass.
select * from mover.lock_renewal where id = %(id)s

-- name: known
-- Snapshots of a tier as the catalog has them: what is forgotten is not locked on for its own sake.
select repository_id, state from mover.snapshot where tier = %(tier)s

-- name: fresh
-- Of these keys, those that are locked for long enough already.
select key, until from mover.object_lock
 where tier = %(tier)s and key = any (%(keys)s) and until >= %(enough)s

-- name: distrusted
-- What was written down about a tier is not what the store says: it is asked about everything again.
delete from mover.object_lock where tier = %(tier)s

-- name: locked
-- Locks that hold now. A row never goes back.
insert into mover.object_lock as l (tier, key, until)
select %(tier)s, t.key, t.until from unnest(%(keys)s::text[], %(untils)s::timestamptz[]) as t (key, until)
on conflict (tier, key) do update set until = greatest(l.until, excluded.until)

-- name: count
-- How far the pass is.
update mover.lock_renewal
   set needed = %(needed)s, renewed = renewed + %(renewed)s, brought_back = brought_back + %(brought_back)s
 where id = %(id)s

-- name: renewed
-- The pass is over: everything that is needed is locked, or told as missing.
update mover.lock_renewal
   set state = 'done', needed = %(needed)s, missing = %(missing)s, swept = %(swept)s, finished_at = now(),
       explanation = %(explanation)s
 where id = %(id)s and state = 'running'

-- name: dropped
-- Rows of objects that ran out a while ago: they are gone, or locked anew with a new row.
delete from mover.object_lock where tier = %(tier)s and until < now() - interval '7 days'

-- name: renewal_failed
-- The pass could not be ended.
update mover.lock_renewal set state = 'failed', explanation = %(explanation)s, finished_at = now()
 where id = %(id)s and state = 'running'

-- name: last_renewals
-- The newest pass over each repository.
select distinct on (tier, prefix) *, extract(epoch from now() - started_at)::float as age_s
  from mover.lock_renewal order by tier, prefix, started_at desc
