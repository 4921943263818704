-- === a session that nobody sits at ================================================================================

grant create on schema mover to mover_dispatch;
set role mover_dispatch;

-- Somebody sits at this session: it is not idle.
create function mover.session_seen(in_hash bytea) returns void
    language sql security definer set search_path = mover, pg_temp as $$
    update mover.session set seen_at = now() where id = (
        select s.id from mover.session s where s.hash = in_hash and mover.session_live(s)
           and s.seen_at < now() - least(interval '1 minute', make_interval(secs => s.idle_s / 4)) for update skip locked)
$$;

-- A live session, and who is in it: in the project that is asked for, else in the one chosen, else at home. Without a role
-- there the project is null. A page that asks by itself, with nobody before it, is told the same and keeps nothing alive.
create function mover.session_of(in_hash bytea, in_project text, in_home text)
    returns table (id text, kind text, account_id text, actor text, role text, project_id text, posix_uid integer,
                   posix_gid integer, scopes text[], created_at timestamptz, ends_at timestamptz)
    language sql stable security definer set search_path = mover, pg_temp as $$
    select s.id, s.kind, a.id, a.name, g.role, g.project_id, a.posix_uid, a.posix_gid, null::text[], s.created_at, s.ends_at
      from mover.session s join mover.account a on a.id = s.account_id
      left join lateral (
           select o.role, o.project_id from mover.account_grant o
            where o.account_id = a.id and o.role is not null and o.project_id = coalesce(in_project, o.project_id)
            order by coalesce(o.project_id = s.chosen, false) desc, o.project_id = in_home desc, o.project_id limit 1) g on true
     where s.hash = in_hash and mover.session_live(s) and a.disabled_at is null and (a.expires_at is null or a.expires_at > now())
    union all
    select s.id, s.kind, null, t.actor, t.role, case when t.project_id = coalesce(in_project, t.project_id) then t.project_id end,
           t.posix_uid, t.posix_gid, t.scopes, s.created_at, s.ends_at
      from mover.session s join mover.token t on t.id = s.token_id
     where s.hash = in_hash and mover.session_live(s) and mover.token_live(t)
$$;

-- Both at once: what somebody at the session asks.
create or replace function mover.session_by_hash(in_hash bytea, in_project text, in_home text)
    returns table (id text, kind text, account_id text, actor text, role text, project_id text, posix_uid integer,
                   posix_gid integer, scopes text[], created_at timestamptz, ends_at timestamptz)
    language sql security definer set search_path = mover, pg_temp as $$
    select mover.session_seen(in_hash);
    select * from mover.session_of(in_hash, in_project, in_home);
$$;

reset role;
revoke create on schema mover from mover_dispatch;
revoke execute on function mover.session_seen(bytea), mover.session_of(bytea, text, text) from public;
grant execute on function mover.session_of(bytea, text, text) to mover_daemon;
