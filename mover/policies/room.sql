-- name: nodes
-- What each node that lives follows of this name.
select distinct on (s.node) s.node, s.digest, s.at from mover.policy_stand s join mover.node n on n.id = s.node
 where s.name = %(name)s and n.seen_at > now() - interval '1 day' order by s.node, s.seq desc

-- name: drift
-- Names under which nodes that live follow different texts.
with newest as (
    select distinct on (s.node, s.name) s.node, s.name, s.digest from mover.policy_stand s
      join mover.node n on n.id = s.node where n.seen_at > now() - interval '1 day'
     order by s.node, s.name, s.seq desc)
select o.name, array_agg(o.node order by o.node) as nodes from newest o join newest m using (name)
 where m.node = %(node)s and o.node <> m.node and o.digest <> m.digest group by o.name order by o.name

-- name: versions
-- What stood under this name, newest first, and who made it so, where it was changed through the API.
select s.seq, s.node, s.digest, s.at, p.kind, p.text, c.id as change, c.requested_by, c.approved_by, c.reason
  from mover.policy_stand s left join mover.policy p using (name, digest)
  left join lateral (
       select * from mover.policy_change c
        where c.node = s.node and c.name = s.name and c.digest is not distinct from s.digest and c.agreed_at <= s.at
          and c.refused_at is null and c.requested_at > coalesce((
              select max(q.at) from mover.policy_stand q
               where q.node = s.node and q.name = s.name and q.seq < s.seq), '-infinity')
        order by c.agreed_at desc limit 1) c on true
 where s.name = %(name)s and (%(after)s::bigint is null or s.seq < %(after)s) order by s.seq desc limit %(limit)s

-- name: shorter
-- The words in which a protect policy's file promises less than holds.
select mover.terms_shorter(terms, wanted) as words from mover.protect_terms where policy = %(name)s

-- name: ask
-- Asked for by one person; without a risk agreed on at once; the same again is the same.
select mover.policy_ask(%(id)s, %(node)s, %(name)s, %(kind)s, %(base)s, %(digest)s, %(text)s, %(risks)s, %(reason)s,
                        %(proof)s, %(actor)s) as id

-- name: approve
-- By another person.
select mover.policy_approve(%(id)s, %(proof)s, %(actor)s, %(node)s)

-- name: withdraw
-- By who asked, or an admin.
select mover.policy_withdraw(%(id)s, %(proof)s, %(actor)s, %(node)s)

-- name: get
-- One change.
select c.*, now() as now, b.text as before
  from mover.policy_change c left join mover.policy b on b.name = c.name and b.digest = c.base where c.id = %(id)s

-- name: page
-- Newest first, from where the page before ended; of one policy, or only those that wait for a person.
select c.*, now() as now, b.text as before
  from mover.policy_change c left join mover.policy b on b.name = c.name and b.digest = c.base
 where (%(name)s::text is null or c.name = %(name)s)
   and (not %(waiting)s or (agreed_at is null and withdrawn_at is null and lapses_at > now()))
   and (%(after)s::text is null
        or (c.requested_at, c.id) < (select requested_at, id from mover.policy_change where id = %(after)s))
 order by c.requested_at desc, c.id desc limit %(limit)s
