-- === people who sign in: accounts, their roles by project, their sessions =========================================

set role mover_owner;

-- A password never comes here. The daemon makes a key of it (argon2id), and the database compares the key's digest: who
-- has the daemon's role alone opens nobody's session.
create table mover.account (
    id          text primary key,
    name        text not null check (name ~ '^[A-Za-z0-9][A-Za-z0-9@._-]{0,127}$'),
    salt        bytea,
    cost        integer[] check (cardinality(cost) = 3),    -- passes, KiB, lanes
    verifier    bytea,                              -- SHA-256 of the key; null: no password
    issuer      text,                               -- who the identity provider says it is
    subject     text,
    person      text not null,                      -- as of tokens: whoever knows the password is one person with it
    person_since timestamptz not null default now(),
    made_by     text not null,
    posix_uid   integer,
    posix_gid   integer,
    created_at  timestamptz not null default now(),
    expires_at  timestamptz,
    disabled_at timestamptz,
    unique (issuer, subject),
    check ((verifier is null) = (salt is null) and (verifier is null) = (cost is null)),
    check ((issuer is null) = (subject is null))
);
create unique index account_name on mover.account (lower(name));    -- nobody is told apart by a capital

create table mover.account_grant (
    project_id  text not null references mover.project,
    account_id  text not null references mover.account,
    role        text check (role in ('viewer', 'operator', 'admin', 'custodian')),  -- null: taken away
    by_provider boolean not null default false,
    granted_at  timestamptz not null default now(),
    primary key (project_id, account_id)
);
create index account_grant_account on mover.account_grant (account_id);
alter table mover.account_grant enable row level security;
alter table mover.account_grant force row level security;
create policy by_project on mover.account_grant using (project_id = (select mover.current_project()))
    with check (project_id = (select mover.current_project()));

create table mover.session (
    id          text primary key,
    hash        bytea not null unique,              -- SHA-256 of the secret that the cookie holds
    kind        text not null check (kind in ('password', 'token', 'provider')),
    account_id  text references mover.account,
    token_id    text references mover.token,
    chosen      text references mover.project,      -- the project that its person looks at
    origin      bytea,                              -- digest of account and address: from where it was opened
    idle_s      integer not null check (idle_s > 0),
    created_at  timestamptz not null default now(),
    seen_at     timestamptz not null default now(),
    ends_at     timestamptz not null,
    ended_at    timestamptz,
    check ((account_id is null) = (kind = 'token') and (token_id is null) = (kind <> 'token'))
);
create index session_account on mover.session (account_id, ends_at);
create index session_token on mover.session (token_id);
create index session_over on mover.session (ends_at);

alter table mover.token
    add column scopes text[],                       -- null: all that the role may
    add column account_id text references mover.account,    -- ends with it, and with its role
    add column last_used_at timestamptz;            -- to the minute
create index token_account on mover.token (account_id);

-- --- who is a person ------------------------------------------------------------------------------------------

-- Does the account stand, and in this role? Under whoever asks: of one project, or of all.
create function mover.account_stands(in_account text, in_project text, in_role text) returns boolean
    language sql stable as $$
    select exists (select from mover.account a join mover.account_grant g on g.account_id = a.id
                    where a.id = in_account and a.disabled_at is null and (a.expires_at is null or a.expires_at > now())
                      and g.project_id = in_project and g.role = in_role)
$$;

create function mover.token_live(t mover.token) returns boolean language sql stable as $$
    select t.revoked_at is null and (t.expires_at is null or t.expires_at > now())
       and (t.account_id is null or mover.account_stands(t.account_id, t.project_id, t.role))
$$;

create function mover.session_live(s mover.session) returns boolean language sql stable as $$
    select s.ended_at is null and s.ends_at > now() and s.seen_at + make_interval(secs => s.idle_s) > now()
$$;

-- how long somebody has been this person: their first token, or when the machine last gave the account a password
create function mover.person_since(in_person text) returns timestamptz
    language sql stable security definer set search_path = mover, pg_temp as $$
    select coalesce((select a.person_since from mover.account a where a.id = in_person),
                    (select t.created_at from mover.token t where t.id = in_person))
$$;

