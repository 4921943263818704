-- name: lock
-- Changes of one tag come one after the other.
select pg_advisory_xact_lock(hashtextextended(%(project)s || '|tag|' || %(tag)s, 0))

-- name: tags
-- Every tag that a slide has.
select t.tag, count(*) as slides, sum(s.size_bytes + s.files_bytes)::bigint as bytes, max(c.created_at) as changed_at
  from mover.slide_tag t join mover.slide s using (number) join mover.tag_change c on c.id = t.change_id
 where t.present group by t.tag order by slides desc, t.tag limit %(limit)s

-- name: known
-- Whether a slide has this tag now, and how many others there are.
select exists (select from mover.slide_tag where present and tag = %(tag)s) as used,
       (select count(distinct tag) from mover.slide_tag where present and tag <> %(tag)s) as others

-- name: would
-- Of these slides, those that a change would change, and how many bytes they are.
select count(*) as count, coalesce(sum(s.size_bytes + s.files_bytes), 0)::bigint as bytes
  from mover.slide s left join mover.slide_tag t on t.number = s.number and t.tag = %(tag)s
 where s.number = any (string_to_array(%(numbers)s, ' ')) and coalesce(t.present, false) <> %(present)s

-- name: change
-- Who says so, of how many slides.
insert into mover.tag_change (project_id, id, tag, action, chosen, count, bytes, reason, undoes, created_by)
values (%(project)s, %(id)s, %(tag)s, %(action)s, %(chosen)s, %(count)s, %(bytes)s, %(reason)s, %(undoes)s, %(actor)s)

-- name: put
-- The tag on those that did not have it.
insert into mover.slide_tag as t (project_id, tag, number, present, change_id)
select %(project)s, %(tag)s, n, true, %(change)s from unnest(string_to_array(%(numbers)s, ' ')) as n
on conflict (project_id, tag, number) do update set present = true, change_id = excluded.change_id where not t.present

-- name: take
-- The tag off those that had it.
update mover.slide_tag set present = false, change_id = %(change)s
 where tag = %(tag)s and number = any (string_to_array(%(numbers)s, ' ')) and present

-- name: by_id
-- One change, and which one took it back.
select c.id, c.tag, c.action, c.chosen, c.count, c.bytes, c.reason, c.undoes, u.id as undone_by, c.created_by, c.created_at
  from mover.tag_change c left join mover.tag_change u on u.undoes = c.id where c.id = %(id)s

-- name: still
-- What of a change stands as it left it.
select count(*) as count, coalesce(sum(s.size_bytes + s.files_bytes), 0)::bigint as bytes
  from mover.slide_tag t join mover.slide s using (number) where t.change_id = %(id)s

-- name: since
-- Who changed it since: the newest few.
select c.id, c.created_by from mover.tag_change c
 where c.tag = %(tag)s and c.id > %(id)s order by c.id desc limit %(limit)s

-- name: undo
-- Each slide as it was before: a change touches only what it turns round.
update mover.slide_tag set present = not present, change_id = %(change)s where change_id = %(id)s

-- name: page
-- Changes, the newest first.
select c.id, c.tag, c.action, c.chosen, c.count, c.bytes, c.reason, c.undoes, u.id as undone_by, c.created_by, c.created_at
  from mover.tag_change c left join mover.tag_change u on u.undoes = c.id
 where (%(tag)s::text is null or c.tag = %(tag)s) and (%(after)s::text is null or c.id < %(after)s)
 order by c.id desc limit %(limit)s
