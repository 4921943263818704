-- === runs: in what order they are let in, what is learnt from them, and what happened to them ==============================

set role mover_owner;

alter table mover.run
    add column priority smallint not null default 0 check (priority between -10 and 10),
    add column deadline timestamptz,                -- of no use to the requester when it is not let in by then
    add column wanted_files bigint not null default 0,  -- entries it asked for, and their bytes
    add column wanted_bytes bigint not null default 0,
    add column copy_bytes bigint,                   -- of those, what did not stand on the flash when it was let in
    add column admitted_at timestamptz;

create index run_waiting on mover.run (tier, priority desc, deadline, created_at, id) where state = 'requested';
create index run_staged on mover.run (tier, ready_at desc) where ready_at is not null;
create index run_entry_unstaged on mover.run_entry (run_id) include (size_bytes) where staged_at is null;

-- Every state a run was in, and since when: who watches it goes on where it was cut off.
create table mover.run_event (
    project_id  text not null references mover.project,
    run_id      text not null,
    seq         bigint generated always as identity,
    state       mover.run_state not null,
    reason      text,
    at          timestamptz not null default clock_timestamp(),
    primary key (run_id, seq),
    foreign key (project_id, run_id) references mover.run (project_id, id)
);
alter table mover.run_event enable row level security;
alter table mover.run_event force row level security;
create policy by_project on mover.run_event using (project_id = (select mover.current_project()))
    with check (project_id = (select mover.current_project()));
grant select, insert on mover.run_event to mover_daemon;

-- Nobody can watch a run before it is there, so its first state wakes nobody: commits that notify wait for each other.
create function mover.tell_run() returns trigger language plpgsql as $$
begin
    insert into mover.run_event (project_id, run_id, state, reason) values (new.project_id, new.id, new.state, new.reason);
    if tg_op = 'UPDATE' then
        perform pg_notify('mover_runs', new.id);
    end if;
    return null;
end $$;
revoke execute on function mover.tell_run() from public;
create trigger tell_new_run after insert on mover.run for each row execute function mover.tell_run();
create trigger tell_run after update of state on mover.run for each row
    when (old.state is distinct from new.state) execute function mover.tell_run();

-- what stands already, across projects
alter table mover.run no force row level security;
alter table mover.selection no force row level security;
update mover.run r set wanted_bytes = s.bytes, wanted_files = s.count,
       admitted_at = case when r.state not in ('requested', 'refused') and r.reserved_bytes > 0 then r.created_at end
  from mover.selection s where s.id = r.selection_id;
alter table mover.run force row level security;
alter table mover.selection force row level security;

reset role;

grant create on schema mover to mover_dispatch;
set role mover_dispatch;

drop function mover.runs_waiting(text, integer);

-- a promise ends when the root is gone, and not before
create or replace function mover.tier_reserved(in_tier text) returns bigint
    language sql stable security definer set search_path = mover, pg_temp as $$
    select coalesce(sum(reserved_bytes), 0) from mover.run where tier = in_tier and reserved_bytes > 0
$$;

-- runs that wait for space on a tier, whatever the project: the more important first, then who needs it sooner, then
-- who came first
create function mover.run_queue(in_tier text, in_limit integer)
    returns table (run_id text, project_id text, selection_id text, policy text, bytes bigint, overdue boolean)
    language sql stable security definer set search_path = mover, pg_temp as $$
    select id, project_id, selection_id, policy, wanted_bytes, coalesce(deadline < now(), false) from mover.run
     where tier = in_tier and state = 'requested'
     order by priority desc, deadline, created_at, id limit in_limit
$$;

-- what runs hold on a tier, whatever the project, and for how long they have: a promise ends when the root is gone
create function mover.run_holders(in_tier text) returns table (bytes bigint, held_s double precision)
    language sql stable security definer set search_path = mover, pg_temp as $$
    select reserved_bytes, extract(epoch from now() - coalesce(admitted_at, created_at)) from mover.run
     where tier = in_tier and reserved_bytes > 0
$$;

-- runs that were let in and whose staging has not begun: whoever let them in may have died
create function mover.runs_admitted(in_tier text, in_limit integer) returns table (run_id text, project_id text)
    language sql stable security definer set search_path = mover, pg_temp as $$
    select id, project_id from mover.run where tier = in_tier and state = 'admitted' order by admitted_at, id limit in_limit
$$;

-- how long the newest runs of these policies took to be staged: bytes, files and seconds, no names
create function mover.run_paces(in_tier text, in_policies text[], in_limit integer)
    returns table (copy_bytes bigint, files bigint, seconds double precision)
    language sql stable security definer set search_path = mover, pg_temp as $$
    select copy_bytes, wanted_files, extract(epoch from ready_at - admitted_at) from mover.run
     where tier = in_tier and ready_at is not null and admitted_at is not null and copy_bytes is not null
       and policy = any (in_policies)
     order by ready_at desc limit in_limit
$$;

-- for how long the newest runs of a tier held their place
create function mover.run_holds(in_tier text, in_limit integer) returns table (seconds double precision)
    language sql stable security definer set search_path = mover, pg_temp as $$
    select extract(epoch from cleaned_at - admitted_at) from mover.run
     where tier = in_tier and ready_at is not null and state = 'cleaned' and admitted_at is not null
     order by ready_at desc limit in_limit
$$;

reset role;
revoke create on schema mover from mover_dispatch;
revoke execute on function mover.run_queue(text, integer), mover.run_holders(text), mover.runs_admitted(text, integer),
    mover.run_paces(text, text[], integer), mover.run_holds(text, integer) from public;
grant execute on function mover.run_queue(text, integer), mover.run_holders(text), mover.runs_admitted(text, integer),
    mover.run_paces(text, text[], integer), mover.run_holds(text, integer) to mover_daemon;