-- As before, and a session's digest is as good as a token's. Of whom only an identity provider tells, the daemon tells:
-- their word is the machine's.
create or replace function mover.asker_of(in_proof bytea, in_actor text) returns mover.asker
    language plpgsql stable security definer set search_path = mover, pg_temp as $$
declare found_one mover.asker;
begin
    if in_proof is null then
        return row(in_actor, null::text, 'machine'::text, 'admin'::text, '-infinity'::timestamptz)::mover.asker;
    end if;
    select t.actor, t.id, t.person, t.role, coalesce(mover.person_since(t.person), t.created_at) into found_one
      from mover.token t
     where mover.token_live(t) and (t.hash = in_proof or t.id = (
            select s.token_id from mover.session s where s.hash = in_proof and mover.session_live(s)));
    if found_one.token is null then
        select a.name, s.id, case s.kind when 'provider' then 'machine' else a.person end, g.role,
               case s.kind when 'provider' then '-infinity' else coalesce(mover.person_since(a.person), now()) end
          into found_one
          from mover.session s join mover.account a on a.id = s.account_id
          join mover.account_grant g on g.account_id = a.id and g.project_id = mover.current_project()
         where s.hash = in_proof and mover.session_live(s) and mover.account_stands(a.id, g.project_id, g.role);
    end if;
    if found_one.token is null then
        raise exception 'the token or session is unknown, expired or ended' using errcode = 'MV103';
    end if;
    return found_one;
end $$;

-- as before, and accounts are as old as their person
create or replace function mover.request_approve(in_id text, in_proof bytea, in_actor text, in_node text) returns void
    language plpgsql security definer set search_path = mover, pg_temp as $$
declare who mover.asker := mover.asker_of(in_proof, in_actor); r mover.protect_request := mover.request_open(in_id);
    asked_since timestamptz; delay interval;
begin
    if r.approved_person = who.person then return; end if;
    if who.role <> 'admin' then
        raise exception 'only an admin approves' using errcode = 'MV103';
    end if;
    if who.person = r.requested_person then
        raise exception 'who asked does not approve; tokens that one person made are one person' using errcode = 'MV103';
    end if;
    if r.approved_at is not null then raise exception 'it is approved already' using errcode = 'MV102'; end if;
    delay := r.not_before - r.requested_at;
    asked_since := coalesce(mover.person_since(r.requested_person),
                            (select t.created_at from mover.token t where t.id = r.requested_token));
    if who.since > r.requested_at - delay or coalesce(asked_since, '-infinity') > r.requested_at - delay then
        raise exception 'one of the two tokens was made too short before the request' using errcode = 'MV103';
    end if;
    update mover.protect_request set approved_by = who.actor, approved_token = who.token, approved_person = who.person,
           approved_at = now() where id = in_id;
    perform mover.protect_record(in_node, who.actor, 'protection: shortening approved', in_id, r.reason,
                                 jsonb_build_object('requested by', r.requested_by, 'not before', r.not_before));
end $$;

create or replace function mover.ruling_judged(r mover.slide_ruling, who mover.asker, in_manifests bigint) returns void
    language plpgsql stable security definer set search_path = mover, pg_temp as $$
begin
    if r.asked_person is null then
        raise exception 'who asked was not written down then; decline it and ask again' using errcode = 'MV102';
    end if;
    if greatest(who.since, mover.person_since(r.asked_person)) > r.asked_at - interval '1 day' then
        raise exception 'one of the two persons got a token less than a day before it was asked' using errcode = 'MV103';
    end if;
    if r.action = 'remove' and exists (select from mover.slide_holders(array[r.number]) where run_id is not null) then
        raise exception 'runs hold the slide; end them first' using errcode = 'MV102';
    end if;
    if r.action = 'remove' and in_manifests is distinct from (select count(*) from mover.slide_pins(r.number)) then
        raise exception 'that is not how many kept manifests name the slide' using errcode = 'MV102';
    end if;
end $$;

-- --- tokens: of a person's own, and of fewer actions ------------------------------------------------------------

