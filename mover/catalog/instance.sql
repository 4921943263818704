-- name: server_now
-- The clock that decides (D12), at this very moment.
select clock_timestamp() as now

-- name: ensure_project
-- The project of the settings exists.
insert into mover.project (id) values (%(id)s) on conflict (id) do nothing

-- name: register_node
-- This process of this node is alive.
insert into mover.node (id, version) values (%(id)s, %(version)s)
on conflict (id) do update set started_at = now(), seen_at = now(), version = excluded.version

-- name: seen
-- The node is still alive.
update mover.node set seen_at = now() where id = %(id)s

-- name: tier
-- A tier as it was registered.
select name, kind, zone, role, identity, traits, capacity_bytes from mover.tier where name = %(name)s

-- name: register_tier
-- What a tier is and what a probe found it able to do.
insert into mover.tier (name, kind, zone, role, identity, traits, capacity_bytes)
values (%(name)s, %(kind)s, %(zone)s, %(role)s, %(identity)s, %(traits)s, %(capacity)s)
on conflict (name) do update set traits = excluded.traits, capacity_bytes = excluded.capacity_bytes, seen_at = now()

-- name: put_policy
-- The text of every policy that was ever in force stays findable by its digest.
insert into mover.policy (name, digest, kind, text) values (%(name)s, %(digest)s, %(kind)s, %(text)s)
on conflict (name, digest) do nothing

-- name: reserved
-- Bytes promised to live runs of every project.
select mover.tier_reserved(%(tier)s) as bytes

-- name: queue_counts
-- Unfinished work of this project by queue and state.
select queue, state::text as state, count(*) as count from mover.shard
 where state in ('waiting', 'running', 'failed') group by queue, state

-- name: run_counts
-- Runs of this project by state.
select state::text as state, count(*) as count from mover.run group by state

-- name: shard_counts
-- Work of this project by state.
select state::text as state, count(*) as count from mover.shard group by state
