-- === two persons are two: for a day, and by name ===================================================================

set role mover_owner;

-- Two who may be two: neither came within the day before it was asked for, so that whoever makes a token to be two waits,
-- and is seen; and they do not bear one name. Of whom only an identity provider tells, the person is the machine's: by a
-- token of their own they would be another one.
create function mover.second_person(who mover.asker, in_person text, in_actor text, in_at timestamptz) returns void
    language plpgsql stable security definer set search_path = mover, pg_temp as $$
begin
    if lower(btrim(who.actor)) = lower(btrim(in_actor)) then
        raise exception 'who asked bears this name, too: both are one person' using errcode = 'MV103';
    end if;
    if greatest(who.since, mover.person_since(in_person)) > in_at - interval '1 day' then
        raise exception 'one of the two persons was nobody here when it was asked for, or not yet for a day'
            using errcode = 'MV103';
    end if;
end $$;

-- as before, and two persons are two
create or replace function mover.quarantine_review(in_id text, in_confirm boolean, in_reason text, in_proof bytea,
                                                   in_actor text, in_node text) returns void
    language plpgsql security definer set search_path = mover, pg_temp as $$
declare who mover.asker := mover.asker_of(in_proof, in_actor); p mover.quarantine_proposal;
    word text := case when in_confirm then 'confirmed' else 'declined' end;
begin
    perform mover.awake();
    select * into p from mover.quarantine_proposal where id = in_id for update;
    if p.id is null then raise exception 'no such proposal' using errcode = 'MV101'; end if;
    if who.role not in ('operator', 'admin') then
        raise exception 'this role decides nothing here' using errcode = 'MV103';
    end if;
    if p.state = word and p.decided_person = who.person then return; end if;
    if p.state <> 'open' then raise exception 'the proposal is % already', p.state using errcode = 'MV102'; end if;
    if p.lapses_at <= now() then raise exception 'the proposal has lapsed' using errcode = 'MV102'; end if;
    if in_confirm and who.person = p.proposed_person then
        raise exception 'who proposed does not confirm; tokens and sessions that one person made are one person'
            using errcode = 'MV103';
    end if;
    if in_confirm then perform mover.second_person(who, p.proposed_person, p.proposed_by, p.proposed_at); end if;
    update mover.quarantine_proposal set state = word, decided_by = who.actor, decided_person = who.person,
           decided_at = now(), decision = in_reason
     where id = in_id;
    if not in_confirm then
        perform mover.protect_record(in_node, who.actor, 'quarantine declined', in_id, in_reason, jsonb_build_object(
            'cause', p.cause, 'code', p.code, 'decision', p.action, 'proposed by', p.proposed_by));
    end if;
end $$;

create or replace function mover.audit_restore_approve(in_id text, in_proof bytea, in_actor text, in_node text)
    returns void
    language plpgsql security definer set search_path = mover, pg_temp as $$
declare who mover.asker := mover.asker_of(in_proof, in_actor); r mover.audit_restore;
begin
    select * into r from mover.audit_restore where id = in_id for update;
    if r.id is null then raise exception 'no such statement' using errcode = 'MV101'; end if;
    if who.role not in ('admin', 'custodian') then
        raise exception 'this role answers for no audit' using errcode = 'MV103';
    end if;
    if r.approved_at is not null then raise exception 'it is approved already' using errcode = 'MV102'; end if;
    if r.lapses_at <= now() then raise exception 'the statement has lapsed' using errcode = 'MV102'; end if;
    if who.person = r.asked_person then
        raise exception 'who asked does not approve; tokens that one person made are one person' using errcode = 'MV103';
    end if;
    perform mover.second_person(who, r.asked_person, r.asked_by, r.asked_at);
    delete from mover.checkpoint c where c.n > (r.facts ->> 'after')::bigint
       and not exists (select from mover.checkpoint_copy k where (k.project_id, k.n) = (c.project_id, c.n));
    update mover.audit_restore set approved_by = who.actor, approved_person = who.person, approved_at = now()
     where id = in_id;
    perform mover.protect_record(in_node, who.actor, 'audit restore accepted', in_id, r.reason, jsonb_build_object(
        'checkpoint', r.n, 'lost', r.facts -> 'lost', 'asked by', r.asked_by));
end $$;

reset role;

revoke execute on function mover.second_person(mover.asker, text, text, timestamptz) from public;