-- The only way to a token; `in_maker` is the digest of the maker's secret, null for the machine. `in_own`: the maker's
-- account makes it for itself, in the role it has. A token and its audit record come together, whoever calls.
drop function mover.token_add(text, bytea, text, text, integer, integer, timestamptz, bytea, text, text, text);
create function mover.token_add(in_id text, in_hash bytea, in_actor text, in_role text, in_uid integer, in_gid integer,
                                in_expires timestamptz, in_maker bytea, in_by text, in_node text, in_request text,
                                in_scopes text[] default null, in_own boolean default false)
    returns boolean
    language plpgsql security definer set search_path = mover, pg_temp as $$
declare who mover.asker := mover.asker_of(in_maker, in_by); mine mover.account; narrowed text[];
begin
    perform mover.awake();
    select t.scopes into narrowed from mover.token t where t.id = who.token;
    if narrowed is not null and (in_scopes is null or not in_scopes <@ narrowed) then
        raise exception 'a token makes none that may more' using errcode = 'MV103';
    end if;
    if in_own then
        select a.* into mine from mover.account a join mover.session s on s.account_id = a.id where s.id = who.token;
        if mine.id is null then
            raise exception 'only somebody who signed in as an account makes tokens for it' using errcode = 'MV103';
        end if;
        if (select count(*) >= 50 from mover.token t where t.account_id = mine.id and mover.token_live(t)) then
            raise exception '50 tokens of this account live already' using errcode = 'MV102';
        end if;
    elsif who.role <> 'admin' then
        raise exception 'only a live admin token makes tokens' using errcode = 'MV103';
    end if;
    insert into mover.token (id, hash, actor, role, project_id, posix_uid, posix_gid, expires_at, made_by, person, scopes,
                             account_id)
    values (in_id, in_hash, in_actor, case when in_own then who.role else in_role end, mover.current_project(),
            case when in_own then mine.posix_uid else in_uid end, case when in_own then mine.posix_gid else in_gid end,
            in_expires, who.token, case when in_maker is null then in_id else who.person end, in_scopes, mine.id)
    on conflict do nothing;
    if not found then return false; end if;
    perform mover.audit_append(mover.current_project(), in_node, jsonb_build_object('actor', who.actor,
        'action', 'token made', 'subject', in_id, 'reason', '', 'request', in_request,
        'details', jsonb_build_object('role', case when in_own then who.role else in_role end, 'for', in_actor,
                                      'scopes', to_jsonb(in_scopes), 'by the machine', in_maker is null))::text);
    return true;
end $$;

-- --- accounts ---------------------------------------------------------------------------------------------------

-- A change of accounts and its audit record come together, whoever calls.
create function mover.people_record(in_action text, in_account text, in_proof bytea, in_actor text, in_node text,
                                    in_request text, in_details jsonb) returns void
    language sql security definer set search_path = mover, pg_temp as $$
    select mover.audit_append(mover.current_project(), in_node, jsonb_build_object('actor', in_actor, 'action', in_action,
        'subject', in_account, 'reason', '', 'request', in_request,
        'details', in_details || jsonb_build_object('by the machine', in_proof is null))::text)
$$;

create function mover.people_admin(in_proof bytea, in_actor text) returns mover.asker
    language plpgsql security definer set search_path = mover, pg_temp as $$
declare who mover.asker := mover.asker_of(in_proof, in_actor);
begin
    perform mover.awake();
    if who.role <> 'admin' then raise exception 'only an admin changes accounts' using errcode = 'MV103'; end if;
    return who;
end $$;

-- The account, if the asker may know of it: the machine knows all, an admin those of the project.
create function mover.account_known(in_name text, in_proof bytea) returns mover.account
    language plpgsql security definer set search_path = mover, pg_temp as $$
declare a mover.account;
begin
    select * into a from mover.account where lower(name) = lower(in_name) for update;
    if a.id is null or in_proof is not null and not exists (
            select from mover.account_grant g where g.account_id = a.id) then
        raise exception 'no such account' using errcode = 'MV101';
    end if;
    return a;
end $$;

create function mover.account_add(in_id text, in_name text, in_role text, in_salt bytea, in_cost integer[],
                                  in_verifier bytea, in_expires timestamptz, in_uid integer, in_gid integer,
                                  in_proof bytea, in_actor text, in_node text, in_request text) returns void
    language plpgsql security definer set search_path = mover, pg_temp as $$
