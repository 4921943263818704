-- === what claims to be clean ==============================================================================

set role mover_owner;

-- a verify-only scan of a place on a deidentified tier; `root` is the digest over all its verdicts
create table mover.adoption (
    id          text primary key,
    project_id  text not null references mover.project,
    tier        text not null references mover.tier,
    prefix      text not null,
    state       text not null default 'scanning' check (state in ('scanning', 'complete', 'failed')),
    trust_names boolean not null,
    reason      text not null,                      -- of whoever asked: who says that it is clean
    explanation text,
    judged_by   text,                               -- software and profile
    root        text check (root ~ '^[0-9a-f]{64}$'),
    created_by  text not null,
    created_at  timestamptz not null default now(),
    finished_at timestamptz,
    unique (project_id, id),
    check (state <> 'complete' or root is not null)
);
create index adoption_project on mover.adoption (project_id, created_at desc);

-- one file and the verdict about these bytes of it; `reasons` by place and masked shape
create table mover.adoption_file (
    project_id  text not null references mover.project,
    adoption_id text not null,
    key         bytea not null,
    verdict     text not null check (verdict in ('clean', 'suspect', 'refused', 'unjudged')),
    family      text not null default '',
    size_bytes  bigint not null,
    digest      text check (digest ~ '^[0-9a-f]{64}$'),
    reasons     jsonb not null default '[]',
    primary key (adoption_id, key),
    foreign key (project_id, adoption_id) references mover.adoption (project_id, id),
    check (verdict <> 'clean' or digest is not null)
);

do $$
declare t text;
begin
    foreach t in array array['adoption', 'adoption_file'] loop
        execute format('alter table mover.%I enable row level security', t);
        execute format('alter table mover.%I force row level security', t);
        execute format('create policy by_project on mover.%I using (project_id = (select mover.current_project()))'
                       ' with check (project_id = (select mover.current_project()))', t);
    end loop;
end $$;
grant select, insert, update on mover.adoption to mover_daemon;
grant select, insert on mover.adoption_file to mover_daemon;

reset role;
