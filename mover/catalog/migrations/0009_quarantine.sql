-- === quarantine with a way out ============================================================================

set role mover_owner;

-- a reviewed decision about everything that waits for one cause. `standing` ones hold for packs that come later, until
-- they are revoked or decided anew; rows are never removed
create table mover.quarantine_rule (
    id          text primary key,
    project_id  text not null references mover.project,
    cause       text not null check (cause ~ '^[0-9a-f]{16}$'),
    version     integer not null,
    action      text not null check (action in ('retry', 'exclude', 'accept-without-thumbnail', 'declare')),
    standing    boolean not null,
    code        text not null,
    kind        text not null,
    words       text not null,                      -- of the refusal, without numbers
    reason      text not null,                      -- of whoever decided
    packs       integer not null,                   -- decided at once
    decided_by  text not null,
    decided_at  timestamptz not null default now(),
    revoked_by  text,
    revoked_at  timestamptz,
    revoked_reason text,
    unique (project_id, id),
    unique (project_id, cause, version),
    check ((revoked_at is null) = (revoked_by is null))
);
create unique index quarantine_rule_standing on mover.quarantine_rule (project_id, cause)
    where standing and revoked_at is null;
alter table mover.quarantine_rule enable row level security;
alter table mover.quarantine_rule force row level security;
create policy by_project on mover.quarantine_rule using (project_id = (select mover.current_project()))
    with check (project_id = (select mover.current_project()));
grant select, insert, update on mover.quarantine_rule to mover_daemon;

-- `cause` is what packs are held back for, alike (null: from before there were causes, or not held back); `kind` what
-- sort of pack it is; `judged_by` software and profile of the last refusal; `waived` what people decided about this pack
alter table mover.pack
    drop constraint pack_state_check,
    add constraint pack_state_check check (state in ('found', 'published', 'duplicate', 'quarantined', 'excluded')),
    add column cause text check (cause ~ '^[0-9a-f]{16}$'),
    add column kind text not null default '',
    add column judged_by text,
    add column waived text[] not null default '{}' check (waived <@ array['thumbnail', 'declared']),
    add column rule_id text,
    add foreign key (project_id, rule_id) references mover.quarantine_rule (project_id, id),
    add constraint excluded_has_a_rule check (state <> 'excluded' or (rule_id is not null and reason is not null));
create index pack_cause on mover.pack (project_id, cause) where state = 'quarantined';
create index pack_rule on mover.pack (rule_id) where rule_id is not null;

reset role;