declare who mover.asker := mover.people_admin(in_proof, in_actor);
begin
    insert into mover.account (id, name, salt, cost, verifier, person, made_by, posix_uid, posix_gid, expires_at)
    values (in_id, in_name, in_salt, in_cost, in_verifier, case when in_proof is null then in_id else who.person end,
            who.actor, in_uid, in_gid, in_expires)
    on conflict do nothing;
    if not found then raise exception 'this name cannot be had' using errcode = 'MV102'; end if;
    insert into mover.account_grant (project_id, account_id, role) values (mover.current_project(), in_id, in_role);
    perform mover.people_record('account made', in_id, in_proof, who.actor, in_node, in_request,
                                jsonb_build_object('role', in_role, 'for', in_name));
end $$;

-- A role in this project, or none: null. Of whom the project does not know, the machine alone says.
create function mover.account_role(in_name text, in_role text, in_proof bytea, in_actor text, in_node text,
                                   in_request text) returns void
    language plpgsql security definer set search_path = mover, pg_temp as $$
declare who mover.asker := mover.people_admin(in_proof, in_actor); a mover.account := mover.account_known(in_name, in_proof);
    was text;
begin
    select g.role into was from mover.account_grant g where g.account_id = a.id;
    if was is not distinct from in_role then return; end if;
    insert into mover.account_grant (project_id, account_id, role) values (mover.current_project(), a.id, in_role)
    on conflict (project_id, account_id) do update set role = in_role, by_provider = false, granted_at = now();
    perform mover.people_record(case when in_role is null then 'role revoked' else 'role granted' end, a.id, in_proof,
        who.actor, in_node, in_request, jsonb_build_object('role', in_role, 'was', was, 'for', a.name));
end $$;

-- Every session but one's own; how many there were.
create function mover.sessions_ended(in_account text, in_but bytea) returns bigint
    language sql security definer set search_path = mover, pg_temp as $$
    with ended as (
        update mover.session s set ended_at = now() where s.account_id = in_account and mover.session_live(s)
           and s.hash is distinct from in_but returning 1)
    select count(*) from ended
$$;

reset role;

grant select on mover.account, mover.account_grant, mover.session to mover_dispatch;
grant insert, update on mover.account, mover.account_grant to mover_dispatch;
grant insert, update, delete on mover.session to mover_dispatch;
grant update (last_used_at) on mover.token to mover_dispatch;
grant create on schema mover to mover_dispatch;
set role mover_dispatch;

create function mover.account_elsewhere(in_account text) returns boolean
    language sql stable security definer set search_path = mover, pg_temp as $$
    select exists (select from mover.account_grant where account_id = in_account and role is not null
                      and project_id <> mover.current_project())
$$;

reset role;
set role mover_owner;

-- What concerns the whole account, an admin does to those that are this project's alone.
create function mover.account_ours(in_name text, in_proof bytea) returns mover.account
    language plpgsql security definer set search_path = mover, pg_temp as $$
declare a mover.account := mover.account_known(in_name, in_proof);
begin
    if in_proof is not null and mover.account_elsewhere(a.id) then
        raise exception 'the account is not this project''s alone; the machine''s owner does this' using errcode = 'MV103';
    end if;
    return a;
end $$;

-- Whoever gives a password can be the account from then on, and so is one person with it. All its sessions end.
create function mover.account_password(in_name text, in_salt bytea, in_cost integer[], in_verifier bytea, in_proof bytea,
                                       in_actor text, in_node text, in_request text) returns void
    language plpgsql security definer set search_path = mover, pg_temp as $$
declare who mover.asker := mover.people_admin(in_proof, in_actor); a mover.account := mover.account_ours(in_name, in_proof);
begin
    update mover.account set salt = in_salt, cost = in_cost, verifier = in_verifier,
           person = case when in_proof is null then id else who.person end,
           person_since = case when in_proof is null then now() else person_since end where id = a.id;
    perform mover.people_record('password given', a.id, in_proof, who.actor, in_node, in_request,
        jsonb_build_object('for', a.name, 'sessions ended', mover.sessions_ended(a.id, null)));
end $$;

