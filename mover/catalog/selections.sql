-- name: add_selection
-- A frozen list of slides; its root makes any later difference visible.
insert into mover.selection (id, project_id, cohort_id, expression, count, bytes, root)
values (%(id)s, %(project)s, %(cohort)s, %(expression)s, %(count)s, %(bytes)s, %(root)s);

-- name: add_list
-- One block of a list; the same list is there already when its root is.
insert into mover.selection_list (project_id, root, block, offsets)
values (%(project)s, %(root)s, %(block)s, %(offsets)s::smallint[])
on conflict (project_id, root, block) do nothing;

-- name: slides_at
-- The slides at these places.
select s.number, p.place, s.size_bytes + s.files_bytes as size_bytes, coalesce(s.root, s.digest) as digest
  from mover.slide_place p join mover.slide s on s.number = p.number where p.place = any (%(places)s);

-- name: slides_placed
-- Of these numbers, the slides this project may see, and their places where they have one.
select s.number, p.place, s.size_bytes + s.files_bytes as size_bytes, coalesce(s.root, s.digest) as digest
  from mover.slide s left join mover.slide_place p on p.number = s.number where s.number = any (%(numbers)s);

-- name: withheld
-- Of these numbers, those that no run takes.
select number from mover.slide_withheld where number = any (%(numbers)s);

-- name: withheld_of_selection
-- Slides of a frozen list that no run takes any more. From those, which are few, one by one, and not from the
-- list: the planner does not know how long it is.
select w.number from mover.slide_withheld w
 cross join lateral (select place from mover.slide_place where number = w.number limit 1) p
 cross join lateral (
       select from mover.selection s join mover.selection_list l on l.project_id = s.project_id and l.root = s.root
        where s.id = %(selection)s and l.block = p.place / %(size)s
          and (p.place %% %(size)s)::smallint = any (l.offsets) limit 1) listed
 order by w.number;

-- name: selection
-- A frozen list.
select id as selection_id, count, bytes, root from mover.selection where id = %(selection)s;
