-- === a second person is somebody else, and no transaction sleeps through a delay =============================================

set role mover_owner;

-- A transaction's now() stands still. One that was begun days ago would write days-old times: a delay that is over as
-- soon as it begins, a trash that is emptied at once, a token as old as it likes.
create function mover.awake() returns void language plpgsql as $$
begin
    if now() < clock_timestamp() - interval '15 minutes' then
        raise exception 'a transaction that stood open for so long decides nothing here' using errcode = 'MV102';
    end if;
end $$;

create or replace function mover.protect_record(in_node text, in_actor text, in_action text, in_subject text,
                                                in_reason text, in_details jsonb) returns void
    language plpgsql security definer set search_path = mover, pg_temp as $$
begin
    perform mover.awake();
    perform mover.audit_append(mover.current_project(), in_node, jsonb_build_object('actor', in_actor, 'action',
        in_action, 'subject', in_subject, 'reason', in_reason, 'request', '', 'details', in_details)::text);
end $$;

-- attempts whose snapshot was never checked, while a later one of the series was: nothing rests on them
create or replace function mover.snapshots_cut_off(in_series text) returns bigint
    language sql security definer set search_path = mover, pg_temp as $$
    select mover.awake();
    with moved as (
        update mover.snapshot s set state = 'trashed', trashed_at = now(), trashed_for = 'cut-off',
               reasons = '{cut off before it was checked}',
               trash_until = now() + mover.terms_time((select t.terms from mover.protect_terms t where t.policy = s.policy),
                                                     'trash_s', 1209600)
         where s.series = in_series and s.state = 'written' and s.doubt is null
           and exists (select from mover.snapshot n where n.policy = s.policy and n.series = s.series
                          and n.sequence > s.sequence and n.state = 'checked' and n.missing_at is null)
        returning 1)
    select count(*) from moved
$$;

-- Forgotten, but its file is still there, and the daemon, which sees the files, finds that the rules keep it: what had
-- displaced it has no file. It stands again.
create function mover.snapshots_back(in_ids text[], in_node text) returns bigint
    language plpgsql security definer set search_path = mover, pg_temp as $$
declare back text[];
begin
    with changed as (
        update mover.snapshot set state = 'checked', forgotten_at = null, trash_until = null
         where id = any (in_ids) and state = 'forgotten' and trashed_for is null and purged_at is null returning id)
    select array_agg(id) into back from changed;
    if back is null then return 0; end if;
    perform mover.protect_record(in_node, 'daemon', 'snapshots kept after all', '', 'rows without a file had displaced them',
                                 jsonb_build_object('snapshots', to_jsonb(back)));
    return cardinality(back);
end $$;

-- The only way to a token; `in_maker` is the digest of the maker's secret, null for the machine. A token and its audit
-- record come together, whoever calls: a second person that nobody has seen arrive is none.
drop function mover.token_add(text, bytea, text, text, integer, integer, timestamptz, bytea);
create function mover.token_add(in_id text, in_hash bytea, in_actor text, in_role text, in_uid integer, in_gid integer,
                                in_expires timestamptz, in_maker bytea, in_by text, in_node text, in_request text)
    returns boolean
    language plpgsql security definer set search_path = mover, pg_temp as $$
declare maker mover.token;
begin
    perform mover.awake();
    if in_maker is not null then
        select * into maker from mover.token t where t.hash = in_maker and t.revoked_at is null
           and (t.expires_at is null or t.expires_at > now()) and t.role = 'admin';
        if maker.id is null then
            raise exception 'only a live admin token makes tokens' using errcode = 'MV103';
        end if;
    end if;
    insert into mover.token (id, hash, actor, role, project_id, posix_uid, posix_gid, expires_at, made_by, person)
    values (in_id, in_hash, in_actor, in_role, mover.current_project(), in_uid, in_gid, in_expires, maker.id,
            coalesce(maker.person, in_id))
    on conflict do nothing;
    if not found then return false; end if;
    perform mover.audit_append(mover.current_project(), in_node, jsonb_build_object('actor', coalesce(maker.actor, in_by),
        'action', 'token made', 'subject', in_id, 'reason', '', 'request', in_request,
        'details', jsonb_build_object('role', in_role, 'for', in_actor, 'by the machine', maker.id is null))::text);
    return true;
end $$;

-- whose word this is: the machine's, or that of the person whose tokens this one belongs to
create function mover.person_of(in_proof bytea, in_actor text) returns text
    language sql stable security definer set search_path = mover, pg_temp as $$
    select (mover.asker_of(in_proof, in_actor)).person
$$;

alter table mover.slide_ruling add column asked_person text;    -- null: asked before this was written down

reset role;

do $$
declare f text;
begin
    foreach f in array array[
        'snapshots_back(text[], text)', 'person_of(bytea, text)',
        'token_add(text, bytea, text, text, integer, integer, timestamptz, bytea, text, text, text)'] loop
        execute format('revoke execute on function mover.%s from public', f);
        execute format('grant execute on function mover.%s to mover_daemon', f);
    end loop;
    revoke execute on function mover.awake() from public;
end $$;
