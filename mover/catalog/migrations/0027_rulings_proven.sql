-- === what two people decide about a withdrawn slide, the database judges ==========================================

set role mover_owner;

alter table mover.slide_ruling
    add column decided_person text,                 -- null: decided before this was written down
    add constraint two_persons check (decided_person <> asked_person);

-- A ruling and its audit record come together, whoever calls.
create function mover.ruling_record(in_action text, in_reason text, in_actor text, in_node text, in_request text,
                                    r mover.slide_ruling, in_details jsonb) returns void
    language sql security definer set search_path = mover, pg_temp as $$
    select mover.audit_append(r.project_id, in_node, jsonb_build_object('actor', in_actor,
        'action', 'slide ' || r.action || ' ' || in_action, 'subject', r.number, 'reason', in_reason,
        'request', in_request, 'details', in_details)::text)
$$;

-- One open question about a slide; false where somebody asked already.
create function mover.ruling_ask(in_id text, in_number text, in_action text, in_reason text, in_proof bytea,
                                 in_actor text, in_node text, in_request text) returns boolean
    language plpgsql security definer set search_path = mover, pg_temp as $$
declare who mover.asker := mover.asker_of(in_proof, in_actor); r mover.slide_ruling;
begin
    perform mover.awake();
    if who.role not in ('operator', 'admin') then
        raise exception 'this role asks for nothing here' using errcode = 'MV103';
    end if;
    if not exists (select from mover.slide_withdrawal w where w.number = in_number and w.removed_at is null) then
        raise exception 'the slide is not withdrawn, or removed' using errcode = 'MV102';
    end if;
    insert into mover.slide_ruling (id, project_id, number, action, reason, asked_by, asked_person)
    values (in_id, mover.current_project(), in_number, in_action, in_reason, who.actor, who.person)
    on conflict do nothing returning * into r;
    if r.id is null then return false; end if;
    perform mover.ruling_record('asked', in_reason, who.actor, in_node, in_request, r, '{}');
    return true;
end $$;

-- Raises unless this person may grant it now. There is no delay to be seen in, so neither person may be newer than a
-- day: whoever makes a token to be two waits as long, and is seen.
create function mover.ruling_judged(r mover.slide_ruling, who mover.asker, in_manifests bigint) returns void
    language plpgsql stable security definer set search_path = mover, pg_temp as $$
begin
    if r.asked_person is null then
        raise exception 'who asked was not written down then; decline it and ask again' using errcode = 'MV102';
    end if;
    if greatest(who.since, (select t.created_at from mover.token t where t.id = r.asked_person))
       > r.asked_at - interval '1 day' then
        raise exception 'one of the two persons got a token less than a day before it was asked' using errcode = 'MV103';
    end if;
    if r.action = 'remove' and exists (select from mover.slide_holders(array[r.number]) where run_id is not null) then
        raise exception 'runs hold the slide; end them first' using errcode = 'MV102';
    end if;
    if r.action = 'remove' and in_manifests is distinct from (select count(*) from mover.slide_pins(r.number)) then
        raise exception 'that is not how many kept manifests name the slide' using errcode = 'MV102';
    end if;
end $$;

-- The second person's word. With a grant a slide is back, and its packs are what they were; or its removal may be
-- written down.
create function mover.ruling_decide(in_id text, in_grant boolean, in_reason text, in_manifests bigint, in_proof bytea,
                                    in_actor text, in_node text, in_request text) returns void
    language plpgsql security definer set search_path = mover, pg_temp as $$
