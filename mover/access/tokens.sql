-- name: find_by_hash
-- Whose secret has this SHA-256: the live token of whatever project, through the one function that may look.
select id, actor, role, project_id, posix_uid, posix_gid from mover.token_by_hash(%(hash)s);

-- name: add
-- A new token and its audit record, by the one function that makes them. A secret that is already known changes nothing.
select mover.token_add(%(id)s, %(hash)s, %(actor)s, %(role)s, %(posix_uid)s, %(posix_gid)s, %(expires_at)s,
                       %(maker)s, %(by)s, %(node)s, %(request)s) as added;

-- name: of_project
-- Every token of a project, newest first; the table is instance-wide, so the project stands in the question.
select id, actor, role, created_at, expires_at, revoked_at
  from mover.token where project_id = %(project)s order by created_at desc, id desc limit %(limit)s;

-- name: revoke
-- From the commit on, the secret opens nothing; asked again it changes nothing and returns no row.
update mover.token set revoked_at = now()
 where id = %(id)s and project_id = %(project)s and revoked_at is null
returning id, actor, role, created_at, expires_at, revoked_at;

-- name: of_id
-- One token of this project, live or not.
select id, actor, role, created_at, expires_at, revoked_at
  from mover.token where id = %(id)s and project_id = %(project)s;

-- name: ensure_project
-- The project of the settings exists before its first token does.
insert into mover.project (id) values (%(project)s) on conflict do nothing;
