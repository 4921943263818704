-- === what ended long ago goes ======================================================================================

set role mover_owner;

create index shard_ended on mover.shard (finished_at) where finished_at is not null;

-- The daemon removes old ones by itself; of what is still to be done the database lets none go.
create policy ended_only on mover.shard as restrictive for delete using (state in ('done', 'failed', 'cancelled'));
grant delete on mover.shard to mover_daemon;

reset role;
