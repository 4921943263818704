-- name: turn
-- One checkpoint of a project at a time, whoever makes it.
select pg_advisory_xact_lock(hashtext('mover checkpoint'), hashtext(%(project)s));

-- name: newest
-- The last one, and what it was signed with.
select n, digest, body, at, extract(epoch from clock_timestamp() - at) as age_s from mover.checkpoint
 where project_id = %(project)s order by n desc limit 1;

-- name: add
-- The body as it is written to tiers, byte for byte.
insert into mover.checkpoint (project_id, n, digest, fingerprint, body)
values (%(project)s, %(n)s, %(digest)s, %(fingerprint)s, %(body)s);

-- name: missing
-- Checkpoints that a tier does not have yet, oldest first.
select c.n, c.body from mover.checkpoint c
 where c.project_id = %(project)s
   and not exists (select from mover.checkpoint_copy k
                    where k.project_id = c.project_id and k.n = c.n and k.tier = %(tier)s)
 order by c.n limit %(limit)s;

-- name: copied
-- Written there and read back; another daemon may have been faster.
insert into mover.checkpoint_copy (project_id, n, tier) values (%(project)s, %(n)s, %(tier)s) on conflict do nothing;

-- name: page
-- Newest first, with the tiers that have each.
select c.n, c.at, c.digest, c.fingerprint, c.body,
       coalesce(array_agg(k.tier order by k.tier) filter (where k.tier is not null), '{}') as tiers
  from mover.checkpoint c left join mover.checkpoint_copy k on (k.project_id, k.n) = (c.project_id, c.n)
 where c.project_id = %(project)s and (%(before)s::bigint is null or c.n < %(before)s)
 group by c.project_id, c.n order by c.n desc limit %(limit)s;

-- name: count
-- How many there should be on every tier.
select coalesce(max(n), 0) as n from mover.checkpoint where project_id = %(project)s;
