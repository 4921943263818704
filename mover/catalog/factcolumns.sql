-- name: standing
-- In one moment: how many places there are, which slides were written since their block was, and which places hold a
-- slide that no run takes.
select count(*) as marks, (select coalesce(max(place) + 1, 0) from mover.slide_place) as places,
       array_agg(distinct p.place) filter (where p.place is not null) as marked_places,
       array_agg(distinct m.number) as marked,
       (select array_agg(p.place) from mover.slide_withheld w join mover.slide_place p on p.number = w.number) as withheld
  from (select project_id, number from mover.fact_mark limit %(limit)s) m
  left join mover.slide_place p on p.project_id = m.project_id and p.number = m.number;

-- name: tagged
-- The places of the slides with a tag, or with any.
select array_agg(p.place order by p.place) as places
  from (select distinct number from mover.slide_tag where present and (%(tag)s::text is null or tag = %(tag)s)) t
  join mover.slide_place p using (number);

-- name: tagged_of
-- Of these slides, those with a tag, or with any.
select distinct number from mover.slide_tag
 where number = any (%(numbers)s) and present and (%(tag)s::text is null or tag = %(tag)s);

-- name: blocks
-- These columns of some blocks, each by its key: the rows are few and short, and what they point to is not, which the
-- planner does not know.
select s.block, n.name, b.body
  from generate_series(%(first)s::integer, %(last)s::integer) as s (block)
  cross join unnest(%(names)s::text[]) as n (name)
  cross join lateral (select body from mover.fact_block f where f.name = n.name and f.block = s.block limit 1) b
 order by s.block;

-- name: rows_by_number
-- What a block would hold of these slides, read row by row; not of those that no run takes.
select s.number, s.family, s.extension, s.size_bytes + s.files_bytes as size_bytes, s.facts::text as own,
       a.subject, a.facts::text as facts
  from mover.slide s left join mover.aligned a on a.number = s.number
 where s.number = any (%(numbers)s) and not exists (select from mover.slide_withheld w where w.number = s.number);

-- name: rows_by_place
-- What a block holds, place by place.
select s.number, s.family, s.extension, s.size_bytes + s.files_bytes as size_bytes, s.facts::text as own,
       a.subject, a.facts::text as facts
  from mover.slide_place p join mover.slide s on s.number = p.number left join mover.aligned a on a.number = p.number
 where p.place between %(first)s and %(last)s order by p.place;

-- name: lock_places
-- Places are given one after the other.
select pg_advisory_xact_lock(hashtextextended(%(project)s || '|places', 0));

-- name: place
-- A place for each of these slides that has none.
insert into mover.slide_place (project_id, place, number)
select g.project_id, coalesce((select max(place) from mover.slide_place), -1) + row_number() over (order by g.granted_at, g.number),
       g.number
  from mover.slide_grant g
 where g.number = any (%(numbers)s) and not exists (select from mover.slide_place p where p.number = g.number);

-- name: unplaced
-- Marked slides without a place.
select distinct m.number from mover.fact_mark m
 where not exists (select from mover.slide_place p where p.project_id = m.project_id and p.number = m.number)
 limit %(limit)s;

-- name: drop_strangers
-- Marks of slides that the project may not see: nothing of them is ever asked.
delete from mover.fact_mark m using unnest(%(numbers)s::text[]) as n (number)
 where m.number = n.number
   and not exists (select from mover.slide_grant g where g.project_id = m.project_id and g.number = m.number);

-- name: may_build
-- One builder a project; whoever comes second leaves it to the first.
select pg_try_advisory_xact_lock(hashtextextended(%(project)s || '|columns', 0)) as mine;

-- name: marked_blocks
-- Blocks of which something was written since.
select distinct p.place / %(size)s as block
  from (select project_id, number from mover.fact_mark order by id limit %(marks)s) m
  join mover.slide_place p on p.project_id = m.project_id and p.number = m.number
 order by block limit %(limit)s;

-- name: take_marks
-- Before the block is read, so that what is written from now on leaves a mark of its own.
delete from mover.fact_mark m using mover.slide_place p
 where p.project_id = m.project_id and p.number = m.number and p.place between %(first)s and %(last)s;

-- name: drop_columns
-- Columns that know nothing of this block any more.
delete from mover.fact_block where block = %(block)s and name <> all (%(names)s);

-- name: put_block
-- One column of a block, made anew.
insert into mover.fact_block (project_id, name, block, body) values (%(project)s, %(name)s, %(block)s, %(body)s)
on conflict (project_id, name, block) do update set body = excluded.body;

-- name: projects_marked
-- Where there is something to do, whatever the project.
select project_id from mover.projects_marked();