-- One's own, with the one before; the person stays who it was: whoever gave the one before knew it, too.
create function mover.account_repass(in_old bytea, in_salt bytea, in_cost integer[], in_verifier bytea, in_proof bytea,
                                     in_node text, in_request text) returns bigint
    language plpgsql security definer set search_path = mover, pg_temp as $$
declare who mover.asker := mover.asker_of(in_proof, ''); a mover.account; others bigint;
begin
    perform mover.awake();
    select c.* into a from mover.account c join mover.session s on s.account_id = c.id where s.hash = in_proof for update of c;
    if a.id is null or a.verifier is distinct from sha256(in_old) then return null; end if;
    update mover.account set salt = in_salt, cost = in_cost, verifier = in_verifier where id = a.id;
    others := mover.sessions_ended(a.id, in_proof);
    perform mover.people_record('password changed', a.id, in_proof, who.actor, in_node, in_request,
                                jsonb_build_object('sessions ended', others));
    return others;
end $$;

create function mover.account_disable(in_name text, in_disabled boolean, in_proof bytea, in_actor text, in_node text,
                                      in_request text) returns void
    language plpgsql security definer set search_path = mover, pg_temp as $$
declare who mover.asker := mover.people_admin(in_proof, in_actor); a mover.account := mover.account_ours(in_name, in_proof);
begin
    if (a.disabled_at is not null) = in_disabled then return; end if;
    update mover.account set disabled_at = case when in_disabled then now() end where id = a.id;
    perform mover.people_record(case when in_disabled then 'account disabled' else 'account enabled' end, a.id, in_proof,
        who.actor, in_node, in_request, jsonb_build_object('for', a.name, 'sessions ended', case when in_disabled
            then mover.sessions_ended(a.id, null) else 0 end));
end $$;

create function mover.account_signed_out(in_name text, in_proof bytea, in_actor text, in_node text, in_request text)
    returns bigint
    language plpgsql security definer set search_path = mover, pg_temp as $$
declare who mover.asker := mover.people_admin(in_proof, in_actor); a mover.account := mover.account_known(in_name, in_proof);
    count bigint := mover.sessions_ended(a.id, null);
begin
    perform mover.people_record('sessions ended', a.id, in_proof, who.actor, in_node, in_request,
                                jsonb_build_object('for', a.name, 'sessions ended', count));
    return count;
end $$;

-- a session opens nothing any more; with all: none of its account's
create function mover.session_end(in_hash bytea, in_all boolean) returns bigint
    language plpgsql security definer set search_path = mover, pg_temp as $$
declare s mover.session;
begin
    select * into s from mover.session where hash = in_hash;
    if in_all and s.account_id is not null then return mover.sessions_ended(s.account_id, null); end if;
    update mover.session set ended_at = now() where hash = in_hash and ended_at is null;
    return case when found then 1 else 0 end;
end $$;

reset role;
set role mover_dispatch;

-- --- signing in -------------------------------------------------------------------------------------------------

-- What the key of a name's password is made with, and whether its person came from there before. Of an unknown name:
-- nothing, and the daemon works as long.
create function mover.account_ask(in_name text, in_address text)
    returns table (id text, salt bytea, cost integer[], known_origin boolean)
    language sql stable security definer set search_path = mover, pg_temp as $$
    select a.id, a.salt, a.cost, exists (
               select from mover.session s where s.account_id = a.id
                  and s.origin = sha256(convert_to(a.id || '|' || in_address, 'UTF8')))
      from mover.account a where lower(a.name) = lower(in_name) and a.verifier is not null
$$;

create function mover.account_projects(in_account text) returns table (project_id text, role text)
    language sql stable security definer set search_path = mover, pg_temp as $$
    select g.project_id, g.role from mover.account_grant g where g.account_id = in_account and g.role is not null
     order by g.project_id limit 100
$$;

-- Twenty live sessions of one account, and its oldest end; what is over for 90 days is forgotten.
create function mover.session_add(in_id text, in_hash bytea, in_kind text, in_account text, in_token text,
                                  in_address text, in_idle_s integer, in_life_s integer) returns void
    language plpgsql security definer set search_path = mover, pg_temp as $$
