-- === a snapshot whose file was repaired has it under another id ===================================================

set role mover_owner;

-- ids of its files before: no other row may ever have them, so that none is made to stand for another and let go
alter table mover.snapshot add column was text[] not null default '{}' check (cardinality(was) <= 100);

create function mover.snapshot_was_nothing() returns trigger language plpgsql as $$
begin
    raise exception 'a new snapshot had no file before' using errcode = 'check_violation';
end $$;
create trigger snapshot_was_nothing before insert on mover.snapshot
    for each row when (new.was <> '{}') execute function mover.snapshot_was_nothing();
revoke execute on function mover.snapshot_was_nothing() from public;

-- It counts for nothing until its file was seen there and names its series. False where no row of this project has it.
create function mover.snapshot_moved(in_tier text, in_was text, in_now text, in_node text) returns boolean
    language plpgsql security definer set search_path = mover, pg_temp as $$
declare moved text;
begin
    if in_now !~ '^[0-9a-f]{64}$' or exists (select from mover.snapshot o
           where o.repository_id <> in_was and (o.repository_id = in_now or in_now = any (o.was))) then
        raise exception 'this is no file for it, or another one''s' using errcode = 'MV102';
    end if;
    update mover.snapshot set repository_id = in_now, was = array_append(was, in_was),
           missing_at = coalesce(missing_at, now())
     where tier = in_tier and repository_id = in_was and in_now <> in_was
       and state in ('written', 'checked', 'trashed') returning id into moved;
    if moved is null then return false; end if;
    perform mover.protect_record(in_node, 'daemon', 'snapshot repaired', moved, 'its file came back under another id',
                                 jsonb_build_object('was', in_was, 'now', in_now));
    return true;
end $$;

reset role;

revoke execute on function mover.snapshot_moved(text, text, text, text) from public;
grant execute on function mover.snapshot_moved(text, text, text, text) to mover_daemon;
