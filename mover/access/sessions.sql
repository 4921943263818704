-- name: account_ask
-- What the key of a name's password is made with, and whether its person came from this address before.
select id, salt, cost, known_origin from mover.account_ask(%(name)s, %(address)s);

-- name: open
-- A session of the account whose name and key these are; null for whatever else.
select mover.session_open(%(name)s, %(key)s, %(id)s, %(hash)s, %(address)s, %(idle_s)s, %(life_s)s) as account;

-- name: open_token
-- A session of a live token; null for whatever else.
select mover.session_open_token(%(token)s, %(id)s, %(hash)s, %(address)s, %(idle_s)s, %(life_s)s) as token;

-- name: open_provider
-- A session of whom the identity provider vouches for, and what became of their roles.
select account, project, role, was, %(name)s as name
  from mover.session_open_provider(%(issuer)s, %(subject)s, %(account)s, %(name)s, %(roles)s, %(id)s, %(hash)s,
                                   %(address)s, %(idle_s)s, %(life_s)s);

-- name: by_hash
-- Whose session this is, in the project asked for, else in the one they look at.
select id, kind, account_id, actor, role, project_id, posix_uid, posix_gid, scopes, created_at, ends_at
  from mover.session_by_hash(%(hash)s, %(project)s, %(home)s);

-- name: of_hash
-- The same for a page that asks by itself: nobody sits at it, and it keeps no session from being idle.
select id, kind, account_id, actor, role, project_id, posix_uid, posix_gid, scopes, created_at, ends_at
  from mover.session_of(%(hash)s, %(project)s, %(home)s);

-- name: projects
-- Where an account has which role.
select p.project_id as project, p.role, a.name
  from mover.account_projects(%(account)s) p join mover.account a on a.id = %(account)s order by p.project_id;

-- name: choose
-- The project that a session looks at from now on.
select mover.session_choose(%(hash)s, %(project)s) as chosen;

-- name: end
-- A session, or all of its account's.
select mover.session_end(%(hash)s, %(every)s) as ended;

-- name: repass
-- One's own password, with the one before; null where that is another.
select mover.account_repass(%(old)s, %(salt)s, %(cost)s, %(verifier)s, %(proof)s, %(node)s, %(request)s) as ended;