declare who mover.asker := mover.asker_of(in_proof, in_actor); r mover.slide_ruling; packs jsonb := '{}';
begin
    perform mover.awake();
    select * into r from mover.slide_ruling where id = in_id for update;
    if r.id is null then raise exception 'no such ruling' using errcode = 'MV101'; end if;
    if r.state <> 'asked' then raise exception 'the ruling is %', r.state using errcode = 'MV102'; end if;
    if who.role <> 'custodian' then raise exception 'only a custodian decides' using errcode = 'MV103'; end if;
    if who.person = r.asked_person then
        raise exception 'who asked cannot decide; tokens that one person made are one person' using errcode = 'MV103';
    end if;
    if in_grant then perform mover.ruling_judged(r, who, in_manifests); end if;
    update mover.slide_ruling set state = case when in_grant then 'granted' else 'declined' end, decided_by = who.actor,
           decided_person = who.person, decided_at = now(), decision = in_reason, manifests = in_manifests
     where id = in_id returning * into r;
    if in_grant and r.action = 'reinstate' then
        delete from mover.slide_withdrawal where number = r.number;
        if not found then raise exception 'the slide never comes back' using errcode = 'MV102'; end if;
        with released as (
            update mover.pack set state = case when verified_proof is null then 'duplicate' else 'published' end,
                   reason = null, explanation = null, cause = null, updated_at = now()
             where number = r.number and state = 'quarantined' and reason = 'identifier-found-later' returning id)
        select jsonb_build_object('packs', coalesce(jsonb_agg(id), '[]')) into packs from released;
        update mover.slide_ruling set state = 'done' where id = in_id;
    end if;
    perform mover.ruling_record(case when in_grant then 'granted' else 'declined' end, in_reason, who.actor, in_node,
        in_request, r, packs || jsonb_build_object('asked_by', r.asked_by, 'manifests', in_manifests));
end $$;

-- What was granted is done, or failed; done is a removal after which the slide is gone.
create function mover.ruling_end(in_id text, in_state text, in_explanation text) returns void
    language plpgsql security definer set search_path = mover, pg_temp as $$
begin
    update mover.slide_ruling r set state = in_state, explanation = in_explanation
     where r.id = in_id and r.state = 'granted'
       and (in_state = 'failed' or in_state = 'done' and exists (
               select from mover.slide_withdrawal w where w.number = r.number and w.removed_at is not null));
end $$;

reset role;

grant create on schema mover to mover_dispatch;
set role mover_dispatch;

-- as before, and the two are persons, and only files of the slide that they spoke of
create or replace function mover.removal_judged() returns trigger
    language plpgsql security definer set search_path = mover, pg_temp as $$
declare r mover.slide_ruling;
begin
    select * into r from mover.slide_ruling where id = new.ruling_id;
    if r.action <> 'remove' or r.state <> 'granted' or mover.slide_withdrawn(r.number) is null
       or r.asked_person is null or r.decided_person is null or r.asked_person = r.decided_person
       or r.manifests is distinct from (select count(*) from mover.slide_pins(r.number)) then
        raise exception 'nothing of a slide is removed but by a ruling of two persons' using errcode = 'check_violation';
    end if;
    if not starts_with(new.key, '.mover/quarantine/') and new.key <> 'slides/' || r.number || '/sidecar.json'
       and not exists (select from mover.slide s where s.number = r.number and new.key in (s.key, s.thumbnail_key))
       and not exists (select from mover.slide_file f where f.number = r.number and f.key = new.key) then
        raise exception 'the two persons did not speak of this file' using errcode = 'check_violation';
    end if;
    return new;
end $$;

reset role;
revoke create on schema mover from mover_dispatch;

-- a withdrawal only withholds, so the daemon makes one; it says of none that it is over, and of nobody that they decided
revoke insert, update on mover.slide_ruling from mover_daemon;
grant update (explanation) on mover.slide_ruling to mover_daemon;
revoke update on mover.slide_removal from mover_daemon;
grant update (state) on mover.slide_removal to mover_daemon;
revoke insert, delete on mover.slide_withdrawal from mover_daemon;
grant insert (number, reason, found_by) on mover.slide_withdrawal to mover_daemon;
grant execute on function mover.slide_holders(text[]), mover.slide_pins(text) to mover_owner;
revoke execute on function mover.ruling_record(text, text, text, text, text, mover.slide_ruling, jsonb),
    mover.ruling_ask(text, text, text, text, bytea, text, text, text),
    mover.ruling_judged(mover.slide_ruling, mover.asker, bigint),
    mover.ruling_decide(text, boolean, text, bigint, bytea, text, text, text),
    mover.ruling_end(text, text, text) from public;
grant execute on function mover.ruling_ask(text, text, text, text, bytea, text, text, text),
    mover.ruling_decide(text, boolean, text, bigint, bytea, text, text, text),
    mover.ruling_end(text, text, text) to mover_daemon;
