-- === cleanup hooks: what the site's own executables said before and after a root went =====================================

set role mover_owner;

-- One row for each hook of a run. `running` is written before it begins, so that a node that was killed leaves it; it is
-- run again then, and what succeeded is not.
create table mover.run_hook (
    project_id   text not null references mover.project,
    run_id       text not null,
    phase        text not null check (phase in ('before-clean', 'after-clean')),
    name         text not null,
    state        text not null check (state in ('running', 'succeeded', 'failed', 'timed-out', 'refused')),
    attempts     integer not null default 1 check (attempts > 0),
    node         text not null,
    exit_status  integer,                           -- negative: the signal that ended it
    why          text,                              -- of one that did not succeed
    output       text,                              -- the end of what it printed, for people who may see the run
    output_bytes bigint,                            -- of all that it printed
    began_at     timestamptz not null default now(),
    ended_at     timestamptz,
    primary key (run_id, phase, name),
    foreign key (project_id, run_id) references mover.run (project_id, id),
    check ((state = 'running') = (ended_at is null))
);
alter table mover.run_hook enable row level security;
alter table mover.run_hook force row level security;
create policy by_project on mover.run_hook using (project_id = (select mover.current_project()))
    with check (project_id = (select mover.current_project()));
grant select, insert, update on mover.run_hook to mover_daemon;

reset role;
