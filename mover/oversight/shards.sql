-- name: page
-- Shards of this project, the newest first; of a run that was asked for, how much of each is staged. `members` are
-- counted, never shown.
select s.id, s.queue, s.kind, s.subject_id as subject, s.state::text, s.priority, s.holder, s.claims, s.failures,
       s.error_code as code, s.error as explanation, s.created_at, s.finished_at, s.lease_until,
       case when s.not_before > now() then s.not_before end as not_before, cardinality(s.members) as members,
       p.bytes, p.done_bytes
  from mover.shard s
  left join lateral (
       select sum(e.size_bytes)::bigint as bytes,
              coalesce(sum(e.size_bytes) filter (where e.staged_at is not null), 0)::bigint as done_bytes
         from unnest(s.members) as member (path) join mover.run_entry e on e.run_id = s.subject_id and e.path = member.path
        where s.kind = 'run-stage' and s.state = 'running' and %(subject)s::text is not null) p on true
 where (%(after)s::text is null or s.id < %(after)s)
   and (%(subject)s::text is null or s.subject_id = %(subject)s)
   and (%(kind)s::text is null or s.kind = %(kind)s)
   and (%(state)s::text is null or s.state::text = %(state)s)
 order by s.id desc limit %(limit)s

-- name: nodes
-- Every node that was ever here within a month, the one seen last first; and how much of this project it holds:
-- a holder is the node, the daemon's role and its own mark.
select n.id, n.version, n.started_at, n.seen_at,
       (select count(*) from mover.shard s
         where s.state = 'running' and regexp_replace(s.holder, '-(identified|clean|both)/.*$', '') = n.id) as shards
  from mover.node n where n.seen_at > now() - interval '31 days'
 order by n.seen_at desc, n.id limit 500
