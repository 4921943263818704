-- name: place
-- Where an attempt writes.
select place from mover.transfer_part where transfer_id = %(transfer)s and attempt_id = %(attempt)s and number = 0

-- name: parts
-- Its finished parts.
select number, begins, length, segments, etag from mover.transfer_part
 where transfer_id = %(transfer)s and attempt_id = %(attempt)s and number > 0 order by number

-- name: begin
-- An attempt begins; what an earlier one left was forgotten in the same transaction.
insert into mover.transfer_part (project_id, transfer_id, attempt_id, number, place)
values (%(project)s, %(transfer)s, %(attempt)s, 0, %(place)s)

-- name: finished
-- A part is durable.
insert into mover.transfer_part (project_id, transfer_id, attempt_id, number, begins, length, segments, etag)
values (%(project)s, %(transfer)s, %(attempt)s, %(number)s, %(begins)s, %(length)s, %(segments)s, %(etag)s)
on conflict (transfer_id, attempt_id, number) do update
   set begins = excluded.begins, length = excluded.length, segments = excluded.segments, etag = excluded.etag, at = now()

-- name: forget
-- The attempt was published or given up, or begins anew.
delete from mover.transfer_part where transfer_id = %(transfer)s and attempt_id = %(attempt)s
