-- name: add
-- An account and its role in this project, with their audit record.
select mover.account_add(%(id)s, %(name)s, %(role)s, %(salt)s, %(cost)s, %(verifier)s, %(expires_at)s, %(posix_uid)s,
                         %(posix_gid)s, %(proof)s, %(actor)s, %(node)s, %(request)s);

-- name: of_project
-- The accounts that have, or had, a role in this project: one of them, or all.
select a.name, g.role, a.cost is not null as password, a.issuer is not null as provider, a.created_at, a.expires_at,
       a.disabled_at, s.seen_at as last_seen_at, coalesce(s.live, 0) as sessions
  from mover.account_grant g join mover.account a on a.id = g.account_id
  left join lateral (
       select max(seen_at) as seen_at, count(*) filter (
                  where ended_at is null and ends_at > now() and seen_at + make_interval(secs => idle_s) > now()) as live
         from mover.session where account_id = a.id) s on true
 where %(name)s::text is null or lower(a.name) = lower(%(name)s)
 order by lower(a.name) limit %(limit)s;

-- name: role
-- A role in this project, or none, with its audit record.
select mover.account_role(%(name)s, %(role)s, %(proof)s, %(actor)s, %(node)s, %(request)s);

-- name: password
-- Another password, with its audit record; the account's sessions end.
select mover.account_password(%(name)s, %(salt)s, %(cost)s, %(verifier)s, %(proof)s, %(actor)s, %(node)s, %(request)s);

-- name: disable
-- The account signs nobody in, or does again, with its audit record.
select mover.account_disable(%(name)s, %(disabled)s, %(proof)s, %(actor)s, %(node)s, %(request)s);

-- name: signed_out
-- All sessions of the account end, with the audit record.
select mover.account_signed_out(%(name)s, %(proof)s, %(actor)s, %(node)s, %(request)s) as ended;

-- name: project_is_known
-- Is there such a project?
select exists (select from mover.project where id = %(project)s) as known;
