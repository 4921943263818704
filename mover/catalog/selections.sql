-- name: add_selection
-- A frozen list of slides; its root makes any later difference visible.
insert into mover.selection (id, project_id, cohort_id, expression, count, bytes, root)
values (%(id)s, %(project)s, %(cohort)s, %(expression)s, %(count)s, %(bytes)s, %(root)s);

-- name: add_selection_slides
-- The list itself, by number.
insert into mover.selection_slide (project_id, selection_id, number)
select %(project)s, %(selection)s, n from unnest(%(numbers)s::text[]) as n;

-- name: slides_by_number
-- Of these numbers, the slides this project may see.
select number, size_bytes + files_bytes as size_bytes, coalesce(root, digest) as digest from mover.slide where number = any (%(numbers)s) order by number;

-- name: withdrawn
-- Of these numbers, those that were withdrawn at this site, or whose every pack in this project waits in quarantine.
select number from mover.slide_withdrawal where number = any (%(numbers)s)
 union
select number from mover.pack where number = any (%(numbers)s)
 group by number having bool_and(state in ('quarantined', 'excluded'));

-- name: withdrawn_of_selection
-- Slides of a frozen list that were withdrawn since.
select x.number from mover.selection_slide x join mover.slide_withdrawal w using (number)
 where x.selection_id = %(selection)s order by x.number limit %(limit)s;
