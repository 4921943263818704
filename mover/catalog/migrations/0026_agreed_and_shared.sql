-- === what two persons agreed to, and repositories that several projects share ====================================

set role mover_owner;

alter table mover.protect_request add column agreed_shorter text[];    -- of a `shorten`: what it made shorter as it was asked for

create function mover.request_shortens() returns trigger language plpgsql as $$
begin
    new.agreed_shorter := mover.terms_shorter((select terms from mover.protect_terms where policy = new.policy), new.wanted);
    return new;
end $$;
create trigger request_shortens before insert on mover.protect_request
    for each row when (new.kind = 'shorten') execute function mover.request_shortens();
revoke execute on function mover.request_shortens() from public;

alter function mover.request_apply(text, text) rename to request_carried_out;
revoke execute on function mover.request_carried_out(text, text) from mover_daemon;

-- As before, and nothing that became longer since the two persons looked is shortened by the way.
create function mover.request_apply(in_id text, in_node text) returns boolean
    language plpgsql security definer set search_path = mover, pg_temp as $$
declare r mover.protect_request := mover.request_open(in_id); held jsonb;
begin
    select terms into held from mover.protect_terms where policy = r.policy for update;
    if r.kind = 'shorten' and not r.agreed_shorter @> mover.terms_shorter(held, r.wanted) then
        raise exception 'the terms became longer since this was asked for; withdraw it and ask again' using errcode = 'MV102';
    end if;
    return mover.request_carried_out(in_id, in_node);
end $$;
revoke execute on function mover.request_apply(text, text) from public;
grant execute on function mover.request_apply(text, text) to mover_daemon;

reset role;

grant create on schema mover to mover_dispatch;
set role mover_dispatch;

-- Does another project miss snapshots on this tier? Packs that all of them may share are all that is left of those. How
-- many, and whose, is theirs to know.
create function mover.missing_elsewhere(in_tier text) returns boolean
    language sql stable security definer set search_path = mover, pg_temp as $$
    select exists (select from mover.snapshot where tier = in_tier and missing_at is not null
                      and state in ('written', 'checked', 'trashed') and project_id <> mover.current_project())
$$;

reset role;
revoke create on schema mover from mover_dispatch;
grant select on mover.snapshot to mover_dispatch;
grant execute on function mover.current_project() to mover_dispatch;
revoke execute on function mover.missing_elsewhere(text) from public;
grant execute on function mover.missing_elsewhere(text) to mover_daemon;
