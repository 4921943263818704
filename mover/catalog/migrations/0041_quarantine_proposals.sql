-- === a decision about quarantine that two persons make =============================================================

set role mover_owner;

-- What one person proposes to decide about a cause, and another confirms or declines. How many persons a decision needs
-- is a policy's to say; who is a person, the database's. `packs`: these only; null: all that wait for the cause.
create table mover.quarantine_proposal (
    project_id  text not null references mover.project,
    id          text primary key,
    cause       text not null check (cause ~ '^[0-9a-f]{16}$'),
    action      text not null check (action in ('retry', 'exclude', 'accept-without-thumbnail', 'declare')),
    standing    boolean not null,
    packs       text[],
    code        text not null,
    kind        text not null,
    words       text not null,
    waiting     integer not null,                   -- when it was proposed
    reason      text not null,
    proposed_by text not null,
    proposed_person text not null,
    proposed_at timestamptz not null default now(),
    lapses_at   timestamptz not null default now() + interval '14 days',
    state       text not null default 'open' check (state in ('open', 'confirmed', 'declined', 'lapsed')),
    decided_by  text,
    decided_person text,
    decided_at  timestamptz,
    decision    text,                               -- the second person's reason
    unique (project_id, id),
    check ((state = 'open') = (decided_at is null)),
    check (state <> 'confirmed' or decided_person <> proposed_person)
);
create unique index quarantine_proposal_open on mover.quarantine_proposal (project_id, cause) where state = 'open';
create index quarantine_proposal_newest on mover.quarantine_proposal (project_id, proposed_at desc, id desc);

-- a decision that was proposed is made once; the rows that stand are looked at by their owner
alter table mover.quarantine_rule no force row level security;
alter table mover.quarantine_rule
    add column proposal_id text unique,
    add foreign key (project_id, proposal_id) references mover.quarantine_proposal (project_id, id);
alter table mover.quarantine_rule force row level security;

alter table mover.quarantine_proposal enable row level security;
alter table mover.quarantine_proposal force row level security;
create policy by_project on mover.quarantine_proposal using (project_id = (select mover.current_project()))
    with check (project_id = (select mover.current_project()));
grant select on mover.quarantine_proposal to mover_daemon;

-- While a proposal is open nothing else is decided about its cause, and what comes of it is what was confirmed.
create function mover.quarantine_rule_reviewed() returns trigger language plpgsql as $$
begin
    if new.proposal_id is null then
        if exists (select from mover.quarantine_proposal p where p.project_id = new.project_id and p.cause = new.cause
                      and p.state = 'open' and p.lapses_at > now()) then
            raise exception 'a decision about this waits for a second person: confirm or decline it first'
                using errcode = 'MV102';
        end if;
    elsif not exists (select from mover.quarantine_proposal p where p.project_id = new.project_id
                         and p.id = new.proposal_id and p.state = 'confirmed' and p.cause = new.cause
                         and p.action = new.action and p.standing = new.standing) then
        raise exception 'no second person confirmed this' using errcode = 'MV103';
    end if;
    return new;
end $$;
create trigger quarantine_rule_reviewed before insert on mover.quarantine_rule
    for each row execute function mover.quarantine_rule_reviewed();

-- The same again, while it is open, is the same; another decision about the cause waits until this one is decided.
create function mover.quarantine_propose(in_id text, in_cause text, in_action text, in_standing boolean, in_packs text[],
                                         in_code text, in_kind text, in_words text, in_waiting integer, in_reason text,
                                         in_proof bytea, in_actor text, in_node text) returns text
    language plpgsql security definer set search_path = mover, pg_temp as $$
declare who mover.asker := mover.asker_of(in_proof, in_actor); p mover.quarantine_proposal;
begin
    perform mover.awake();
    if who.role not in ('operator', 'admin') then
        raise exception 'this role decides nothing here' using errcode = 'MV103';
    end if;
    update mover.quarantine_proposal set state = 'lapsed', decided_at = now()
     where cause = in_cause and state = 'open' and lapses_at <= now();
    insert into mover.quarantine_proposal (project_id, id, cause, action, standing, packs, code, kind, words, waiting,
                                           reason, proposed_by, proposed_person)
    values (mover.current_project(), in_id, in_cause, in_action, in_standing, in_packs, in_code, in_kind, in_words,
            in_waiting, in_reason, who.actor, who.person)
    on conflict (project_id, cause) where state = 'open' do nothing;
    if not found then
        select * into p from mover.quarantine_proposal where cause = in_cause and state = 'open';
        if p.proposed_person = who.person and p.action = in_action and p.standing = in_standing
           and p.packs is not distinct from in_packs then
            return p.id;
        end if;
        raise exception 'a decision about this waits for a second person: confirm or decline it first'
            using errcode = 'MV102';
    end if;
    perform mover.protect_record(in_node, who.actor, 'quarantine proposed', in_id, in_reason, jsonb_build_object(
        'cause', in_cause, 'code', in_code, 'decision', in_action, 'standing', in_standing, 'packs', in_waiting));
    return in_id;
end $$;

-- The second person's word; the same word of the same person again is the same. Who proposed may decline, too: that
-- lets nothing out. What a confirmation does, and its record, is the rest of the caller's transaction.
create function mover.quarantine_review(in_id text, in_confirm boolean, in_reason text, in_proof bytea, in_actor text,
                                        in_node text) returns void
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
    if in_confirm and who.since > p.proposed_at then
        raise exception 'this person was nobody here when it was proposed' using errcode = 'MV103';
    end if;
    update mover.quarantine_proposal set state = word, decided_by = who.actor, decided_person = who.person,
           decided_at = now(), decision = in_reason
     where id = in_id;
    if not in_confirm then
        perform mover.protect_record(in_node, who.actor, 'quarantine declined', in_id, in_reason, jsonb_build_object(
            'cause', p.cause, 'code', p.code, 'decision', p.action, 'proposed by', p.proposed_by));
    end if;
end $$;

reset role;

revoke execute on function mover.quarantine_rule_reviewed(),
    mover.quarantine_propose(text, text, text, boolean, text[], text, text, text, integer, text, bytea, text, text),
    mover.quarantine_review(text, boolean, text, bytea, text, text) from public;
grant execute on function
    mover.quarantine_propose(text, text, text, boolean, text[], text, text, text, integer, text, bytea, text, text),
    mover.quarantine_review(text, boolean, text, bytea, text, text) to mover_daemon;
