-- === a catalog that was restored from an older dump: what two people say of the audit records that are lost =======

set role mover_owner;

-- `facts` is what the tiers knew and the catalog did not when it was asked: the checkpoints from before, and for each
-- chain the last record in which both agree and the last that copies tell of. `n` is the checkpoint that says it.
create table mover.audit_restore (
    project_id  text not null references mover.project,
    id          text primary key,
    n           bigint not null check (n >= 2),
    facts       jsonb not null,
    reason      text not null,
    asked_by    text not null,
    asked_person text not null,
    asked_at    timestamptz not null default now(),
    lapses_at   timestamptz not null default now() + interval '30 days',
    approved_by text,
    approved_person text check (approved_person <> asked_person),
    approved_at timestamptz
);
create unique index audit_restore_once on mover.audit_restore (project_id, n) where approved_at is not null;
alter table mover.audit_restore enable row level security;
alter table mover.audit_restore force row level security;
create policy by_project on mover.audit_restore using (project_id = (select mover.current_project()))
    with check (project_id = (select mover.current_project()));

-- The same again, while it is open, is the same.
create function mover.audit_restore_ask(in_id text, in_n bigint, in_facts jsonb, in_reason text, in_proof bytea,
                                        in_actor text, in_node text) returns text
    language plpgsql security definer set search_path = mover, pg_temp as $$
declare who mover.asker := mover.asker_of(in_proof, in_actor); same text;
begin
    if who.role not in ('admin', 'custodian') then
        raise exception 'this role answers for no audit' using errcode = 'MV103';
    end if;
    select r.id into same from mover.audit_restore r
     where r.n = in_n and r.facts = in_facts and r.asked_person = who.person and r.approved_at is null
       and r.lapses_at > now();
    if same is not null then return same; end if;
    insert into mover.audit_restore (project_id, id, n, facts, reason, asked_by, asked_person)
    values (mover.current_project(), in_id, in_n, in_facts, in_reason, who.actor, who.person);
    perform mover.protect_record(in_node, who.actor, 'audit restore asked', in_id, in_reason,
                                 jsonb_build_object('checkpoint', in_n, 'lost', in_facts -> 'lost'));
    return in_id;
end $$;

-- The second person, who was one before it was asked for. What was signed here since the restore, and no tier took,
-- gives way to what the tiers hold; the caller writes that, and the checkpoint that says so, in the same transaction.
create function mover.audit_restore_approve(in_id text, in_proof bytea, in_actor text, in_node text) returns void
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
    if who.since > r.asked_at then
        raise exception 'this person was nobody here when it was asked for' using errcode = 'MV103';
    end if;
    delete from mover.checkpoint c where c.n > (r.facts ->> 'after')::bigint
       and not exists (select from mover.checkpoint_copy k where (k.project_id, k.n) = (c.project_id, c.n));
    update mover.audit_restore set approved_by = who.actor, approved_person = who.person, approved_at = now()
     where id = in_id;
    perform mover.protect_record(in_node, who.actor, 'audit restore accepted', in_id, r.reason, jsonb_build_object(
        'checkpoint', r.n, 'lost', r.facts -> 'lost', 'asked by', r.asked_by));
end $$;

grant select on mover.audit_restore to mover_daemon;

reset role;

revoke execute on function mover.audit_restore_ask(text, bigint, jsonb, text, bytea, text, text),
    mover.audit_restore_approve(text, bytea, text, text) from public;
grant execute on function mover.audit_restore_ask(text, bigint, jsonb, text, bytea, text, text),
    mover.audit_restore_approve(text, bytea, text, text) to mover_daemon;
