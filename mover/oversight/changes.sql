-- name: now
-- The database's clock in ms: the id of an event, the same on every daemon.
select (extract(epoch from clock_timestamp()) * 1000)::bigint as ms

-- name: heads
-- Where the chains of the project end: another end is another decision.
select node, seq from mover.audit_head where project_id = %(project)s

-- name: since
-- What was recorded after the ends that are known, chain by chain.
select r.body::jsonb ->> 'action' as action, r.body::jsonb ->> 'subject' as subject
  from unnest(%(nodes)s::text[], %(seqs)s::bigint[]) k (node, seq)
  join mover.audit_record r on r.project_id = %(project)s and r.node = k.node and r.seq > k.seq
 limit %(limit)s

-- name: lately
-- What was recorded since a moment, over all chains.
select body::jsonb ->> 'action' as action, body::jsonb ->> 'subject' as subject from mover.audit_record
 where project_id = %(project)s and at >= to_timestamp(%(ms)s / 1000.0) limit %(limit)s

-- name: working
-- Whose shards run now: few, as many as there are workers.
select distinct subject_id as subject from mover.shard where state = 'running' limit %(limit)s
