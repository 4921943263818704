-- === layout `shards`: many small files in a few tars ==============================================================

set role mover_owner;

alter table mover.run
    add column shard_bytes bigint check (shard_bytes > 0),
    drop constraint run_layout_check,
    add constraint run_layout_check check (layout in ('flat', 'number', 'label', 'split', 'shards')),
    add constraint run_layout_shards_check check ((layout = 'shards') = (shard_bytes is not null));

-- what stands in a tar stands there and nowhere else below the root
alter table mover.run_entry
    add column shard text,                          -- the tar's path below the root
    add column shard_offset bigint,                 -- of its first byte in there
    add check ((shard is null) = (shard_offset is null));
create index run_entry_shard on mover.run_entry (run_id, shard) where shard is not null;

-- The tars of a run. `made_of` is the digest of their headers and their files' digests, known before the first byte; the
-- digest of the tar itself when it was read back.
create table mover.run_tar (
    project_id  text not null references mover.project,
    run_id      text not null,
    path        text not null,
    made_of     text not null check (made_of ~ '^[0-9a-f]{64}$'),
    count       integer not null check (count > 0),
    size_bytes  bigint not null,
    digest      text check (digest ~ '^[0-9a-f]{64}$'),
    staged_at   timestamptz,
    staged_how  text check (staged_how in ('copied', 'linked')),
    primary key (run_id, path),
    foreign key (project_id, run_id) references mover.run (project_id, id),
    check (num_nulls(digest, staged_at, staged_how) in (0, 3))
);
create index run_tar_made_of on mover.run_tar (made_of);
create index run_tar_digest on mover.run_tar (digest) where digest is not null;
alter table mover.run_tar enable row level security;
alter table mover.run_tar force row level security;
create policy by_project on mover.run_tar using (project_id = (select mover.current_project()))
    with check (project_id = (select mover.current_project()));
grant select, insert, update (digest, staged_at, staged_how) on mover.run_tar to mover_daemon;
grant select on mover.run_tar to mover_dispatch;

alter table mover.content add column made_of text check (made_of ~ '^[0-9a-f]{64}$');
create index content_made_of on mover.content (tier, made_of) where made_of is not null;

reset role;

grant create on schema mover to mover_dispatch;
set role mover_dispatch;

-- as before; of a run in tars they are what it holds, from before their digest is known to it
create or replace function mover.content_held(in_tier text) returns table (digest text)
    language sql stable security definer set search_path = mover, pg_temp as $$
    select e.digest from mover.run_entry e join mover.run r on r.id = e.run_id
     where r.tier = in_tier and r.state not in ('requested', 'cleaned', 'refused', 'cancelled', 'failed') and e.shard is null
     union
    select c.digest from mover.content c join mover.run_tar t on t.made_of = c.made_of join mover.run r on r.id = t.run_id
     where c.tier = in_tier and r.tier = in_tier
       and r.state not in ('requested', 'cleaned', 'refused', 'cancelled', 'failed')
$$;

create or replace function mover.tier_outstanding(in_tier text) returns bigint
    language sql stable security definer set search_path = mover, pg_temp as $$
    select (coalesce((
        select sum(e.size_bytes) from mover.run r join mover.run_entry e on e.run_id = r.id
         where r.tier = in_tier and r.state in ('admitted', 'staging') and e.staged_at is null and e.shard is null), 0)
        + coalesce((
        select sum(t.size_bytes) from mover.run r join mover.run_tar t on t.run_id = r.id
         where r.tier = in_tier and r.state in ('admitted', 'staging') and t.staged_at is null), 0))::bigint
$$;

reset role;
revoke create on schema mover from mover_dispatch;
