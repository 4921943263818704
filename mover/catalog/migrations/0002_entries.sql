-- === walks: what stands on the tiers ====================================================================

set role mover_owner;

create sequence mover.scan_order;

-- one walk of a tier or of a folder of it. `key` columns here and below: the path's own bytes on deidentified
-- tiers, a keyed 32-byte tag on identified ones, whose sealed names stand in the vault (D10)
create table mover.scan (
    id          text primary key,
    project_id  text not null references mover.project,
    tier        text not null references mover.tier,
    number      bigint not null unique default nextval('mover.scan_order'),  -- order of beginning: what saw an entry last
    prefix      bytea not null default '',
    method      text not null default 'walk' check (method in ('walk', 'listing', 'inventory')),
    options     jsonb not null default '{}',
    state       text not null default 'waiting'
                check (state in ('waiting', 'walking', 'merging', 'complete', 'incomplete', 'failed')),
    folders     bigint not null default 0,          -- read to their end; of a listing: prefixes
    folders_left bigint not null default 0,
    entries     bigint not null default 0,          -- names that were asked for their state
    bytes       numeric not null default 0,
    listings    bigint not null default 0,          -- parts of folders, of which `listings_same` equal what is known
    listings_same bigint not null default 0,
    vanished    bigint not null default 0,          -- named by a folder and gone before they could be asked
    findings    bigint not null default 0,          -- what could not be seen: any makes the scan incomplete
    same        bigint not null default 0,          -- the drift between catalog and tier, counted as it is merged
    new         bigint not null default 0,
    changed     bigint not null default 0,
    changed_verified bigint not null default 0,     -- of these, digested and verified before: their digest is void now
    gone        bigint,                             -- null: not judged, because the scan is not complete
    gone_verified bigint,
    walk_s      double precision not null default 0,
    merge_s     double precision not null default 0,
    error_code  text,
    explanation text,
    created_by  text not null,
    created_at  timestamptz not null default now(),
    started_at  timestamptz,
    finished_at timestamptz,
    unique (project_id, id),
    check (state <> 'complete' or (findings = 0 and folders_left = 0))
);
create index scan_project on mover.scan (project_id, created_at desc);
-- one walk of one place at a time
create unique index scan_running on mover.scan (project_id, tier, prefix) where state in ('waiting', 'walking', 'merging');

-- the frontier: folders that are known and not read to their end. A killed scan goes on from these rows
create table mover.scan_folder (
    project_id  text not null references mover.project,
    scan_id     text not null,
    key         bytea not null,
    spilled     boolean not null default false,     -- not in the walker's memory now
    parent      bytea,                              -- waits for this folder to be read to its end; null: may be walked
    primary key (scan_id, key),
    foreign key (project_id, scan_id) references mover.scan (project_id, id)
);

create index scan_folder_parent on mover.scan_folder (scan_id, parent) where parent is not null;

-- what could not be seen, and what drifted; the first of them by name, all of them in the scan's counts
create table mover.scan_finding (
    id          bigint generated always as identity primary key,
    project_id  text not null references mover.project,
    scan_id     text not null,
    code        text not null,
    key         bytea not null,
    at          timestamptz not null default now(),
    foreign key (project_id, scan_id) references mover.scan (project_id, id)
);
create index scan_finding_scan on mover.scan_finding (scan_id, id);

-- a part of a folder as it was seen last, by the digest of its names and their state: an unchanged one is one row
create table mover.listing (
    id          bigint generated always as identity primary key,
    project_id  text not null references mover.project,
    tier        text not null references mover.tier,
    folder      bytea not null,
    part        integer not null,
    digest      bytea not null,
    entries     integer not null,
    seen        bigint not null,                    -- number of the scan that saw it last
    sent        bigint not null,                    -- number of the scan that saw it changed last
    unique (project_id, tier, folder, part)
);

-- one file or object. No foreign keys: each would cost as much as the row, by the ten million
create table mover.entry (
    id          bigint generated always as identity primary key,
    project_id  text not null,
    tier        text not null,
    key         bytea not null,
    kind        text not null check (kind in ('file', 'symlink', 'other')),
    size_bytes  bigint not null,
    mtime_ns    bigint not null,
    mark        text not null,                      -- inode and change time, or etag: as `Fingerprint.mark`
    digest      text check (digest ~ '^[0-9a-f]{64}$'),  -- of the content under exactly this fingerprint
    verified_at timestamptz,                        -- when those bytes were last read back cold
    listing_id  bigint,                             -- null: recorded by a transfer, not yet seen by a walk
    scan_id     text,                               -- the scan that found it new or changed
    seen        bigint not null default 0,          -- number of the scan that looked at it one by one last
    recorded_at timestamptz not null default now(), -- when this fingerprint was first known
    gone_at     timestamptz,                        -- not there any more, as a complete scan found
    unique (project_id, tier, key),
    check (verified_at is null or digest is not null)
);
create index entry_listing on mover.entry (listing_id);
create index entry_gone on mover.entry (tier, gone_at) where gone_at is not null;
create index entry_unseen on mover.entry (tier) where listing_id is null;

-- where a walk puts what it saw: one row per part of a folder, columns as arrays. COPY knows no row level security,
-- so nobody reads this table: `mover.staged` shows a project its own rows, and `staged_for` cannot be written
create table mover.entry_stage (
    id          bigint generated always as identity primary key,
    staged_for  text not null default current_setting('mover.project'),
    scan_id     text not null,
    folder      bytea not null,
    part        integer not null,
    digest      bytea not null,
    entries     integer not null,
    whole       boolean not null,                   -- names are whole keys (or tags), not names in the folder
    names       bytea[],                            -- null: the listing is the known one
    modes       smallint[],                         -- type bits of st_mode, shifted; null: plain files only
    sizes       bigint[],
    mtimes      bigint[],
    inodes      bigint[],
    ctimes      bigint[],
    marks       text[]                              -- of objects: etags, instead of inodes and change times
);
create index entry_stage_scan on mover.entry_stage (scan_id, id);
-- never compressed: it would cost more than everything else
alter table mover.entry_stage alter names set storage external, alter modes set storage external,
    alter sizes set storage external, alter mtimes set storage external, alter inodes set storage external,
    alter ctimes set storage external, alter marks set storage external;

create view mover.staged with (security_barrier) as
    select id, scan_id, folder, part, digest, entries, whole, names, modes, sizes, mtimes, inodes, ctimes, marks
      from mover.entry_stage where staged_for = (select mover.current_project());

do $$
declare t text;
begin
    foreach t in array array['scan', 'scan_folder', 'scan_finding', 'listing', 'entry'] loop
        execute format('alter table mover.%I enable row level security', t);
        execute format('alter table mover.%I force row level security', t);
        execute format('create policy by_project on mover.%I using (project_id = (select mover.current_project()))'
                       ' with check (project_id = (select mover.current_project()))', t);
    end loop;
end $$;

grant select, insert, update on mover.scan to mover_daemon;
grant select, insert, update, delete on mover.scan_folder, mover.listing, mover.entry to mover_daemon;
grant select, insert on mover.scan_finding to mover_daemon;
grant select, delete on mover.staged to mover_daemon;
grant insert (scan_id, folder, part, digest, entries, whole, names, modes, sizes, mtimes, inodes, ctimes, marks)
    on mover.entry_stage to mover_daemon;
grant usage on sequence mover.scan_order to mover_daemon;

reset role;
