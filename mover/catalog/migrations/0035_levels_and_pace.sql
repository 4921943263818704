-- === how full tiers were, and how fast bytes went between them: of the machine, and of no project =================

set role mover_owner;

create table mover.tier_level (
    tier        text not null references mover.tier,
    at          timestamptz not null,               -- begin of the interval it was asked in
    capacity_bytes bigint not null check (capacity_bytes >= 0),
    free_bytes  bigint not null check (free_bytes >= 0),
    primary key (tier, at)
);

create table mover.tier_pace (
    at          timestamptz not null,               -- begin of the interval
    node        text not null,                      -- <node>-<role>, as in `tier_use`
    source      text not null references mover.tier,
    target      text not null references mover.tier,
    bytes       bigint not null check (bytes > 0),  -- nothing moved: no row
    primary key (at, node, source, target)
);

grant select, insert, update, delete on mover.tier_level, mover.tier_pace to mover_daemon;

-- what was given up lately is asked for again and again, and is seldom there
create index shard_failed on mover.shard (project_id, finished_at) where state = 'failed';

reset role;
