-- name: lock_policy
-- Of many daemons that look at one policy, one begins.
select pg_advisory_xact_lock(hashtextextended('mover.protect:' || %(project)s || ':' || %(policy)s, 0))

-- name: last
-- The newest turn of a kind, its age, and whether two persons opened the breaker since it began to wait.
select t.id, t.state, extract(epoch from now() - t.started_at)::double precision as age_s,
       t.state = 'waiting' and exists (select from mover.protect_terms p
           where p.policy = t.policy and p.large_until > now() and p.large_until > t.started_at + interval '1 day') as opened
  from mover.protect_turn t where t.policy = %(policy)s and t.kind = %(kind)s

-- name: begin
-- A turn begins, in the place of the one before.
insert into mover.protect_turn (id, project_id, policy, kind)
values (%(id)s, %(project)s, %(policy)s, %(kind)s)
on conflict (project_id, policy, kind) do update
   set id = excluded.id, state = 'running', plan = '{}', counts = '{}', explanation = null, started_at = now(),
       finished_at = null

-- name: turn
-- The turn of a shard; none when a later one took its place.
select * from mover.protect_turn where id = %(id)s

-- name: progress
-- How far it is.
update mover.protect_turn set plan = plan || %(plan)s::jsonb, counts = counts || %(counts)s::jsonb where id = %(id)s

-- name: end
-- How it ended.
update mover.protect_turn set state = %(state)s, explanation = %(explanation)s, finished_at = now() where id = %(id)s

-- name: newest
-- The newest turn of a kind.
select * from mover.protect_turn where policy = %(policy)s and kind = %(kind)s

-- name: turns
-- The newest turns of a policy.
select * from mover.protect_turn where policy = %(policy)s order by kind

-- name: missing
-- What should be on this tier and is not, here and, as far as that may be told, in other projects.
select count(*) as missing, mover.missing_elsewhere(%(tier)s) as elsewhere from mover.snapshot
 where tier = %(tier)s and missing_at is not null and state in ('written', 'checked', 'trashed')

-- name: opened
-- Did two persons open the breaker, and how far does it let one go without them?
select coalesce(large_until > now(), false) as opened, (terms ->> 'breaker_percent')::integer as percent
  from mover.protect_terms where policy = %(policy)s

-- name: counts
-- Snapshots by policy and state, with what is doubtful and what is missing.
select policy, state, count(*) as count, count(*) filter (where doubt in ('flood', 'collapsed')) as doubtful,
       count(*) filter (where missing_at is not null) as missing
  from mover.snapshot where state <> 'forgotten' group by policy, state
