-- name: add_proof
-- A trigger checks what the database can check for itself; a state then points at the row.
insert into mover.proof (id, project_id, kind, subject_id, count, bytes, root, verifier, details)
values (%(id)s, %(project)s, %(kind)s, %(subject)s, %(count)s, %(bytes)s, %(root)s, %(verifier)s, %(details)s);

-- name: proofs_of_subjects
-- In the order they were given; one subject has a handful.
select subject_id, id, kind::text, count, bytes, root, verifier, at
  from mover.proof where subject_id = any (%(subjects)s) order by at, id limit %(limit)s;
