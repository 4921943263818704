-- === who agrees to a policy is a second person, too ================================================================

set role mover_owner;

-- As before, and two persons are two: for a day, and by name.
create or replace function mover.policy_approve(in_id text, in_proof bytea, in_actor text, in_node text) returns void
    language plpgsql security definer set search_path = mover, pg_temp as $$
declare who mover.asker := mover.asker_of(in_proof, in_actor); c mover.policy_change;
begin
    select * into c from mover.policy_change where id = in_id for update;
    if c.approved_person = who.person then return; end if;
    c := mover.policy_open(in_id);
    if who.role <> 'admin' then
        raise exception 'only an admin approves' using errcode = 'MV103';
    end if;
    if who.person = c.requested_person then
        raise exception 'who asked does not approve; tokens that one person made are one person' using errcode = 'MV103';
    end if;
    if c.agreed_at is not null then raise exception 'it is approved already' using errcode = 'MV102'; end if;
    perform mover.second_person(who, c.requested_person, c.requested_by, c.requested_at);
    update mover.policy_change set approved_by = who.actor, approved_person = who.person, agreed_at = now()
     where id = in_id;
    perform mover.protect_record(in_node, who.actor, 'policy: change approved', c.name, c.reason, jsonb_build_object(
        'change', in_id, 'requested by', c.requested_by));
end $$;

reset role;
