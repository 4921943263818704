-- === what is kept: locks on tiers, sealed dumps ============================================================

set role mover_owner;

-- can what is kept on a tier be destroyed with our own credential? As the last lock probe found it. Tiers belong to the
-- instance, so there is no project
create table mover.tier_lock (
    tier        text primary key references mover.tier,
    policy      text not null,
    means       text not null check (means in ('object lock', 'immutable files')),
    state       text not null default 'unknown' check (state in ('immutable', 'not immutable', 'unknown')),
    succeeded   text[] not null default '{}',       -- of what was tried and should have been refused
    explanation text not null default '',
    standing    integer not null default 0,         -- probe objects that have not run out
    asked_at    timestamptz not null default now(), -- a probe was begun
    probed_at   timestamptz,                        -- one had an answer
    since       timestamptz not null default now()  -- of the state
);

-- until when an object of a repository is locked, as the last renewal left it; it only ever grows
create table mover.object_lock (
    tier        text not null references mover.tier,
    key         text not null,
    until       timestamptz not null,
    primary key (tier, key)
);

-- one pass over what the kept snapshots of a repository need
create table mover.lock_renewal (
    id          text primary key,
    project_id  text not null references mover.project,
    tier        text not null references mover.tier,
    prefix      text not null,
    retain_s    bigint not null,
    state       text not null default 'running' check (state in ('running', 'done', 'failed')),
    needed      bigint not null default 0,
    renewed     bigint not null default 0,
    brought_back bigint not null default 0,         -- somebody had hidden them
    missing     bigint not null default 0,
    swept       bigint not null default 0,          -- hidden versions that had run out
    explanation text,
    started_at  timestamptz not null default now(),
    finished_at timestamptz
);
create unique index lock_renewal_running on mover.lock_renewal (tier, prefix) where state = 'running';
create index lock_renewal_last on mover.lock_renewal (project_id, tier, prefix, started_at desc);

-- a dump of catalog and vault, sealed for the two key files, on two tiers; made, proved, drilled, gone
create table mover.dump (
    id          text primary key,
    project_id  text not null references mover.project, -- whose records tell of it; it holds every project's rows
    sequence    bigint generated always as identity,
    policy      text not null,
    state       text not null default 'making' check (state in ('making', 'verified', 'failed', 'damaged', 'gone')),
    reason      text,
    explanation text,
    why         text not null,                      -- it was made
    created_by  text not null,
    started_at  timestamptz not null default now(),
    taken_at    timestamptz,                        -- what it holds is of this moment
    pair        text,
    digest      text,
    size_bytes  bigint,
    newest_migration text,
    facts       jsonb,                              -- rows and digest of each table, in the very snapshot
    proof       text,
    verified_kind mover.proof_kind generated always as ('verified') stored,
    verified_at timestamptz,
    drilled_at  timestamptz,
    reasons     text[] not null default '{}',       -- why it stays or went
    gone_at     timestamptz,
    unique (project_id, id),
    foreign key (proof, id, verified_kind) references mover.proof (id, subject_id, kind),
    constraint dump_verified_needs_proof check (state <> 'verified' or (proof is not null and taken_at is not null)),
    check (state not in ('failed', 'damaged') or reason is not null)
);
create unique index dump_making on mover.dump (project_id, policy) where state = 'making';
create index dump_newest on mover.dump (project_id, policy, sequence desc);

-- where it stands; a copy is written down only after it was read back cold
create table mover.dump_copy (
    project_id  text not null references mover.project,
    dump_id     text not null,
    tier        text not null references mover.tier,
    key         text not null,
    state       text not null default 'whole' check (state in ('whole', 'damaged', 'gone')),
    read_at     timestamptz not null default now(), -- last read back whole
    primary key (dump_id, tier),
    foreign key (project_id, dump_id) references mover.dump (project_id, id)
);

-- a drill reads both copies; where both key files are given it restores into a scratch database and compares
create table mover.dump_drill (
    id          text primary key,
    project_id  text not null references mover.project,
    dump_id     text not null,
    kind        text not null check (kind in ('read', 'restore')),
    passed      boolean,                            -- null: it runs
    explanation text,
    tables      integer not null default 0,
    row_count   bigint not null default 0,
    seconds     double precision,
    created_by  text not null,
    started_at  timestamptz not null default now(),
    finished_at timestamptz,
    foreign key (project_id, dump_id) references mover.dump (project_id, id)
);
create index dump_drill_of on mover.dump_drill (project_id, dump_id, started_at desc);

do $$
declare t text;
begin
    foreach t in array array['lock_renewal', 'dump', 'dump_copy', 'dump_drill'] loop
        execute format('alter table mover.%I enable row level security', t);
        execute format('alter table mover.%I force row level security', t);
        execute format('create policy by_project on mover.%I using (project_id = (select mover.current_project()))'
                       ' with check (project_id = (select mover.current_project()))', t);
    end loop;
end $$;

grant select, insert, update on mover.tier_lock, mover.object_lock, mover.lock_renewal, mover.dump, mover.dump_copy,
    mover.dump_drill to mover_daemon;
grant delete on mover.object_lock to mover_daemon;

-- a lock that was written down is never shortened
create function mover.keep_locked() returns trigger language plpgsql as $$
begin
    if new.until < old.until then
        raise exception 'a lock is never shortened' using errcode = 'check_violation';
    end if;
    return new;
end $$;
create trigger keep_locked before update on mover.object_lock for each row execute function mover.keep_locked();
revoke execute on function mover.keep_locked() from public;

reset role;

grant create on schema mover to mover_dispatch;
set role mover_dispatch;

-- how old the newest verified dump of each policy is, whatever project's records tell of it
create function mover.dump_ages() returns table (policy text, age_s double precision)
    language sql stable security definer set search_path = mover, pg_temp as $$
    select d.policy, extract(epoch from now() - max(d.taken_at)) from mover.dump d
     where d.state = 'verified' group by d.policy
$$;

reset role;
revoke create on schema mover from mover_dispatch;
grant select on mover.dump to mover_dispatch;
revoke execute on function mover.dump_ages() from public;
grant execute on function mover.dump_ages() to mover_daemon;
