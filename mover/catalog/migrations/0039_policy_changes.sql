-- === policies that people change through the API: what waits for a second person, and what stood where ==============

set role mover_owner;

-- Each node says what it follows whenever that changes: texts stand once, in mover.policy, and history may go back.
create table mover.policy_stand (
    seq         bigint generated always as identity primary key,
    node        text not null references mover.node,
    name        text not null,
    digest      text,                               -- null: no such policy any more
    at          timestamptz not null default now(),
    foreign key (name, digest) references mover.policy
);
create index policy_stand_name on mover.policy_stand (name, seq desc);

-- A change of one file on one node. Who is a person is the database's to say; what is risky the daemon judges, when it
-- is asked for and again when it is carried out.
create table mover.policy_change (
    project_id  text not null references mover.project,
    id          text primary key,
    node        text not null,
    name        text not null,
    kind        text not null,
    base        text,                               -- digest of the text that was edited; null: there was none
    digest      text,                               -- null: the policy goes
    text        text,
    risks       text[] not null,
    reason      text not null,
    requested_by text not null,
    requested_person text not null,
    requested_at timestamptz not null default now(),
    lapses_at   timestamptz not null default now() + interval '30 days',
    agreed_at   timestamptz,
    approved_by text,                               -- null where nobody had to
    approved_person text check (approved_person <> requested_person),
    withdrawn_at timestamptz,
    withdrawn_by text,
    applied_at  timestamptz,
    refused_at  timestamptz,
    refused     text,                               -- why it was not carried out
    check ((digest is null) = (text is null)),
    check (applied_at is null or agreed_at is not null)
);
create index policy_change_newest on mover.policy_change (project_id, requested_at desc, id desc);
create index policy_change_open on mover.policy_change (project_id, node)
    where applied_at is null and refused_at is null and withdrawn_at is null;
create index policy_change_name on mover.policy_change (project_id, name, digest);
alter table mover.policy_change enable row level security;
alter table mover.policy_change force row level security;
create policy by_project on mover.policy_change using (project_id = (select mover.current_project()))
    with check (project_id = (select mover.current_project()));

-- Without a risk it is agreed on as it is asked for. The same again, while it is open, is the same.
create function mover.policy_ask(in_id text, in_node text, in_name text, in_kind text, in_base text, in_digest text,
                                 in_text text, in_risks text[], in_reason text, in_proof bytea, in_actor text) returns text
    language plpgsql security definer set search_path = mover, pg_temp as $$
declare who mover.asker := mover.asker_of(in_proof, in_actor); same text; risks text[] := in_risks;
begin
    if who.role not in ('operator', 'admin') then
        raise exception 'this role changes no policy' using errcode = 'MV103';
    end if;
    if who.role <> 'admin' then
        risks := risks || array['an operator asks: an admin agrees'];
    end if;
    select c.id into same from mover.policy_change c
     where c.node = in_node and c.name = in_name and c.base is not distinct from in_base
       and c.digest is not distinct from in_digest and c.requested_person = who.person and c.applied_at is null
       and c.refused_at is null and c.withdrawn_at is null and c.lapses_at > now();
    if same is not null then return same; end if;
    if (select count(*) >= 1000 from mover.policy_change c where c.applied_at is null and c.refused_at is null
           and c.withdrawn_at is null and c.lapses_at > now()) then
        raise exception '1000 changes are open already' using errcode = 'MV102';
    end if;
    insert into mover.policy_change (project_id, id, node, name, kind, base, digest, text, risks, reason, requested_by,
                                     requested_person, agreed_at)
    values (mover.current_project(), in_id, in_node, in_name, in_kind, in_base, in_digest, in_text, risks, in_reason,
            who.actor, who.person, case when risks = '{}' then now() end);
    perform mover.protect_record(in_node, who.actor, 'policy: change asked for', in_name, in_reason, jsonb_build_object(
        'change', in_id, 'kind', in_kind, 'from', in_base, 'to', in_digest, 'risks', to_jsonb(risks)));
    return in_id;
