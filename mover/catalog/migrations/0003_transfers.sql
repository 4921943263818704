-- === transfers: the general verb, and the release of what was moved =======================================

set role mover_owner;

create table mover.transfer (
    id          text primary key,
    project_id  text not null references mover.project,
    verb        text not null check (verb in ('copy', 'move')),
    state       text not null default 'planning'
                check (state in ('planning', 'refused', 'canary', 'waiting', 'moving', 'paused', 'releasing', 'done',
                                 'incomplete', 'failed', 'aborted')),
    paused_in   text,                               -- the state a pause goes back to
    reason      text,
    explanation text,
    sources     text[] not null,                    -- tiers, in the order of the request
    target      text not null references mover.tier,
    policy      text,
    request     jsonb not null,                     -- what was asked, with keys as `names.key_text` writes them
    offenders   jsonb,                              -- of a refused plan, the first of them; all are refused entries
    entries     bigint not null default 0,          -- frozen by the plan
    bytes       numeric not null default 0,
    looked_at   bigint not null default 0,          -- entries the plan saw, selected or not
    estimate_s  double precision,
    -- counted where the entries change, in the same transaction
    moved_count bigint not null default 0,
    moved_bytes numeric not null default 0,
    present_count bigint not null default 0,
    present_bytes numeric not null default 0,
    skipped_count bigint not null default 0,
    failed_count bigint not null default 0,
    rounds      integer not null default 0,         -- how often what failed was tried again
    busy_since  timestamptz,                        -- moving now, since then
    busy_s      double precision not null default 0,  -- before that
    created_by  text not null,
    created_at  timestamptz not null default now(),
    started_at  timestamptz,
    finished_at timestamptz,
    unique (project_id, id),
    check (state <> 'refused' or reason is not null)
);
create index transfer_project on mover.transfer (project_id, created_at desc);
create index transfer_policy on mover.transfer (project_id, policy, created_at desc) where policy is not null;
create index transfer_pace on mover.transfer (project_id, target, finished_at desc) where state in ('done', 'incomplete');

-- one entry of a transfer. Its keys are bytes as the tiers spell them, which only deidentified tiers may put here (D10)
create table mover.transfer_entry (
    id          bigint generated always as identity primary key,
    project_id  text not null,
    transfer_id text not null,
    at          smallint not null,                  -- which of the request's sources
    source      bytea not null,
    target      bytea not null,
    kind        text not null check (kind in ('file', 'symlink', 'folder', 'other')),
    size_bytes  bigint not null,
    mtime_ns    bigint not null,
    mark        text not null,
    known       text,                               -- digest the catalog knew under this fingerprint
    known_since timestamptz,                        -- and when it was verified
    state       text not null default 'waiting'
                check (state in ('waiting', 'moved', 'present', 'skipped', 'failed', 'refused')),
    tries       smallint not null default 0,
    digest      text check (digest ~ '^[0-9a-f]{64}$'),
    verified_at timestamptz,                        -- when the copy was read back cold
    shared      boolean not null default false,
    trusted_since timestamptz,
    code        text,                               -- of what went wrong, or of the word that left it out
    what        text,
    finished_at timestamptz,
    foreign key (project_id, transfer_id) references mover.transfer (project_id, id),
    check (state not in ('failed', 'refused') or code is not null),
    -- what stands there was read: no entry counts as moved without its digest
    check (state not in ('moved', 'present') or kind <> 'file' or digest is not null)
);
create index transfer_entry_of on mover.transfer_entry (transfer_id, id);
create index transfer_entry_waiting on mover.transfer_entry (transfer_id, at, id) where state = 'waiting';
create index transfer_entry_failed on mover.transfer_entry (transfer_id, code, id) where state in ('failed', 'refused');

-- large entries on their way: where an attempt writes (row 0), and the parts of it that are durable and verified
create table mover.transfer_part (
    project_id  text not null,
    transfer_id text not null,
    attempt_id  text not null,
    number      integer not null,
    place       text,                               -- of row 0: the upload's id, or the temporary name
    begins      bigint not null default 0,
    length      bigint not null default 0,
    segments    text[] not null default '{}',       -- BLAKE3 of each 16 MiB of what was written
    etag        text not null default '',
    at          timestamptz not null default now(),
    primary key (transfer_id, attempt_id, number),
    foreign key (project_id, transfer_id) references mover.transfer (project_id, id)
);

