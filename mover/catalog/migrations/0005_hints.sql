-- === hints of file events ==================================================================================

set role mover_owner;

-- one watcher's unbroken watch of a tier: every change since `since` and until `heard_at` stands in the hints, or was
-- read by a scan since. A watcher that starts, or that lost events, begins a new one
create table mover.folder_watch (
    project_id  text not null references mover.project,
    tier        text not null references mover.tier,
    since       timestamptz not null,
    heard_at    timestamptz not null,
    reason      text not null,                      -- why it does not reach further back
    primary key (project_id, tier)
);

-- folders that changed, by the path's own bytes: only deidentified tiers are watched. What a scan reads it first makes
-- its own, so that a change that comes meanwhile is a row beside
create table mover.folder_hint (
    project_id  text not null references mover.project,
    tier        text not null references mover.tier,
    scan_id     text not null default '',           -- the scan that reads it; empty: none yet
    folder      bytea not null,
    deep        boolean not null,                   -- came, went or moved: all that is below it counts
    seen_at     timestamptz not null default clock_timestamp(),
    primary key (project_id, tier, scan_id, folder)
);

do $$
declare t text;
begin
    foreach t in array array['folder_watch', 'folder_hint'] loop
        execute format('alter table mover.%I enable row level security', t);
        execute format('alter table mover.%I force row level security', t);
        execute format('create policy by_project on mover.%I using (project_id = (select mover.current_project()))'
                       ' with check (project_id = (select mover.current_project()))', t);
    end loop;
end $$;

grant select, insert, update on mover.folder_watch to mover_daemon;
grant select, insert, update, delete on mover.folder_hint to mover_daemon;

-- a scan of changes saw what it was pointed to, and never claims to have seen everything
alter table mover.scan drop constraint scan_method_check, drop constraint scan_state_check;
alter table mover.scan
    add constraint scan_method_check check (method in ('walk', 'listing', 'inventory', 'changes')),
    add constraint scan_state_check check
        (state in ('waiting', 'walking', 'merging', 'complete', 'caught-up', 'incomplete', 'failed')),
    add constraint scan_changes_check check ((method = 'changes' and state <> 'complete') or (method <> 'changes' and state <> 'caught-up'));

reset role;