end $$;

create function mover.policy_open(in_id text) returns mover.policy_change
    language plpgsql security definer set search_path = mover, pg_temp as $$
declare c mover.policy_change;
begin
    select * into c from mover.policy_change where id = in_id for update;
    if c.id is null then raise exception 'no such change of a policy' using errcode = 'MV101'; end if;
    if c.applied_at is not null then raise exception 'the change was carried out' using errcode = 'MV102'; end if;
    if c.withdrawn_at is not null then raise exception 'the change was withdrawn' using errcode = 'MV102'; end if;
    if c.refused_at is not null then raise exception 'the change could not be carried out' using errcode = 'MV102'; end if;
    if c.lapses_at <= now() then raise exception 'the change has lapsed' using errcode = 'MV102'; end if;
    return c;
end $$;

-- The second person, who was one before it was asked for. Approving twice is approving once.
create function mover.policy_approve(in_id text, in_proof bytea, in_actor text, in_node text) returns void
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
    if who.since > c.requested_at then
        raise exception 'this person was nobody here when it was asked for' using errcode = 'MV103';
    end if;
    update mover.policy_change set approved_by = who.actor, approved_person = who.person, agreed_at = now()
     where id = in_id;
    perform mover.protect_record(in_node, who.actor, 'policy: change approved', c.name, c.reason, jsonb_build_object(
        'change', in_id, 'requested by', c.requested_by));
end $$;

create function mover.policy_withdraw(in_id text, in_proof bytea, in_actor text, in_node text) returns void
    language plpgsql security definer set search_path = mover, pg_temp as $$
declare who mover.asker := mover.asker_of(in_proof, in_actor); c mover.policy_change;
begin
    select * into c from mover.policy_change where id = in_id;
    if c.withdrawn_at is not null then return; end if;
    c := mover.policy_open(in_id);
    if who.role <> 'admin' and who.person <> c.requested_person then
        raise exception 'who asked withdraws it, or an admin' using errcode = 'MV103';
    end if;
    update mover.policy_change set withdrawn_by = who.actor, withdrawn_at = now() where id = in_id;
    perform mover.protect_record(in_node, who.actor, 'policy: change withdrawn', c.name, c.reason,
                                 jsonb_build_object('change', in_id));
end $$;

-- The file stands in the folder as it was agreed on; or it cannot, and why.
create function mover.policy_carried(in_id text, in_node text, in_refused text) returns void
    language plpgsql security definer set search_path = mover, pg_temp as $$
declare c mover.policy_change := mover.policy_open(in_id);
begin
    if c.agreed_at is null then raise exception 'nobody agreed on it yet' using errcode = 'MV102'; end if;
    update mover.policy_change set applied_at = case when in_refused is null then now() end,
           refused_at = case when in_refused is not null then now() end, refused = in_refused
     where id = in_id;
    perform mover.protect_record(in_node, c.requested_by, case when in_refused is null then 'policy: changed'
        else 'policy: change not carried out' end, c.name, c.reason, jsonb_build_object('change', in_id, 'from', c.base,
        'to', c.digest, 'approved by', c.approved_by, 'why not', in_refused));
end $$;

grant select on mover.policy_change to mover_daemon;
grant select, insert on mover.policy_stand to mover_daemon;

reset role;

do $$
declare f text;
begin
    foreach f in array array[
        'policy_ask(text, text, text, text, text, text, text, text[], text, bytea, text)',
        'policy_approve(text, bytea, text, text)', 'policy_withdraw(text, bytea, text, text)',
        'policy_carried(text, text, text)'] loop
        execute format('revoke execute on function mover.%s from public', f);
        execute format('grant execute on function mover.%s to mover_daemon', f);
    end loop;
    revoke execute on function mover.policy_open(text) from public;
end $$;
