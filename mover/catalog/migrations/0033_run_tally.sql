-- === runs: how far each is, and in which order its entries came ===================================================

set role mover_owner;

-- Kept by whoever writes entries, so that nobody who watches counts them. Narrow and rewritten often: room in the page.
create table mover.run_tally (
    project_id  text not null,
    run_id      text primary key,
    files       bigint not null default 0,
    bytes       bigint not null default 0,
    staged_files bigint not null default 0,
    staged_bytes bigint not null default 0,
    linked_files bigint not null default 0,
    turns       bigint not null default 0,          -- transactions that staged something, in the order of their commits
    foreign key (project_id, run_id) references mover.run (project_id, id)
) with (fillfactor = 50);
alter table mover.run_tally enable row level security;
alter table mover.run_tally force row level security;
create policy by_project on mover.run_tally using (project_id = (select mover.current_project()))
    with check (project_id = (select mover.current_project()));
grant select, insert, update on mover.run_tally to mover_daemon;

-- In which turn an entry was staged. What was staged before turns were counted came in none.
alter table mover.run_entry add column staged_in bigint not null default 0;
create index run_entry_staged on mover.run_entry (run_id, staged_in, path) where staged_at is not null;

-- A transaction takes its turn with the run's row, which it holds until its commit: so whoever follows by (turn, path)
-- never sees an entry appear behind it.
create function mover.take_turn() returns trigger language plpgsql as $$
declare taken text := current_setting('mover.turn', true);  -- of this transaction, and of which run
begin
    if new.staged_at is null then
        new.staged_in := 0;
    elsif split_part(taken, ' ', 1) = new.run_id then
        new.staged_in := split_part(taken, ' ', 2);
    else
        insert into mover.run_tally as t (project_id, run_id, turns) values (new.project_id, new.run_id, 1)
            on conflict (run_id) do update set turns = t.turns + 1 returning turns into new.staged_in;
        perform set_config('mover.turn', new.run_id || ' ' || new.staged_in, true);
    end if;
    return new;
end $$;
create trigger take_turn before insert on mover.run_entry
    for each row when (new.staged_at is not null) execute function mover.take_turn();
create trigger take_another_turn before update on mover.run_entry
    for each row when ((new.staged_at is null) <> (old.staged_at is null)) execute function mover.take_turn();

create function mover.tally_new_entries() returns trigger language plpgsql as $$
begin
    insert into mover.run_tally as t (project_id, run_id, files, bytes, staged_files, staged_bytes, linked_files)
    select project_id, run_id, count(*), sum(size_bytes), count(staged_at),
           coalesce(sum(size_bytes) filter (where staged_at is not null), 0), count(*) filter (where staged_how = 'linked')
      from written group by project_id, run_id
    on conflict (run_id) do update
       set files = t.files + excluded.files, bytes = t.bytes + excluded.bytes,
           staged_files = t.staged_files + excluded.staged_files, staged_bytes = t.staged_bytes + excluded.staged_bytes,
           linked_files = t.linked_files + excluded.linked_files;
    return null;
end $$;
create trigger tally_new_entries after insert on mover.run_entry referencing new table as written
    for each statement execute function mover.tally_new_entries();

create function mover.tally_entries() returns trigger language plpgsql as $$
begin
    update mover.run_tally t
       set bytes = t.bytes + d.bytes, staged_files = t.staged_files + d.staged_files,
           staged_bytes = t.staged_bytes + d.staged_bytes, linked_files = t.linked_files + d.linked_files
      from (select run_id, sum(sign * size_bytes) as bytes, sum(sign) filter (where staged_at is not null) as staged_files,
                   sum(sign * size_bytes) filter (where staged_at is not null) as staged_bytes,
                   sum(sign) filter (where staged_how = 'linked') as linked_files
              from (select 1 as sign, * from became union all select -1, * from was) entry group by run_id) c
      cross join lateral (select c.bytes, coalesce(c.staged_files, 0) as staged_files,
                                 coalesce(c.staged_bytes, 0) as staged_bytes, coalesce(c.linked_files, 0) as linked_files) d
     where t.run_id = c.run_id;
    return null;
end $$;
create trigger tally_entries after update on mover.run_entry referencing old table as was new table as became
    for each statement execute function mover.tally_entries();
revoke execute on function mover.take_turn(), mover.tally_new_entries(), mover.tally_entries() from public;

-- what stands already, across projects
alter table mover.run_entry no force row level security;
alter table mover.run_tally no force row level security;
insert into mover.run_tally (project_id, run_id, files, bytes, staged_files, staged_bytes, linked_files)
select project_id, run_id, count(*), sum(size_bytes), count(staged_at),
       coalesce(sum(size_bytes) filter (where staged_at is not null), 0), count(*) filter (where staged_how = 'linked')
  from mover.run_entry group by project_id, run_id;
alter table mover.run_entry force row level security;
alter table mover.run_tally force row level security;

reset role;
