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

-- name: accepted
-- What two people said of restores, oldest first: the rows that only the database's own functions write, each with the
-- record that stands in a chain for it.
select r.n, r.id, r.facts, r.reason, r.asked_by, r.asked_at, r.approved_by, r.approved_at, r.lapses_at <= now() as lapsed
  from mover.audit_restore r
 where r.project_id = %(project)s and r.approved_at is not null
   and (exists (select from mover.audit_record a
                where a.project_id = r.project_id and a.body::jsonb ->> 'subject' = r.id
                  and a.body::jsonb ->> 'action' = 'audit restore accepted'
                  and a.body::jsonb -> 'details' -> 'checkpoint' = to_jsonb(r.n)
                  and a.body::jsonb -> 'details' -> 'lost' = r.facts -> 'lost')
        or exists (select from mover.audit_retirement t
                    where t.project_id = r.project_id and t.approved_at is not null and r.id = any (t.carried)))
 order by r.n;

-- name: retired
-- What two people said of the oldest records, oldest first: as above, or the record left with later ones.
select r.*, false as lapsed, mover.audit_still_standing(r.chains) as left
  from mover.audit_retirement r
 where r.project_id = %(project)s and r.approved_at is not null
   and (exists (select from mover.audit_record a
                where a.project_id = r.project_id and a.body::jsonb ->> 'subject' = r.id
                  and a.body::jsonb ->> 'action' = 'audit retirement approved'
                  and a.body::jsonb -> 'details' -> 'checkpoint' = to_jsonb(r.n)
                  and a.body::jsonb -> 'details' -> 'chains' = r.chains
                  and a.body::jsonb -> 'details' ->> 'pack' = r.digest)
        or exists (select from mover.audit_retirement t
                    where t.project_id = r.project_id and t.approved_at is not null and t.id <> r.id
                      and r.id = any (t.carried)))
 order by r.n;

-- name: digests
-- Which checkpoints the catalog has, and whether a tier took each.
select c.n, c.digest, c.fingerprint,
       exists (select from mover.checkpoint_copy k where (k.project_id, k.n) = (c.project_id, c.n)) as copied
  from mover.checkpoint c where c.project_id = %(project)s order by c.n desc limit %(limit)s;

-- name: body
-- One checkpoint as it stands on the tiers.
select body from mover.checkpoint where project_id = %(project)s and n = %(n)s;

-- name: records_at
-- Which of these records the chains have, by place and hash.
select a.node, a.seq, a.hash from mover.audit_record a
  join unnest(%(nodes)s::text[], %(seqs)s::bigint[]) w(node, seq) on (a.node, a.seq) = (w.node, w.seq)
 where a.project_id = %(project)s;

-- name: ask_restore
-- The first person's word; the same again is the same.
select mover.audit_restore_ask(%(id)s, %(n)s, %(facts)s::jsonb, %(reason)s, %(proof)s, %(actor)s, %(node)s) as id;

-- name: approve_restore
-- The second person's.
select mover.audit_restore_approve(%(id)s, %(proof)s, %(actor)s, %(node)s);

-- name: restores
-- All that were ever asked, newest first.
select r.n, r.id, r.facts, r.reason, r.asked_by, r.asked_at, r.approved_by, r.approved_at, r.lapses_at <= now() as lapsed
  from mover.audit_restore r
 where r.project_id = %(project)s and (%(id)s::text is null or r.id = %(id)s) order by r.asked_at desc, r.id limit 1000;

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
