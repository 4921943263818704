-- === lineage: what a run's begin and end tell a service outside ===========================================================

set role mover_owner;

-- Somebody delivers events, and when he last looked. Where nobody did for a day none are collected.
create table mover.lineage_reader (
    one     boolean primary key default true check (one),
    seen_at timestamptz not null default now()
);

-- The outbox: written with the change it tells of, removed when it is delivered.
create table mover.lineage (
    project_id  text not null references mover.project,
    run_id      text not null,
    event       text not null check (event in ('START', 'COMPLETE', 'FAIL', 'ABORT')),
    at          timestamptz not null default clock_timestamp(),
    not_before  timestamptz not null default now(),     -- taken, or tried in vain, until then
    attempts    integer not null default 0,
    primary key (run_id, event),
    foreign key (project_id, run_id) references mover.run (project_id, id)
);
create index lineage_due on mover.lineage (not_before, at);
alter table mover.lineage enable row level security;
alter table mover.lineage force row level security;
create policy by_project on mover.lineage using (project_id = (select mover.current_project()))
    with check (project_id = (select mover.current_project()));
grant select, insert, update, delete on mover.lineage to mover_daemon;
grant select, insert, update on mover.lineage_reader to mover_daemon;

-- A run begins when it is ready for the first time and ends when what it left is proved protected: by its job's exit
-- status, or because it was given up or nobody kept its lease.
create function mover.tell_lineage() returns trigger language plpgsql as $$
begin
    if exists (select from mover.lineage_reader where seen_at > now() - interval '1 day') then
        insert into mover.lineage (project_id, run_id, event) values (new.project_id, new.id, case
            when old.ready_proof is null then 'START'
            when new.reason in ('lease-expired', 'cancelled') then 'ABORT'
            when coalesce((new.finish ->> 'exit')::bigint, 0) <> 0 then 'FAIL'
            else 'COMPLETE' end)
        on conflict do nothing;
    end if;
    return null;
end $$;
revoke execute on function mover.tell_lineage() from public;
create trigger tell_lineage after update on mover.run for each row
    when ((old.ready_proof is null and new.ready_proof is not null)
       or (old.protected_proof is null and new.protected_proof is not null))
    execute function mover.tell_lineage();

reset role;

grant select, update on mover.lineage to mover_dispatch;
grant create on schema mover to mover_dispatch;
set role mover_dispatch;

-- Events that are due, whatever the project, taken for so long by whoever asks: two daemons do not tell the same one
-- at once, and one that dies lets go of it.
create function mover.lineage_take(in_limit integer, in_for_s integer)
    returns table (project_id text, run_id text, event text, at timestamptz, attempts integer)
    language sql security definer set search_path = mover, pg_temp as $$
    update mover.lineage l set not_before = now() + make_interval(secs => in_for_s), attempts = l.attempts + 1
      from (select d.run_id, d.event from mover.lineage d where d.not_before <= now()
             order by d.not_before, d.at limit in_limit for update skip locked) due
     where l.run_id = due.run_id and l.event = due.event
    returning l.project_id, l.run_id, l.event, l.at, l.attempts
$$;

reset role;
revoke create on schema mover from mover_dispatch;
revoke execute on function mover.lineage_take(integer, integer) from public;
grant execute on function mover.lineage_take(integer, integer) to mover_daemon;
