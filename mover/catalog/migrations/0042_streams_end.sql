-- === streams that stay open =======================================================================================

grant create on schema mover to mover_dispatch;
set role mover_dispatch;

-- Who of these still may, in which role: of tokens and sessions by their digests, each in its project. Asked for streams
-- that stay open, so it sees nobody: an open page keeps no session alive.
create function mover.still_in(in_proofs bytea[], in_projects text[])
    returns table (proof bytea, project_id text, role text, scopes text[])
    language sql stable security definer set search_path = mover, pg_temp as $$
    with asked as (select distinct a.proof, a.project from unnest(in_proofs, in_projects) a (proof, project))
    select a.proof, a.project, t.role, t.scopes
      from asked a join mover.token t on t.hash = a.proof and t.project_id = a.project
     where mover.token_live(t)
    union all
    select a.proof, a.project, t.role, t.scopes
      from asked a join mover.session s on s.hash = a.proof
      join mover.token t on t.id = s.token_id and t.project_id = a.project
     where mover.session_live(s) and mover.token_live(t)
    union all
    select a.proof, a.project, g.role, null::text[]
      from asked a join mover.session s on s.hash = a.proof
      join mover.account o on o.id = s.account_id and o.disabled_at is null and (o.expires_at is null or o.expires_at > now())
      join mover.account_grant g on g.account_id = o.id and g.project_id = a.project and g.role is not null
     where mover.session_live(s)
$$;

reset role;
revoke create on schema mover from mover_dispatch;
revoke execute on function mover.still_in(bytea[], text[]) from public;
grant execute on function mover.still_in(bytea[], text[]) to mover_daemon;
