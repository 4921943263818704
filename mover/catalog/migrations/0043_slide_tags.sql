-- === tags on slides, and when a slide was last looked at ==========================================================

set role mover_owner;

-- One change: a tag put on some slides, or taken off them; or the taking back of an earlier one. What was chosen, and
-- not who: an expression or a place on a tier, never a list of what is in it.
create table mover.tag_change (
    project_id  text not null references mover.project,
    id          text primary key,
    tag         text not null check (tag ~ '^[a-z][a-z0-9:._-]{0,39}$'),
    action      text not null check (action in ('add', 'remove')),
    chosen      text not null,
    count       bigint not null check (count >= 0), -- slides that it changed
    bytes       bigint not null check (bytes >= 0),
    reason      text not null,
    undoes      text,
    created_by  text not null,
    created_at  timestamptz not null default now(),
    unique (project_id, id),
    foreign key (project_id, undoes) references mover.tag_change (project_id, id)
);
create unique index tag_change_undone on mover.tag_change (undoes) where undoes is not null;
create index tag_change_newest on mover.tag_change (project_id, id desc);

-- A slide and a tag that it ever had, with the change that said so last: taking a change back touches what still
-- carries its id, and nothing that somebody changed since.
create table mover.slide_tag (
    project_id  text not null references mover.project,
    tag         text not null,
    number      text not null,
    present     boolean not null,
    change_id   text not null,
    primary key (project_id, tag, number),
    foreign key (project_id, number) references mover.slide_grant (project_id, number),
    foreign key (project_id, change_id) references mover.tag_change (project_id, id)
);
create index slide_tag_number on mover.slide_tag (project_id, number) where present;
create index slide_tag_change on mover.slide_tag (project_id, change_id);

-- When somebody last looked at a slide, to the hour; who it was stands in the audit.
create table mover.slide_view (
    project_id  text not null references mover.project,
    number      text not null,
    at          timestamptz not null default now(),
    primary key (project_id, number),
    foreign key (project_id, number) references mover.slide_grant (project_id, number)
);

do $$
declare t text;
begin
    foreach t in array array['tag_change', 'slide_tag', 'slide_view'] loop
        execute format('alter table mover.%I enable row level security', t);
        execute format('alter table mover.%I force row level security', t);
        execute format('create policy by_project on mover.%I using (project_id = (select mover.current_project()))'
                       ' with check (project_id = (select mover.current_project()))', t);
    end loop;
end $$;
grant select, insert on mover.tag_change to mover_daemon;
grant select, insert, update on mover.slide_tag, mover.slide_view to mover_daemon;

-- When a slide was last staged for a run (a run that is not over uses it now), of the thousand lists that were used last,
-- and when somebody last looked at it. Most slides have neither.
create view mover.slide_used with (security_invoker = true) as
    with staged as materialized (
        select s.root, max(case when r.state in ('ready', 'finishing') then now() else coalesce(r.finished_at, r.ready_at) end) as at
          from mover.run r join mover.selection s on s.project_id = r.project_id and s.id = r.selection_id
         where r.ready_at is not null group by s.root order by at desc limit 1000)
    select number, max(staged_at) as staged_at, max(viewed_at) as viewed_at
      from (select p.number, u.at as staged_at, null::timestamptz as viewed_at
              from staged u join mover.selection_list l on l.root = u.root cross join lateral unnest(l.offsets) as o (at)
              join mover.slide_place p on p.project_id = l.project_id and p.place = l.block * 32768 + o.at
             union all
            select number, null, at from mover.slide_view) one
     group by number;

-- When a run whose files stand gave its last sign: it was ready, it was kept alive, it finished.
create view mover.run_used with (security_invoker = true) as
    select id, tier, selection_id, greatest(ready_at, finished_at, lease_until - lease_s * interval '1 second') as at
      from mover.run where ready_at is not null and cleaned_at is null;
grant select on mover.slide_used, mover.run_used to mover_daemon;

reset role;
