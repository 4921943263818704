-- === plain folders that policies protect ========================================================================

set role mover_owner;

-- A folder of a protect policy: what was seen of it, and what its newest whole snapshot holds. Marks are digests over
-- names, sizes and times, never names.
create table mover.protected_folder (
    id          text primary key,
    project_id  text not null references mover.project,
    policy      text not null,
    name        text not null,
    state       text not null default 'idle' check (state in ('idle', 'running')),
    asked_at    timestamptz,                        -- somebody wants a snapshot now
    started_at  timestamptz,                        -- of the newest attempt
    seen_mark   text not null default '',
    seen_since  timestamptz,                        -- it has looked like this since
    protected_mark text not null default '',
    protected_at timestamptz,
    snapshot_id text,                               -- the newest whole one
    reason      text,                               -- a code: why the newest attempt gave none
    explanation text,
    unique (project_id, policy, name),
    foreign key (project_id, snapshot_id) references mover.snapshot (project_id, id)
);
alter table mover.protected_folder enable row level security;
alter table mover.protected_folder force row level security;
create policy by_project on mover.protected_folder using (project_id = (select mover.current_project()))
    with check (project_id = (select mover.current_project()));
grant select, insert, update on mover.protected_folder to mover_daemon;

-- what a plain folder's snapshot holds is proved of the snapshot: there is no run
create or replace function mover.check_proof() returns trigger language plpgsql as $$
declare n bigint; b bigint; pending bigint;
begin
    if new.kind = 'ready' then
        select count(*), coalesce(sum(size_bytes), 0), count(*) filter (where staged_at is null)
          into n, b, pending from mover.run_entry where run_id = new.subject_id;
        if n = 0 or pending > 0 or new.count < n or new.bytes < b then
            raise exception 'proof of ready refused: % entries, % not staged', n, pending using errcode = 'check_violation';
        end if;
    elsif new.kind = 'protected' then
        if not exists (select from mover.snapshot where (run_id = new.subject_id or id = new.subject_id)
                       and state = 'checked') then
            raise exception 'proof of protected refused: no checked snapshot' using errcode = 'check_violation';
        end if;
    elsif new.kind = 'cleaned' then
        if not exists (select from mover.run where id = new.subject_id
                       and (protected_proof is not null or ready_proof is null)) then
            raise exception 'proof of cleaned refused: not protected' using errcode = 'check_violation';
        end if;
    elsif new.kind = 'complete' then
        select count(*), count(*) filter (where state = 'found') into n, pending
          from mover.pack where batch_id = new.subject_id;
        if pending > 0 or new.count <> n then
            raise exception 'proof of complete refused: % packs, % undecided', n, pending using errcode = 'check_violation';
        end if;
    elsif new.kind = 'aligned' then
        select count(*) into n from mover.ledger where record_set_id = new.subject_id;
        if new.count <> n then
            raise exception 'proof of aligned refused: ledger has % lines', n using errcode = 'check_violation';
        end if;
    end if;
    return new;
end $$;

reset role;
