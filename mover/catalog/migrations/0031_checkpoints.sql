-- === checkpoints of the audit: where the chains ended, signed, and which tiers have them ==========================

set role mover_owner;

create table mover.checkpoint (
    project_id  text not null references mover.project,
    n           bigint not null check (n >= 1),
    at          timestamptz not null default clock_timestamp(),
    digest      text not null check (digest ~ '^[0-9a-f]{64}$'),
    fingerprint text not null,                      -- of the public key that signed
    body        text not null,                      -- as it stands on the tiers, byte for byte
    primary key (project_id, n)
);

create table mover.checkpoint_copy (
    project_id  text not null,
    n           bigint not null,
    tier        text not null references mover.tier,
    at          timestamptz not null default clock_timestamp(),
    primary key (project_id, n, tier),
    foreign key (project_id, n) references mover.checkpoint
);

create index audit_actor on mover.audit_record (project_id, ((body::jsonb) ->> 'actor'), at desc);
create index audit_at on mover.audit_record (project_id, at desc, node desc, seq desc);

do $$
declare t text;
begin
    foreach t in array array['checkpoint', 'checkpoint_copy'] loop
        execute format('alter table mover.%I enable row level security', t);
        execute format('alter table mover.%I force row level security', t);
        execute format('create policy by_project on mover.%I using (project_id = (select mover.current_project()))'
                       ' with check (project_id = (select mover.current_project()))', t);
        execute format('grant select, insert on mover.%I to mover_daemon', t);
    end loop;
end $$;

reset role;