-- the second half of a move (D14): sources of one tier, renamed to a trash name, held, then purged by row id
create table mover.release (
    id          text primary key,
    project_id  text not null references mover.project,
    transfer_id text not null,
    tier        text not null references mover.tier,
    state       text not null default 'waiting'
                check (state in ('waiting', 'releasing', 'held', 'restoring', 'restored', 'purging', 'purged', 'failed',
                                 'dropped')),
    reason      text,
    explanation text,
    entries     bigint not null,
    bytes       numeric not null,
    hold_s      integer not null check (hold_s >= 0),
    hold_until  timestamptz,                        -- by the server's clock, from the last entry released
    epoch       text not null,                      -- of the catalog: one that was restored from a backup purges nothing
    requested_by text not null,
    approved_by text,                               -- the second person, where one is needed
    created_at  timestamptz not null default now(),
    finished_at timestamptz,
    unique (project_id, id),
    foreign key (project_id, transfer_id) references mover.transfer (project_id, id),
    check (state not in ('held', 'purging', 'purged') or hold_until is not null)
);
create index release_transfer on mover.release (transfer_id);
create index release_held on mover.release (project_id, hold_until) where state in ('held', 'purging');

create table mover.release_entry (
    id          bigint generated always as identity primary key,  -- what purging names
    project_id  text not null,
    release_id  text not null,
    entry_id    bigint not null,                    -- of mover.transfer_entry
    state       text not null default 'waiting'
                check (state in ('waiting', 'leaving', 'released', 'kept', 'restored', 'purging', 'purged')),
    source      bytea not null,
    size_bytes  bigint not null,
    digest      text not null,
    trash       bytea,                              -- written before the rename, so that a crash leaves nothing unknown
    device      bigint,
    inode       bigint,
    code        text,
    what        text,
    released_at timestamptz,
    ended_at    timestamptz,
    foreign key (project_id, release_id) references mover.release (project_id, id),
    check (state in ('waiting', 'kept') or (trash is not null and device is not null and inode is not null)),
    check (state <> 'kept' or code is not null)
);
-- one source leaves once; what was kept or brought back may be asked for again
create unique index release_entry_once on mover.release_entry (entry_id) where state not in ('kept', 'restored');
create index release_entry_entry on mover.release_entry (entry_id, id);
create index release_entry_of on mover.release_entry (release_id, state, id);

do $$
declare t text;
begin
    foreach t in array array['transfer', 'transfer_entry', 'transfer_part', 'release', 'release_entry'] loop
        execute format('alter table mover.%I enable row level security', t);
        execute format('alter table mover.%I force row level security', t);
        execute format('create policy by_project on mover.%I using (project_id = (select mover.current_project()))'
                       ' with check (project_id = (select mover.current_project()))', t);
    end loop;
end $$;

grant select, insert, update on mover.transfer, mover.transfer_entry, mover.release, mover.release_entry to mover_daemon;
grant select, insert, update, delete on mover.transfer_part to mover_daemon;
grant select on mover.release to mover_dispatch;

reset role;

grant create on schema mover to mover_dispatch;
set role mover_dispatch;

-- keys of a tier that some project's slides or live runs point to: those bytes are not released, whoever asks
create function mover.keys_held(in_tier text, in_keys text[]) returns table (key text)
    language sql stable security definer set search_path = mover, pg_temp as $$
    select s.key from mover.slide s where s.tier = in_tier and s.key = any (in_keys)
    union select s.thumbnail_key from mover.slide s where s.tier = in_tier and s.thumbnail_key = any (in_keys)
    union select e.archive_key from mover.run_entry e join mover.run r on r.id = e.run_id
           where e.archive_tier = in_tier and e.archive_key = any (in_keys)
             and r.state not in ('cleaned', 'refused', 'cancelled', 'failed')
$$;

-- releases whose hold is over
create function mover.releases_over() returns table (release_id text, project_id text, tier text)
    language sql stable security definer set search_path = mover, pg_temp as $$
    select id, project_id, tier from mover.release where state = 'held' and hold_until < now() order by hold_until
$$;

reset role;
revoke create on schema mover from mover_dispatch;
revoke execute on function mover.keys_held(text, text[]), mover.releases_over() from public;
grant execute on function mover.keys_held(text, text[]), mover.releases_over() to mover_daemon;