begin
    delete from mover.session where id in (
        select s.id from mover.session s where s.ends_at < now() - interval '90 days' order by s.ends_at limit 1000);
    update mover.session set ended_at = now() where id in (
        select s.id from mover.session s where (s.account_id = in_account or s.token_id = in_token)
           and mover.session_live(s) order by s.created_at desc offset 19);
    insert into mover.session (id, hash, kind, account_id, token_id, origin, idle_s, ends_at)
    values (in_id, in_hash, in_kind, in_account, in_token,
            sha256(convert_to(in_account || '|' || in_address, 'UTF8')), in_idle_s,
            now() + make_interval(secs => in_life_s));
end $$;

-- The account's id where the key is right, the account stands and has a role anywhere; else nothing, and why is not said.
create function mover.session_open(in_name text, in_key bytea, in_id text, in_hash bytea, in_address text,
                                   in_idle_s integer, in_life_s integer) returns text
    language plpgsql security definer set search_path = mover, pg_temp as $$
declare a mover.account;
begin
    select * into a from mover.account where lower(name) = lower(in_name);
    if a.verifier is null or a.verifier <> sha256(in_key) or a.disabled_at is not null or a.expires_at <= now()
       or not exists (select from mover.account_projects(a.id)) then
        return null;
    end if;
    perform mover.session_add(in_id, in_hash, 'password', a.id, null, in_address, in_idle_s, in_life_s);
    return a.id;
end $$;

create function mover.session_open_token(in_token_hash bytea, in_id text, in_hash bytea, in_address text,
                                         in_idle_s integer, in_life_s integer) returns text
    language plpgsql security definer set search_path = mover, pg_temp as $$
declare t mover.token;
begin
    select * into t from mover.token where hash = in_token_hash;
    if t.id is null or not mover.token_live(t) or t.role = 'scheduler' then return null; end if;
    perform mover.session_add(in_id, in_hash, 'token', null, t.id, in_address, in_idle_s, in_life_s);
    return t.id;
end $$;

-- Whom an identity provider vouches for, by its own id of them; the roles of its making become what it says now. Nothing
-- where the name is another account's, or the account does not stand. `was`: of each project, the role until now.
create function mover.session_open_provider(in_issuer text, in_subject text, in_account text, in_name text, in_roles jsonb,
                                            in_id text, in_hash bytea, in_address text, in_idle_s integer,
                                            in_life_s integer)
    returns table (account text, project text, role text, was text)
    language plpgsql security definer set search_path = mover, pg_temp as $$
declare a mover.account;
begin
    insert into mover.account as c (id, name, issuer, subject, person, made_by)
    values (in_account, in_name, in_issuer, in_subject, in_account, 'provider') on conflict do nothing;
    select * into a from mover.account c where c.issuer = in_issuer and c.subject = in_subject for update;
    if a.id is null or a.disabled_at is not null or a.expires_at <= now() then return; end if;
    return query
        with wanted as (
            select w.key as project, w.value as role from jsonb_each_text(in_roles) w join mover.project p on p.id = w.key),
        held as (select g.project_id, g.role from mover.account_grant g where g.account_id = a.id and g.by_provider),
        changed as (
            insert into mover.account_grant as g (project_id, account_id, role, by_provider)
            select coalesce(w.project, h.project_id), a.id, w.role, true
              from wanted w full join held h on h.project_id = w.project where h.role is distinct from w.role
            on conflict (project_id, account_id) do update set role = excluded.role, granted_at = now() where g.by_provider
            returning g.project_id, g.role)
        select a.id, c.project_id, c.role, h.role from changed c left join held h on h.project_id = c.project_id;
    if not exists (select from mover.account_projects(a.id)) then return; end if;
    perform mover.session_add(in_id, in_hash, 'provider', a.id, null, in_address, in_idle_s, in_life_s);
    return query select a.id, null::text, null::text, null::text;
end $$;

-- --- from a secret to who asks ------------------------------------------------------------------------------------

