-- === no pack leaves beside the decision that waits for a second person ============================================

set role mover_owner;

-- While a proposal about what a pack waits for is open, the pack waits: whoever would let it go decides, or nobody does.
create function mover.pack_released() returns trigger language plpgsql as $$
begin
    if exists (select from mover.quarantine_proposal p where p.project_id = old.project_id and p.cause = old.cause
                  and p.state = 'open' and p.lapses_at > now()) then
        raise exception 'a decision about this waits for a second person: confirm or decline it first'
            using errcode = 'MV102';
    end if;
    return new;
end $$;
create trigger pack_released before update of state on mover.pack for each row
    when (old.state = 'quarantined' and new.state <> 'quarantined') execute function mover.pack_released();

reset role;

revoke execute on function mover.pack_released() from public;
