-- name: beginnings
-- Of each chain its first record, the last of the first ones before which all are older than the day, and the last that the
-- newest checkpoint of each tier covers; not more of it than one pack holds, and one.
with told as (
    select t.name as tier, (
        select p.body::jsonb #> '{checkpoint,heads}' from mover.checkpoint p join mover.checkpoint_copy k
            on (k.project_id, k.n) = (p.project_id, p.n)
         where p.project_id = %(project)s and k.tier = t.name order by p.n desc limit 1) as heads
      from unnest(%(tiers)s::text[]) t(name))
select h.node, s.first, s.older, coalesce((
           select min(coalesce((select (e ->> 'seq')::bigint from jsonb_array_elements(t.heads) e
                                 where e ->> 'node' = h.node), 0)) from told t), 0) as covered
  from mover.audit_head h cross join lateral (
       select min(b.seq) as first, coalesce(min(b.seq) filter (where b.at >= %(before)s) - 1, max(b.seq)) as older
         from (select a.seq, a.at from mover.audit_record a
                where a.project_id = %(project)s and a.node = h.node order by a.seq limit %(limit)s + 1) b) s
 where h.project_id = %(project)s and s.first is not null
   -- a chain that begins later is not read
   and (select a.at from mover.audit_record a where a.project_id = %(project)s and a.node = h.node
         order by a.seq limit 1) < %(before)s
 order by h.node;

-- name: now
-- By the clock that decides.
select clock_timestamp() as at;

-- name: may_ask
-- Whether this person may ask now, before anything is written for it.
select mover.audit_retire_may_ask(%(proof)s, %(actor)s);

-- name: ask
-- The first person's word.
select mover.audit_retire_ask(%(id)s, %(before)s, %(years)s, %(chains)s::jsonb, %(digest)s, %(bytes)s, %(tiers)s, %(reason)s,
                              %(proof)s, %(actor)s, %(node)s);

-- name: approve
-- The second person's; the number of the checkpoint that is to say it.
select mover.audit_retire_approve(%(id)s, %(proof)s, %(actor)s, %(node)s) as n;

-- name: retire
-- The next records leave.
select mover.audit_retire(%(id)s, %(limit)s, %(node)s) as gone;

-- name: retirements
-- All that were ever asked, newest first.
select r.*, r.lapses_at <= now() as lapsed, mover.audit_still_standing(r.chains) as left from mover.audit_retirement r
 where r.project_id = %(project)s and (%(id)s::text is null or r.id = %(id)s) order by r.asked_at desc, r.id limit 1000;