drop function mover.token_by_hash(bytea);
create function mover.token_by_hash(in_hash bytea)
    returns table (id text, actor text, role text, project_id text, posix_uid integer, posix_gid integer, scopes text[],
                   created_at timestamptz, expires_at timestamptz)
    language sql security definer set search_path = mover, pg_temp as $$
    update mover.token set last_used_at = now() where id = (
        select t.id from mover.token t where t.hash = in_hash
           and coalesce(t.last_used_at < now() - interval '1 minute', true) for update skip locked);
    select t.id, t.actor, t.role, t.project_id, t.posix_uid, t.posix_gid, t.scopes, t.created_at, t.expires_at
      from mover.token t where t.hash = in_hash and mover.token_live(t)
$$;

-- A live session, and who is in it: in the project that is asked for, else in the one chosen, else at home. Without a role
-- there the project is null.
create function mover.session_by_hash(in_hash bytea, in_project text, in_home text)
    returns table (id text, kind text, account_id text, actor text, role text, project_id text, posix_uid integer,
                   posix_gid integer, scopes text[], created_at timestamptz, ends_at timestamptz)
    language sql security definer set search_path = mover, pg_temp as $$
    update mover.session set seen_at = now() where id = (
        select s.id from mover.session s where s.hash = in_hash and mover.session_live(s)
           and s.seen_at < now() - least(interval '1 minute', make_interval(secs => s.idle_s / 4)) for update skip locked);
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

-- the project that a session looks at from now on; false where its person has no role there
create function mover.session_choose(in_hash bytea, in_project text) returns boolean
    language plpgsql security definer set search_path = mover, pg_temp as $$
begin
    update mover.session s set chosen = in_project where s.hash = in_hash and mover.session_live(s)
       and (s.account_id is null and exists (select from mover.token t where t.id = s.token_id and t.project_id = in_project)
            or exists (select from mover.account_grant g where g.account_id = s.account_id and g.project_id = in_project
                          and g.role is not null));
    return found;
end $$;

reset role;
revoke create on schema mover from mover_dispatch;

do $$
declare f text;
begin
    foreach f in array array['account_stands(text, text, text)', 'token_live(mover.token)', 'session_live(mover.session)',
        'person_since(text)', 'people_record(text, text, bytea, text, text, text, jsonb)', 'people_admin(bytea, text)',
        'account_known(text, bytea)', 'account_ours(text, bytea)', 'sessions_ended(text, bytea)', 'account_elsewhere(text)',
        'session_add(text, bytea, text, text, text, text, integer, integer)'] loop
        execute format('revoke execute on function mover.%s from public', f);
    end loop;
    foreach f in array array[
        'token_add(text, bytea, text, text, integer, integer, timestamptz, bytea, text, text, text, text[], boolean)',
        'account_add(text, text, text, bytea, integer[], bytea, timestamptz, integer, integer, bytea, text, text, text)',
        'account_role(text, text, bytea, text, text, text)',
        'account_password(text, bytea, integer[], bytea, bytea, text, text, text)',
        'account_repass(bytea, bytea, integer[], bytea, bytea, text, text)',
        'account_disable(text, boolean, bytea, text, text, text)', 'account_signed_out(text, bytea, text, text, text)',
        'session_end(bytea, boolean)', 'account_ask(text, text)', 'account_projects(text)',
        'session_open(text, bytea, text, bytea, text, integer, integer)',
        'session_open_token(bytea, text, bytea, text, integer, integer)',
        'session_open_provider(text, text, text, text, jsonb, text, bytea, text, integer, integer)',
        'token_by_hash(bytea)', 'session_by_hash(bytea, text, text)', 'session_choose(bytea, text)'] loop
        execute format('revoke execute on function mover.%s from public', f);
        execute format('grant execute on function mover.%s to mover_daemon', f);
    end loop;
end $$;
-- functions of the one role call the other's
grant execute on function mover.account_stands(text, text, text), mover.token_live(mover.token),
    mover.session_live(mover.session) to mover_dispatch;
grant execute on function mover.account_elsewhere(text) to mover_owner;
grant select (id, name, cost, issuer, created_at, expires_at, disabled_at) on mover.account to mover_daemon;
grant select on mover.account_grant to mover_daemon;
grant select (id, account_id, kind, idle_s, created_at, seen_at, ends_at, ended_at) on mover.session to mover_daemon;
grant select (scopes, account_id, last_used_at) on mover.token to mover_daemon;
