-- name: find_by_hash
-- Whose secret has this SHA-256: the live token of whatever project, through the one function that may look.
select id, actor, role, project_id, posix_uid, posix_gid, scopes, created_at, expires_at
  from mover.token_by_hash(%(hash)s);

-- name: still_in
-- Who of these callers may still, each in its project, and in which role.
select proof, project_id, role from mover.still_in(%(proofs)s, %(projects)s);

-- name: add
-- A new token and its audit record, by the one function that makes them. A secret that is already known changes nothing.
select mover.token_add(%(id)s, %(hash)s, %(actor)s, %(role)s, %(posix_uid)s, %(posix_gid)s, %(expires_at)s,
                       %(maker)s, %(by)s, %(node)s, %(request)s, %(scopes)s, %(own)s) as added;

-- name: of_project
-- Every token of a project, or of one account in it, newest first.
select t.id, t.actor, t.role, t.created_at, t.expires_at, t.revoked_at, t.last_used_at, t.scopes, a.name as account
  from mover.token t left join mover.account a on a.id = t.account_id
 where t.project_id = %(project)s and (%(account)s::text is null or t.account_id = %(account)s)
 order by t.created_at desc, t.id desc limit %(limit)s;

-- name: revoke
-- From the commit on, the secret opens nothing; asked again it changes nothing and returns no row.
update mover.token set revoked_at = now()
 where id = %(id)s and project_id = %(project)s and revoked_at is null
   and (%(account)s::text is null or account_id = %(account)s)
returning role;

-- name: of_id
-- One token of this project, live or not.
select t.id, t.actor, t.role, t.created_at, t.expires_at, t.revoked_at, t.last_used_at, t.scopes, a.name as account
  from mover.token t left join mover.account a on a.id = t.account_id
 where t.id = %(id)s and t.project_id = %(project)s and (%(account)s::text is null or t.account_id = %(account)s);

-- name: ensure_project
-- The project of the settings exists before its first token does.
insert into mover.project (id) values (%(project)s) on conflict do nothing;
