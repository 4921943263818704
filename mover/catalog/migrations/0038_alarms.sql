-- === alarms: needs that stand, and who was told ====================================================================

set role mover_owner;

create table mover.alarm (
    project_id  text not null references mover.project,
    id          text primary key,
    key         text not null,                      -- what makes it the same at the next look
    code        text not null,
    severity    text not null check (severity in ('now', 'soon', 'know')),
    noun        text not null,
    subject     text,
    words       text not null,
    hint        text not null,
    count       bigint not null,
    opened_at   timestamptz not null default now(),
    closed_at   timestamptz,
    told_at     timestamptz,
    told_count  bigint not null default 0,
    unique (project_id, id)
);
create unique index alarm_standing on mover.alarm (project_id, key) where closed_at is null;
create index alarm_newest on mover.alarm (project_id, opened_at desc, id desc);

-- The outbox: one row for each receiver and each thing that is said; it stays as the record of who was told.
create table mover.alarm_telling (
    project_id  text not null,
    alarm_id    text not null,
    seq         bigint generated always as identity,
    receiver    text not null,
    event       text not null check (event in ('opened', 'grew', 'reminded', 'closed')),
    at          timestamptz not null default now(),
    words       text not null,
    count       bigint not null,
    not_before  timestamptz not null default now(),
    attempts    integer not null default 0,
    told_at     timestamptz,
    given_up_at timestamptz,
    primary key (alarm_id, seq),
    foreign key (project_id, alarm_id) references mover.alarm (project_id, id)
);
create index alarm_telling_due on mover.alarm_telling (project_id, not_before)
    where told_at is null and given_up_at is null;

do $$
declare t text;
begin
    foreach t in array array['alarm', 'alarm_telling'] loop
        execute format('alter table mover.%I enable row level security', t);
        execute format('alter table mover.%I force row level security', t);
        execute format('create policy by_project on mover.%I using (project_id = (select mover.current_project()))'
                       ' with check (project_id = (select mover.current_project()))', t);
        execute format('grant select, insert, update on mover.%I to mover_daemon', t);
    end loop;
end $$;

reset role;
