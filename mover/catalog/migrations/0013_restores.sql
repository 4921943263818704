-- === restores: jobs that outlive the daemon, and versions of a path =========================================

set role mover_owner;

create table mover.restore (
    id          text primary key,
    project_id  text not null references mover.project,
    snapshot_id text not null,
    tier        text not null references mover.tier,    -- of the repository it comes from
    node        text not null,                          -- whose folders `target` names
    path        text not null,                          -- inside the snapshot
    target      text not null,
    first       text[] not null default '{}',           -- patterns of what is wanted first
    agreed      text,                                   -- digest of the preview somebody agreed to; null: to a new place
    state       text not null default 'waiting'
                check (state in ('waiting', 'restoring', 'complete', 'incomplete', 'cancelled', 'failed')),
    cancel      boolean not null default false,         -- asked for; whoever works on it stops between two pieces
    reason      text,                                   -- stable code
    explanation text,
    local       boolean not null,                       -- asked over the local socket, by a user the kernel named
    posix_uid   integer,                                -- whose rights the target is opened with
    posix_gid   integer,
    of_files    bigint,                                 -- what there is to restore, once it is known
    of_bytes    bigint,
    of_packs    bigint,
    files       bigint not null default 0,
    bytes       bigint not null default 0,
    seconds     double precision not null default 0,    -- worked, over all attempts
    first_at    timestamptz,                            -- what is wanted first stood in the target
    damaged_count bigint not null default 0,            -- files left out; the first of them by name
    damaged     text[] not null default '{}',
    left_count  bigint not null default 0,              -- not restored: something stood there that nobody agreed to replace
    left_paths  text[] not null default '{}',
    warnings_count bigint not null default 0,
    warnings    text[] not null default '{}',
    aside       text,                                   -- folder beside the target with what was replaced
    created_by  text not null,
    created_at  timestamptz not null default now(),
    started_at  timestamptz,
    finished_at timestamptz,
    unique (project_id, id),
    foreign key (project_id, snapshot_id) references mover.snapshot (project_id, id),
    check (state <> 'complete' or (damaged_count = 0 and left_count = 0)),
    check ((state in ('waiting', 'restoring')) = (finished_at is null))
);
create index restore_project on mover.restore (project_id, created_at desc, id desc);
-- what the estimate of the next one learns from
create index restore_measured on mover.restore (project_id, tier, finished_at desc) where state = 'complete';

alter table mover.restore enable row level security;
alter table mover.restore force row level security;
create policy by_project on mover.restore using (project_id = (select mover.current_project()))
    with check (project_id = (select mover.current_project()));
grant select, insert, update on mover.restore to mover_daemon;

-- the versions of one path, whichever snapshots hold it
create index artifact_path on mover.artifact (project_id, path, snapshot_id);

reset role;
