-- name: insert_artifact
-- A protected file with its digest, so that cleanup can tell it from a changed one.
insert into mover.artifact (project_id, snapshot_id, path, size_bytes, digest)
values (%(project)s, %(snapshot)s, %(path)s, %(size_bytes)s, %(digest)s)
