-- Cohorts are asked of columns: facts packed by the thousand, in places that every slide of a project has. Selections
-- become lists of places.

-- === facts as columns: what cohorts are asked of ===========================================================

set role mover_owner;

-- Where a slide stands in a project's columns: given once, in order, never again. Selections are lists of places.
create table mover.slide_place (
    project_id  text not null references mover.project,
    place       integer not null check (place >= 0),
    number      text not null,
    primary key (project_id, place),
    unique (project_id, number),
    foreign key (project_id, number) references mover.slide_grant (project_id, number)
);

-- One column of 32,768 places, packed (`decide.vectors`). Made from slide and aligned, and made anew at any time:
-- row level security binds it by its own key, so it is read through an index whatever is asked.
create table mover.fact_block (
    project_id  text not null references mover.project,
    name        text not null,                      -- record:<fact> or slide:<column>
    block       integer not null,                   -- place / 32768
    body        bytea not null,
    primary key (project_id, name, block)
);
alter table mover.fact_block alter column body set storage external;

-- Slides whose facts were written since their block was: they are read row by row until it is made anew. A row per
-- write, never updated: two writers of one slide never wait for each other here.
create table mover.fact_mark (
    project_id  text not null references mover.project,
    id          bigint generated always as identity,
    number      text not null,
    primary key (project_id, id)
);

create function mover.mark_facts() returns trigger language plpgsql as $$
begin
    insert into mover.fact_mark (project_id, number) select project_id, number from written;
    return null;
end $$;
revoke execute on function mover.mark_facts() from public;
create trigger mark_facts after insert on mover.slide_grant referencing new table as written
    for each statement execute function mover.mark_facts();
create trigger mark_facts after insert on mover.aligned referencing new table as written
    for each statement execute function mover.mark_facts();
create trigger mark_changed_facts after update on mover.aligned referencing new table as written
    for each statement execute function mover.mark_facts();

-- A frozen list, once for all selections of that root: two bytes a slide.
create table mover.selection_list (
    project_id  text not null references mover.project,
    root        text not null,
    block       integer not null,
    offsets     smallint[] not null,                -- places within the block, ascending
    primary key (project_id, root, block)
);

-- What stands already: every slide its place and a mark, every selection its list. Across projects, so by the role
-- that may see them.
grant select on mover.selection, mover.selection_slide to mover_dispatch;
grant insert on mover.slide_place, mover.fact_mark, mover.selection_list to mover_dispatch;
grant select on mover.slide_place to mover_dispatch;
reset role;
set role mover_dispatch;
insert into mover.slide_place (project_id, place, number)
select project_id, row_number() over (partition by project_id order by granted_at, number) - 1, number from mover.slide_grant;
insert into mover.fact_mark (project_id, number) select project_id, number from mover.slide_grant;
insert into mover.selection_list (project_id, root, block, offsets)
select s.project_id, s.root, p.place / 32768, array_agg(distinct (p.place % 32768)::smallint order by (p.place % 32768)::smallint)
  from mover.selection s join mover.selection_slide x on x.selection_id = s.id
  join mover.slide_place p on p.project_id = s.project_id and p.number = x.number
 group by s.project_id, s.root, p.place / 32768;
reset role;
set role mover_owner;
revoke select on mover.selection, mover.slide_place from mover_dispatch;
revoke insert on mover.slide_place, mover.fact_mark, mover.selection_list from mover_dispatch;
drop table mover.selection_slide;
drop index mover.aligned_facts;

-- The list of a selection, slide by slide.
create view mover.selection_slide with (security_invoker = true) as
    select s.project_id, s.id as selection_id, p.number
      from mover.selection s
      join mover.selection_list l on l.project_id = s.project_id and l.root = s.root
      cross join lateral unnest(l.offsets) as o (at)
      join mover.slide_place p on p.project_id = s.project_id and p.place = l.block * 32768 + o.at;

do $$
declare t text;
begin
    foreach t in array array['slide_place', 'fact_block', 'fact_mark', 'selection_list'] loop
        execute format('alter table mover.%I enable row level security', t);
        execute format('alter table mover.%I force row level security', t);
        execute format('create policy by_project on mover.%I using (project_id = (select mover.current_project()))'
                       ' with check (project_id = (select mover.current_project()))', t);
    end loop;
end $$;

grant select on mover.selection_slide to mover_daemon;
grant select, insert on mover.slide_place, mover.selection_list to mover_daemon;
grant select, insert, update, delete on mover.fact_block to mover_daemon;
grant select, insert, delete on mover.fact_mark to mover_daemon;

reset role;

grant create on schema mover to mover_dispatch;
set role mover_dispatch;

-- projects in which something was written since its columns were
create function mover.projects_marked() returns table (project_id text)
    language sql stable security definer set search_path = mover, pg_temp as $$
    select id from mover.project p where exists (select from mover.fact_mark m where m.project_id = p.id)
$$;

reset role;
revoke create on schema mover from mover_dispatch;
grant select on mover.fact_mark to mover_dispatch;
revoke execute on function mover.projects_marked() from public;
grant execute on function mover.projects_marked() to mover_daemon;
