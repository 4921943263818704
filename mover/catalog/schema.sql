-- The catalog, whole, as it is today. `migrations/` leads here and a test proves them equal.
--
-- Read first: three roles and one rule each.
--   mover_owner     owns everything, cannot log in, runs migrations.
--   mover_daemon    logs in for all ordinary work; owns nothing, so FORCE ROW LEVEL SECURITY binds it (D18).
--   mover_vault     logs in for the vault only; sees no ordinary table.
--   mover_dispatch  cannot log in; owns the few functions that must see across projects, and nothing else.
--
-- Every row of a project carries project_id. A transaction names its project by the transaction-local setting
-- mover.project; without it a query is an error, not an empty answer.
-- States that people rely on point to a proof row, and the database refuses them without (D6, I3).

create schema mover authorization mover_owner;
create schema queue authorization mover_owner;
create schema vault authorization mover_owner;
set role mover_owner;

create function mover.current_project() returns text language plpgsql stable as $$
begin
    -- after a transaction that set it locally, the setting is an empty text, not absent
    if coalesce(current_setting('mover.project', true), '') = '' then
        raise exception 'mover.project is not set in this transaction' using errcode = 'insufficient_privilege';
    end if;
    return current_setting('mover.project');
end $$;

-- === instance-wide words ============================================================================

create table mover.project (
    id          text primary key check (id ~ '^[a-z][a-z0-9-]{1,40}$'),
    created_at  timestamptz not null default now()
);

create table mover.token (
    id          text primary key,
    hash        bytea not null unique,              -- SHA-256 of the secret; the secret is shown once
    actor       text not null,
    role        text not null check (role in ('viewer', 'operator', 'admin', 'custodian')),
    project_id  text not null references mover.project,
    posix_uid   integer,                            -- whose rights open artifact paths; null: none
    posix_gid   integer,
    created_at  timestamptz not null default now(),
    expires_at  timestamptz,
    revoked_at  timestamptz
);

create table mover.node (
    id          text primary key,
    started_at  timestamptz not null default now(),
    seen_at     timestamptz not null default now(),
    version     text not null
);

create table mover.tier (
    name        text primary key,
    kind        text not null check (kind in ('posix', 'object')),
    zone        text not null check (zone in ('identified', 'deidentified')),
    role        text not null check (role in ('source', 'archive', 'flash', 'protect')),
    identity    text not null,
    traits      jsonb not null,
    capacity_bytes bigint,
    seen_at     timestamptz not null default now()
);

create table mover.policy (
    name        text not null,
    digest      text not null,                      -- BLAKE3 of the YAML text
    kind        text not null,
    text        text not null,
    loaded_at   timestamptz not null default now(),
    primary key (name, digest)
);

-- === proofs =========================================================================================

create type mover.proof_kind as enum (
    'verified',      -- the bytes on the tier were read back cold and equal the recipe's digest
    'deidentified',  -- an independent second pass found nothing
    'complete',      -- every pack of a batch is in exactly one final state
    'aligned',       -- every row and image of a record set is in exactly one ledger state
    'ready',         -- a run root equals its manifest in both directions
    'protected',     -- a snapshot's blobs were read back, decrypted and hashed
    'cleaned'        -- the run root is gone and a listing shows it
);

create table mover.proof (
    id          text primary key,
    project_id  text not null references mover.project,
    kind        mover.proof_kind not null,
    subject_id  text not null,
    count       bigint not null check (count >= 0),
    bytes       bigint not null check (bytes >= 0),
    root        text not null,                      -- digest over the proven set
    verifier    text not null,                      -- name and version
    details     jsonb not null default '{}',
    at          timestamptz not null default now(),
    unique (id, subject_id, kind)                   -- what a state's foreign key points at
);
create index proof_subject on mover.proof (subject_id, kind);

-- === work: shards are the truth, queue jobs carry only a shard's id ====================================

create type mover.shard_state as enum ('waiting', 'running', 'done', 'failed', 'cancelled');

create table mover.shard (
    id          text primary key,
    project_id  text not null references mover.project,
    queue       text not null,
    kind        text not null,
    subject_id  text not null,                      -- batch, record set or run
    members     text[] not null default '{}',       -- ids only (packs, run entries by number)
    priority    integer not null default 0,
    state       mover.shard_state not null default 'waiting',
    epoch       bigint not null default 0,          -- fencing: a commit with an older epoch is refused
    lease_until timestamptz,
    holder      text,                               -- <node>-<role>/<start of its process>
    claims      integer not null default 0,
    failures    integer not null default 0,
    not_before  timestamptz not null default now(),
    error_code  text,
    error       text,
    created_at  timestamptz not null default now(),
    finished_at timestamptz
);
create index shard_waiting on mover.shard (queue, priority desc, created_at) where state in ('waiting', 'running');
create index shard_subject on mover.shard (subject_id, kind);

-- === step 1: batches, packs, slides ==================================================================

create table mover.batch (
    id          text primary key,
    project_id  text not null references mover.project,
    tier        text not null references mover.tier,
    policy      text not null,
    state       text not null default 'declared'
                check (state in ('declared', 'walking', 'working', 'complete', 'failed')),
    folder      text not null,                      -- id of the sealed folder path in the vault
    expected_count integer,
    expected_list  text,                            -- id of the sealed list of expected names
    found_count integer,
    missing_count integer,
    explanation text,
    created_by  text not null,
    created_at  timestamptz not null default now(),
    finished_at timestamptz,
    complete_proof text,
    complete_kind mover.proof_kind generated always as ('complete') stored,
    foreign key (complete_proof, id, complete_kind) references mover.proof (id, subject_id, kind),
    constraint complete_needs_proof check (state <> 'complete' or complete_proof is not null)
);
create index batch_project on mover.batch (project_id, created_at desc);
-- the same folder declared again is the same batch
create unique index batch_folder on mover.batch (project_id, tier, folder);

create table mover.slide (
    number      text primary key check (number ~ '^[0-9A-HJKMNP-TV-Z]{17}$'),
    site        text not null,
    family      text not null,
    extension   text not null,
    size_bytes  bigint not null,
    digest      text not null check (digest ~ '^[0-9a-f]{64}$'),
    segments    text[] not null default '{}',
    tier        text not null references mover.tier,
    key         text not null,                      -- <number>/<attempt>/<number>.<extension>
    thumbnail_key text,
    thumbnail_bytes bigint,
    thumbnail_digest text,
    facts       jsonb not null,                     -- vendor, width, height, levels, mpp, objective
    created_at  timestamptz not null default now(),
    unique (tier, key)
);
create index slide_digest on mover.slide (digest);

create table mover.slide_grant (
    project_id  text not null references mover.project,
    -- deferred, because the grant comes first: only then may the project see the slide it inserts
    number      text not null references mover.slide deferrable initially deferred,
    granted_at  timestamptz not null default now(),
    primary key (project_id, number)
);

create table mover.pack (
    id          text primary key,
    project_id  text not null references mover.project,
    batch_id    text not null references mover.batch,
    barcode     text not null,                      -- id of the sealed common name: what makes it this pack
    entry       text not null,                      -- id of the sealed entry paths in the vault
    state       text not null default 'found' check (state in ('found', 'published', 'duplicate', 'quarantined')),
    reason      text,                               -- stable code when quarantined
    explanation text,                               -- a sentence without identifiers
    family      text,
    size_bytes  bigint not null default 0,
    number      text references mover.slide,
    decisions   jsonb,                              -- masked: place, code, reason, shape
    seconds     double precision,
    updated_at  timestamptz not null default now(),
    verified_proof text,
    verified_kind mover.proof_kind generated always as ('verified') stored,
    deidentified_proof text,
    deidentified_kind mover.proof_kind generated always as ('deidentified') stored,
    unique (batch_id, barcode),
    foreign key (verified_proof, id, verified_kind) references mover.proof (id, subject_id, kind),
    foreign key (deidentified_proof, id, deidentified_kind) references mover.proof (id, subject_id, kind),
    constraint published_needs_proofs check (state <> 'published' or (number is not null and verified_proof is not null
                                    and deidentified_proof is not null)),
    check (state <> 'duplicate' or number is not null),
    check (state <> 'quarantined' or reason is not null)
);
create index pack_batch on mover.pack (batch_id, state);
create index pack_number on mover.pack (number);

-- === step 2: records =================================================================================

create table mover.record_set (
    id          text primary key,
    project_id  text not null references mover.project,
    batch_id    text not null references mover.batch,
    policy      text not null,
    version     integer not null,
    state       text not null default 'waiting-for-images'
                check (state in ('waiting-for-images', 'matching', 'aligned', 'quarantined')),
    reason      text,
    explanation text,
    source      text not null,                      -- id of the sealed file paths in the vault
    content     text,                               -- keyed digest of the tables' bytes: same content, same set
    created_by  text not null,
    created_at  timestamptz not null default now(),
    finished_at timestamptz,
    report      jsonb,                              -- counts by table and ledger state, k per quasi-identifiers
    aligned_proof text,
    aligned_kind mover.proof_kind generated always as ('aligned') stored,
    unique (batch_id, version),
    foreign key (aligned_proof, id, aligned_kind) references mover.proof (id, subject_id, kind),
    constraint aligned_needs_proof check (state <> 'aligned' or aligned_proof is not null),
    check (state <> 'quarantined' or reason is not null)
);

create type mover.ledger_state as enum (
    'matched', 'image-without-row', 'row-without-image', 'duplicate', 'conflict', 'late'
);

-- one line per row of every table of a record set, and one per image of its batch (table_name = 'images')
create table mover.ledger (
    project_id  text not null references mover.project,
    record_set_id text not null references mover.record_set,
    table_name  text not null,
    line        integer not null,
    state       mover.ledger_state not null,
    reason      text,
    number      text references mover.slide,
    facts       jsonb,                              -- the de-identified cells of a matched row
    primary key (record_set_id, table_name, line)
);
create index ledger_number on mover.ledger (number);

-- the typed columns a project can ask about
create table mover.fact_column (
    project_id  text not null references mover.project,
    name        text not null,
    type        text not null check (type in ('text', 'integer', 'number', 'boolean', 'date', 'year')),
    table_name  text not null,
    allowed     text[],                             -- the values of an enumeration
    primary key (project_id, name)
);

-- step 3a: what is known of a slide in a project, one document per slide, newest record set wins
create table mover.aligned (
    project_id  text not null references mover.project,
    number      text not null references mover.slide,
    subject     text,                               -- pseudonym of the patient, for splits
    facts       jsonb not null,
    record_set_id text not null references mover.record_set,
    aligned_at  timestamptz not null default now(),
    primary key (project_id, number)
);

-- === step 3b: cohorts, selections, runs =================================================================

create table mover.cohort (
    id          text primary key,
    project_id  text not null references mover.project,
    name        text not null,
    version     integer not null,
    expression  text not null,
    created_by  text not null,
    created_at  timestamptz not null default now(),
    unique (project_id, name, version)
);

create table mover.selection (
    id          text primary key,
    project_id  text not null references mover.project,
    cohort_id   text references mover.cohort,
    expression  text,
    count       integer not null,
    bytes       bigint not null,
    root        text not null,                      -- digest over the sorted numbers and slide digests
    frozen_at   timestamptz not null default now()
);

create type mover.run_state as enum (
    'requested', 'admitted', 'staging', 'sealed', 'ready', 'finishing', 'protecting', 'protected',
    'cleaning', 'cleaned', 'refused', 'failed', 'cancelled', 'expired'
);

create table mover.run (
    id          text primary key,
    project_id  text not null references mover.project,
    selection_id text references mover.selection,
    tier        text not null references mover.tier,
    policy      text not null,
    state       mover.run_state not null default 'requested',
    reason      text,
    explanation text,
    offenders   jsonb,                              -- of a refused request, all of them
    requested_by text not null,
    posix_uid   integer,
    posix_gid   integer,
    layout      text not null default 'number' check (layout in ('flat', 'number', 'label')),
    layout_label text,
    reserved_bytes bigint not null default 0,
    manifest    text,                               -- the sealed manifest, whole; kept for ever
    manifest_root text,
    lease_until timestamptz,
    lease_s     integer not null default 86400,
    finish      jsonb,                              -- artifact and code paths, exit status
    clean_after boolean not null default false,     -- clean as soon as protection is proved
    created_at  timestamptz not null default now(),
    ready_at    timestamptz,
    finished_at timestamptz,
    cleaned_at  timestamptz,
    ready_proof text,
    ready_kind mover.proof_kind generated always as ('ready') stored,
    protected_proof text,
    protected_kind mover.proof_kind generated always as ('protected') stored,
    cleaned_proof text,
    cleaned_kind mover.proof_kind generated always as ('cleaned') stored,
    foreign key (ready_proof, id, ready_kind) references mover.proof (id, subject_id, kind),
    foreign key (protected_proof, id, protected_kind) references mover.proof (id, subject_id, kind),
    foreign key (cleaned_proof, id, cleaned_kind) references mover.proof (id, subject_id, kind),
    constraint ready_needs_proof check (state not in ('ready', 'finishing', 'protecting') or ready_proof is not null),
    constraint protected_needs_proof check (state not in ('protected', 'cleaning', 'cleaned') or protected_proof is not null
           or (state in ('cleaning', 'cleaned') and ready_proof is null)),  -- never ready: nothing to protect
    constraint cleaned_needs_proof check (state <> 'cleaned' or cleaned_proof is not null),
    check (state <> 'refused' or reason is not null)
);
create index run_project on mover.run (project_id, created_at desc);
create index run_holding on mover.run (tier) where state not in ('cleaned', 'refused');

create table mover.run_entry (
    project_id  text not null references mover.project,
    run_id      text not null references mover.run,
    path        text not null,                      -- below the run root, as in the manifest
    number      text references mover.slide,        -- null for what the seal itself writes (records.parquet)
    size_bytes  bigint not null,
    digest      text not null,
    archive_tier text,
    archive_key text,
    staged_at   timestamptz,                        -- set only after the cold re-read of the flash copy
    staged_how  text check (staged_how in ('copied', 'linked', 'written')),
    primary key (run_id, path),
    check ((staged_at is null) = (staged_how is null)),
    check ((number is null) = (archive_key is null))
);
create index run_entry_digest on mover.run_entry (digest);

-- the flash tier's content store, one line per digest that stands there
create table mover.content (
    tier        text not null references mover.tier,
    digest      text not null,
    size_bytes  bigint not null,
    mark        text not null,                      -- fingerprint after our own last link or unlink
    verified_at timestamptz not null,
    used_at     timestamptz not null default now(),
    primary key (tier, digest)
);

create table mover.stray (
    project_id  text not null references mover.project,
    run_id      text not null references mover.run,
    path        text not null,
    size_bytes  bigint not null,
    why         text not null,                      -- stranger, changed
    moved_to    text not null,
    at          timestamptz not null default now(),
    primary key (run_id, path)
);

-- === step 4: snapshots ===============================================================================

create table mover.snapshot (
    id          text primary key,
    project_id  text not null references mover.project,
    sequence    bigint generated always as identity,  -- order of record: retention counts on nothing else
    run_id      text references mover.run,
    tier        text not null references mover.tier,
    repository_id text not null,                    -- the 64 hex characters restic prints
    policy      text not null,
    state       text not null default 'written' check (state in ('written', 'checked', 'forgotten')),
    files       bigint not null,
    bytes       bigint not null,
    added_bytes bigint not null,
    missing     text[] not null default '{}',       -- parts that were asked for and are not in it
    recorded_at timestamptz not null default now(),
    forgotten_at timestamptz,
    reasons     text[] not null default '{}',       -- why it is kept or was forgotten
    unique (tier, repository_id)
);
create index snapshot_run on mover.snapshot (run_id);

create table mover.artifact (
    project_id  text not null references mover.project,
    snapshot_id text not null references mover.snapshot,
    path        text not null,
    size_bytes  bigint not null,
    digest      text not null,
    primary key (snapshot_id, path)
);

-- === requests ========================================================================================

create table mover.idempotency (
    project_id  text not null references mover.project,
    key         text not null,
    route       text not null,
    body_digest text not null,
    subject_id  text not null,
    at          timestamptz not null default now(),
    primary key (project_id, key)
);

-- === audit: many chains (D21), written by one function only ===========================================

create table mover.audit_head (
    project_id  text not null,
    node        text not null,
    seq         bigint not null,
    hash        bytea not null,
    primary key (project_id, node)
);

create table mover.audit_record (
    project_id  text not null,
    node        text not null,
    seq         bigint not null,
    at          timestamptz not null,
    body        text not null,                      -- JSON as hashed: actor, action, subject, reason, request
    prev        bytea not null,
    hash        bytea not null,
    primary key (project_id, node, seq)
);
create index audit_subject on mover.audit_record (project_id, ((body::jsonb) ->> 'subject'));

-- what belongs to a row belongs to its project: the check of a plain foreign key sees rows of every project, so one
-- project could hang entries, strays or snapshots on another's run
do $$
declare r record;
begin
    for r in select c.conname as name, c.conrelid::regclass as child, c.confrelid::regclass as parent,
                    k.attname as child_column, p.attname as parent_column, c.confrelid as parent_id,
                    (select relname from pg_class where oid = c.confrelid) || '_of_project' as key
             from pg_constraint c
             join pg_attribute k on k.attrelid = c.conrelid and k.attnum = c.conkey[1]
             join pg_attribute p on p.attrelid = c.confrelid and p.attnum = c.confkey[1]
             where c.contype = 'f' and cardinality(c.conkey) = 1 and c.connamespace = 'mover'::regnamespace
               and exists (select from pg_attribute where attrelid = c.conrelid and attname = 'project_id')
               and exists (select from pg_attribute where attrelid = c.confrelid and attname = 'project_id')
             order by c.conrelid::regclass::text, c.conname
    loop
        if not exists (select from pg_constraint where conrelid = r.parent_id and conname = r.key) then
            execute format('alter table %s add constraint %I unique (project_id, %I)', r.parent, r.key, r.parent_column);
        end if;
        execute format('alter table %s drop constraint %I', r.child, r.name);
        execute format('alter table %s add constraint %I foreign key (project_id, %I) references %s (project_id, %I)',
                       r.child, r.name, r.child_column, r.parent, r.parent_column);
    end loop;
end $$;

-- === row level security: every table with a project_id ===================================================

do $$
declare t text;
begin
    for t in select table_name from information_schema.columns
             where table_schema = 'mover' and column_name = 'project_id'
    loop
        -- the sub-select lets the planner ask once per statement instead of once per row
        execute format('alter table mover.%I enable row level security', t);
        execute format('alter table mover.%I force row level security', t);
        execute format('create policy by_project on mover.%I using (project_id = (select mover.current_project()))'
                       ' with check (project_id = (select mover.current_project()))', t);
    end loop;
end $$;

-- a slide belongs to the site; a project sees it through its grant (D19)
alter table mover.slide enable row level security;
alter table mover.slide force row level security;
create policy by_grant on mover.slide for select
    using (exists (select from mover.slide_grant g where g.number = slide.number));
create policy minting on mover.slide for insert
    with check (exists (select from mover.slide_grant g where g.number = slide.number));

-- a token that was revoked stays revoked, whoever holds the daemon's credential
create function mover.keep_revoked() returns trigger language plpgsql as $$
begin
    if old.revoked_at is not null and new.revoked_at is distinct from old.revoked_at then
        raise exception 'a revoked token stays revoked' using errcode = 'insufficient_privilege';
    end if;
    return new;
end $$;
create trigger keep_revoked before update on mover.token for each row execute function mover.keep_revoked();

-- === the proofs a database can check for itself, it checks ================================================

create function mover.check_proof() returns trigger language plpgsql as $$
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
create trigger check_proof before insert on mover.proof for each row execute function mover.check_proof();

-- the only way to write an audit record: extends the chain under its head's lock, in the caller's transaction
create function mover.audit_append(in_project text, in_node text, in_body text) returns bigint
    language plpgsql security definer set search_path = mover, pg_temp as $$
declare head mover.audit_head; stamp timestamptz := clock_timestamp(); next_hash bytea;
begin
    perform in_body::jsonb;
    insert into mover.audit_head values (in_project, in_node, 0, '\x') on conflict do nothing;
    select * into head from mover.audit_head where project_id = in_project and node = in_node for update;
    next_hash := sha256(head.hash || convert_to(
        (head.seq + 1)::text || '|' || to_char(stamp at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')
        || '|' || in_project || '|' || in_node || '|' || in_body, 'UTF8'));
    insert into mover.audit_record values (in_project, in_node, head.seq + 1, stamp, in_body, head.hash, next_hash);
    update mover.audit_head set seq = head.seq + 1, hash = next_hash where project_id = in_project and node = in_node;
    return head.seq + 1;
end $$;

-- === the vault: its own schema, its own role, every row sealed (D10) =======================================

-- names and paths: entry paths, batch folders, expected lists, table paths. `lookup` is a keyed hash.
create table vault.sealed (
    id          text primary key,
    project_id  text not null,
    kind        text not null,
    lookup      bytea not null,
    body        bytea not null,
    created_at  timestamptz not null default now(),
    unique (project_id, kind, lookup)
);

-- one scan, one number, per site (D19)
create table vault.number (
    site        text not null,
    lookup      bytea not null,                     -- keyed hash of the source's digest
    number      text not null unique,
    body        bytea not null,                     -- sealed: original names
    created_at  timestamptz not null default now(),
    primary key (site, lookup)
);

-- a patient's pseudonym and date offset, minted once per site
create table vault.subject (
    site        text not null,
    lookup      bytea not null,
    pseudonym   text not null unique,
    body        bytea not null,                     -- sealed: date offset
    primary key (site, lookup)
);
alter table vault.sealed enable row level security;
alter table vault.sealed force row level security;
create policy by_project on vault.sealed using (project_id = mover.current_project())
    with check (project_id = mover.current_project());

reset role;

-- === what crosses projects, in functions with one purpose each =============================================

grant usage on schema mover to mover_dispatch, mover_daemon;
grant usage on schema vault to mover_vault;
grant usage on schema queue to mover_daemon;
grant select on mover.slide, mover.shard, mover.token, mover.run, mover.content, mover.run_entry, mover.audit_record to mover_dispatch;
grant select on mover.project to mover_dispatch;
grant update (lease_until) on mover.shard to mover_dispatch;
grant create on schema mover to mover_dispatch;
set role mover_dispatch;

-- shards that want a worker: waiting and due, or running with a lapsed lease
create function mover.shards_due(in_queues text[], in_limit integer)
    returns table (shard_id text, project_id text, queue text, priority integer)
    language sql stable security definer set search_path = mover, pg_temp as $$
    select id, project_id, queue, priority from mover.shard
     where queue = any (in_queues)
       and ((state = 'waiting' and not_before <= now()) or (state = 'running' and lease_until < now()))
     order by priority desc, created_at limit in_limit
$$;

-- a node that starts again voids what an earlier process of the same node still holds
create function mover.void_leases(in_node text, in_holder text) returns bigint
    language sql security definer set search_path = mover, pg_temp as $$
    with voided as (
        update mover.shard set lease_until = now()
         where state = 'running' and starts_with(holder, in_node || '/') and holder <> in_holder and lease_until > now()
        returning 1)
    select count(*) from voided
$$;

create function mover.token_by_hash(in_hash bytea)
    returns table (id text, actor text, role text, project_id text, posix_uid integer, posix_gid integer)
    language sql stable security definer set search_path = mover, pg_temp as $$
    select id, actor, role, project_id, posix_uid, posix_gid from mover.token
     where hash = in_hash and revoked_at is null and (expires_at is null or expires_at > now())
$$;

-- bytes of a tier that were promised to runs, whatever their project: a promise ends when the root is gone
create function mover.tier_reserved(in_tier text) returns bigint
    language sql stable security definer set search_path = mover, pg_temp as $$
    select coalesce(sum(reserved_bytes), 0) from mover.run where tier = in_tier and reserved_bytes > 0
$$;

-- does a number stand in the archive, whatever project published it? (a scan has one number per site)
create function mover.slide_stands(in_number text) returns boolean
    language sql stable security definer set search_path = mover, pg_temp as $$
    select exists (select from mover.slide where number = in_number)
$$;

-- bytes of live runs that are promised but not staged yet
create function mover.tier_outstanding(in_tier text) returns bigint
    language sql stable security definer set search_path = mover, pg_temp as $$
    select coalesce(sum(e.size_bytes), 0)::bigint from mover.run r join mover.run_entry e on e.run_id = r.id
     where r.tier = in_tier and r.state in ('admitted', 'staging') and e.staged_at is null
$$;

-- runs whose lease has lapsed: they go to protect-then-clean, never to deletion
create function mover.runs_lapsed() returns table (run_id text, project_id text)
    language sql stable security definer set search_path = mover, pg_temp as $$
    select id, project_id from mover.run where state = 'ready' and lease_until < now()
$$;

-- digests on a flash tier that some live run still holds; one that is not admitted yet holds nothing, or two that
-- wait could keep each other out for ever
create function mover.content_held(in_tier text) returns table (digest text)
    language sql stable security definer set search_path = mover, pg_temp as $$
    select distinct e.digest from mover.run_entry e join mover.run r on r.id = e.run_id
     where r.tier = in_tier and r.state not in ('requested', 'cleaned', 'refused', 'cancelled', 'failed')
$$;

reset role;
revoke create on schema mover from mover_dispatch;

grant select, insert, update on all tables in schema mover to mover_daemon;
-- history is not rewritten by the daemon's own role
revoke insert, update on mover.audit_record, mover.audit_head from mover_daemon;
revoke update on mover.proof, mover.policy, mover.slide, mover.selection, mover.cohort,
    mover.artifact, mover.stray, mover.slide_grant from mover_daemon;
grant delete on mover.content to mover_daemon;
grant delete on mover.ledger, mover.record_set to mover_daemon;
revoke select on mover.token from mover_daemon;
grant update (revoked_at) on mover.token to mover_daemon;
grant select (id, actor, role, project_id, created_at, expires_at, revoked_at) on mover.token to mover_daemon;
grant usage on all sequences in schema mover to mover_daemon;
revoke execute on all functions in schema mover from public;
grant execute on all functions in schema mover to mover_daemon;
grant usage on schema mover to mover_vault;
grant execute on function mover.current_project(), mover.audit_append(text, text, text) to mover_vault;
grant select, insert, update on vault.sealed, vault.number, vault.subject to mover_vault;
revoke update on vault.number, vault.subject from mover_vault;

-- === walks: what stands on the tiers ====================================================================

set role mover_owner;

create sequence mover.scan_order;

-- one walk of a tier or of a folder of it. `key` columns here and below: the path's own bytes on deidentified
-- tiers, a keyed 32-byte tag on identified ones, whose sealed names stand in the vault (D10)
create table mover.scan (
    id          text primary key,
    project_id  text not null references mover.project,
    tier        text not null references mover.tier,
    number      bigint not null unique default nextval('mover.scan_order'),  -- order of beginning: what saw an entry last
    prefix      bytea not null default '',
    method      text not null default 'walk' check (method in ('walk', 'listing', 'inventory')),
    options     jsonb not null default '{}',
    state       text not null default 'waiting'
                check (state in ('waiting', 'walking', 'merging', 'complete', 'incomplete', 'failed')),
    folders     bigint not null default 0,          -- read to their end; of a listing: prefixes
    folders_left bigint not null default 0,
    entries     bigint not null default 0,          -- names that were asked for their state
    bytes       numeric not null default 0,
    listings    bigint not null default 0,          -- parts of folders, of which `listings_same` equal what is known
    listings_same bigint not null default 0,
    vanished    bigint not null default 0,          -- named by a folder and gone before they could be asked
    findings    bigint not null default 0,          -- what could not be seen: any makes the scan incomplete
    same        bigint not null default 0,          -- the drift between catalog and tier, counted as it is merged
    new         bigint not null default 0,
    changed     bigint not null default 0,
    changed_verified bigint not null default 0,     -- of these, digested and verified before: their digest is void now
    gone        bigint,                             -- null: not judged, because the scan is not complete
    gone_verified bigint,
    walk_s      double precision not null default 0,
    merge_s     double precision not null default 0,
    error_code  text,
    explanation text,
    created_by  text not null,
    created_at  timestamptz not null default now(),
    started_at  timestamptz,
    finished_at timestamptz,
    unique (project_id, id),
    check (state <> 'complete' or (findings = 0 and folders_left = 0))
);
create index scan_project on mover.scan (project_id, created_at desc);
-- one walk of one place at a time
create unique index scan_running on mover.scan (project_id, tier, prefix) where state in ('waiting', 'walking', 'merging');

-- the frontier: folders that are known and not read to their end. A killed scan goes on from these rows
create table mover.scan_folder (
    project_id  text not null references mover.project,
    scan_id     text not null,
    key         bytea not null,
    spilled     boolean not null default false,     -- not in the walker's memory now
    parent      bytea,                              -- waits for this folder to be read to its end; null: may be walked
    primary key (scan_id, key),
    foreign key (project_id, scan_id) references mover.scan (project_id, id)
);

create index scan_folder_parent on mover.scan_folder (scan_id, parent) where parent is not null;

-- what could not be seen, and what drifted; the first of them by name, all of them in the scan's counts
create table mover.scan_finding (
    id          bigint generated always as identity primary key,
    project_id  text not null references mover.project,
    scan_id     text not null,
    code        text not null,
    key         bytea not null,
    at          timestamptz not null default now(),
    foreign key (project_id, scan_id) references mover.scan (project_id, id)
);
create index scan_finding_scan on mover.scan_finding (scan_id, id);

-- a part of a folder as it was seen last, by the digest of its names and their state: an unchanged one is one row
create table mover.listing (
    id          bigint generated always as identity primary key,
    project_id  text not null references mover.project,
    tier        text not null references mover.tier,
    folder      bytea not null,
    part        integer not null,
    digest      bytea not null,
    entries     integer not null,
    seen        bigint not null,                    -- number of the scan that saw it last
    sent        bigint not null,                    -- number of the scan that saw it changed last
    unique (project_id, tier, folder, part)
);

-- one file or object. No foreign keys: each would cost as much as the row, by the ten million
create table mover.entry (
    id          bigint generated always as identity primary key,
    project_id  text not null,
    tier        text not null,
    key         bytea not null,
    kind        text not null check (kind in ('file', 'symlink', 'other')),
    size_bytes  bigint not null,
    mtime_ns    bigint not null,
    mark        text not null,                      -- inode and change time, or etag: as `Fingerprint.mark`
    digest      text check (digest ~ '^[0-9a-f]{64}$'),  -- of the content under exactly this fingerprint
    verified_at timestamptz,                        -- when those bytes were last read back cold
    listing_id  bigint,                             -- null: recorded by a transfer, not yet seen by a walk
    scan_id     text,                               -- the scan that found it new or changed
    seen        bigint not null default 0,          -- number of the scan that looked at it one by one last
    recorded_at timestamptz not null default now(), -- when this fingerprint was first known
    gone_at     timestamptz,                        -- not there any more, as a complete scan found
    unique (project_id, tier, key),
    check (verified_at is null or digest is not null)
);
create index entry_listing on mover.entry (listing_id);
create index entry_gone on mover.entry (tier, gone_at) where gone_at is not null;
create index entry_unseen on mover.entry (tier) where listing_id is null;

-- where a walk puts what it saw: one row per part of a folder, columns as arrays. COPY knows no row level security,
-- so nobody reads this table: `mover.staged` shows a project its own rows, and `staged_for` cannot be written
create table mover.entry_stage (
    id          bigint generated always as identity primary key,
    staged_for  text not null default current_setting('mover.project'),
    scan_id     text not null,
    folder      bytea not null,
    part        integer not null,
    digest      bytea not null,
    entries     integer not null,
    whole       boolean not null,                   -- names are whole keys (or tags), not names in the folder
    names       bytea[],                            -- null: the listing is the known one
    modes       smallint[],                         -- type bits of st_mode, shifted; null: plain files only
    sizes       bigint[],
    mtimes      bigint[],
    inodes      bigint[],
    ctimes      bigint[],
    marks       text[]                              -- of objects: etags, instead of inodes and change times
);
create index entry_stage_scan on mover.entry_stage (scan_id, id);
-- never compressed: it would cost more than everything else
alter table mover.entry_stage alter names set storage external, alter modes set storage external,
    alter sizes set storage external, alter mtimes set storage external, alter inodes set storage external,
    alter ctimes set storage external, alter marks set storage external;

create view mover.staged with (security_barrier) as
    select id, scan_id, folder, part, digest, entries, whole, names, modes, sizes, mtimes, inodes, ctimes, marks
      from mover.entry_stage where staged_for = (select mover.current_project());

do $$
declare t text;
begin
    foreach t in array array['scan', 'scan_folder', 'scan_finding', 'listing', 'entry'] loop
        execute format('alter table mover.%I enable row level security', t);
        execute format('alter table mover.%I force row level security', t);
        execute format('create policy by_project on mover.%I using (project_id = (select mover.current_project()))'
                       ' with check (project_id = (select mover.current_project()))', t);
    end loop;
end $$;

grant select, insert, update on mover.scan to mover_daemon;
grant select, insert, update, delete on mover.scan_folder, mover.listing, mover.entry to mover_daemon;
grant select, insert on mover.scan_finding to mover_daemon;
grant select, delete on mover.staged to mover_daemon;
grant insert (scan_id, folder, part, digest, entries, whole, names, modes, sizes, mtimes, inodes, ctimes, marks)
    on mover.entry_stage to mover_daemon;
grant usage on sequence mover.scan_order to mover_daemon;

reset role;

-- === transfers: the general verb, and the release of what was moved =======================================

set role mover_owner;

create table mover.transfer (
    id          text primary key,
    project_id  text not null references mover.project,
    verb        text not null check (verb in ('copy', 'move')),
    state       text not null default 'planning'
                check (state in ('planning', 'refused', 'canary', 'waiting', 'moving', 'paused', 'releasing', 'done',
                                 'incomplete', 'failed', 'aborted')),
    paused_in   text,                               -- the state a pause goes back to
    reason      text,
    explanation text,
    sources     text[] not null,                    -- tiers, in the order of the request
    target      text not null references mover.tier,
    policy      text,
    request     jsonb not null,                     -- what was asked, with keys as `names.key_text` writes them
    offenders   jsonb,                              -- of a refused plan, the first of them; all are refused entries
    entries     bigint not null default 0,          -- frozen by the plan
    bytes       numeric not null default 0,
    looked_at   bigint not null default 0,          -- entries the plan saw, selected or not
    estimate_s  double precision,
    -- counted where the entries change, in the same transaction
    moved_count bigint not null default 0,
    moved_bytes numeric not null default 0,
    present_count bigint not null default 0,
    present_bytes numeric not null default 0,
    skipped_count bigint not null default 0,
    failed_count bigint not null default 0,
    rounds      integer not null default 0,         -- how often what failed was tried again
    busy_since  timestamptz,                        -- moving now, since then
    busy_s      double precision not null default 0,  -- before that
    created_by  text not null,
    created_at  timestamptz not null default now(),
    started_at  timestamptz,
    finished_at timestamptz,
    unique (project_id, id),
    check (state <> 'refused' or reason is not null)
);
create index transfer_project on mover.transfer (project_id, created_at desc);
create index transfer_policy on mover.transfer (project_id, policy, created_at desc) where policy is not null;
create index transfer_pace on mover.transfer (project_id, target, finished_at desc) where state in ('done', 'incomplete');

-- one entry of a transfer. Its keys are bytes as the tiers spell them, which only deidentified tiers may put here (D10)
create table mover.transfer_entry (
    id          bigint generated always as identity primary key,
    project_id  text not null,
    transfer_id text not null,
    at          smallint not null,                  -- which of the request's sources
    source      bytea not null,
    target      bytea not null,
    kind        text not null check (kind in ('file', 'symlink', 'folder', 'other')),
    size_bytes  bigint not null,
    mtime_ns    bigint not null,
    mark        text not null,
    known       text,                               -- digest the catalog knew under this fingerprint
    known_since timestamptz,                        -- and when it was verified
    state       text not null default 'waiting'
                check (state in ('waiting', 'moved', 'present', 'skipped', 'failed', 'refused')),
    tries       smallint not null default 0,
    digest      text check (digest ~ '^[0-9a-f]{64}$'),
    verified_at timestamptz,                        -- when the copy was read back cold
    shared      boolean not null default false,
    trusted_since timestamptz,
    code        text,                               -- of what went wrong, or of the word that left it out
    what        text,
    finished_at timestamptz,
    foreign key (project_id, transfer_id) references mover.transfer (project_id, id),
    check (state not in ('failed', 'refused') or code is not null),
    -- what stands there was read: no entry counts as moved without its digest
    check (state not in ('moved', 'present') or kind <> 'file' or digest is not null)
);
create index transfer_entry_of on mover.transfer_entry (transfer_id, id);
create index transfer_entry_waiting on mover.transfer_entry (transfer_id, at, id) where state = 'waiting';
create index transfer_entry_failed on mover.transfer_entry (transfer_id, code, id) where state in ('failed', 'refused');

-- large entries on their way: where an attempt writes (row 0), and the parts of it that are durable and verified
create table mover.transfer_part (
    project_id  text not null,
    transfer_id text not null,
    attempt_id  text not null,
    number      integer not null,
    place       text,                               -- of row 0: the upload's id, or the temporary name
    begins      bigint not null default 0,
    length      bigint not null default 0,
    segments    text[] not null default '{}',       -- BLAKE3 of each 16 MiB of what was written
    etag        text not null default '',
    at          timestamptz not null default now(),
    primary key (transfer_id, attempt_id, number),
    foreign key (project_id, transfer_id) references mover.transfer (project_id, id)
);

-- the second half of a move (D14): sources of one tier, renamed to a trash name, held, then purged by row id
create table mover.release (
    id          text primary key,
    project_id  text not null references mover.project,
    transfer_id text not null,
    tier        text not null references mover.tier,
    state       text not null default 'waiting'
                check (state in ('waiting', 'releasing', 'held', 'restoring', 'restored', 'purging', 'purged', 'failed',
                                 'dropped')),
    reason      text,
    explanation text,
    entries     bigint not null,
    bytes       numeric not null,
    hold_s      integer not null check (hold_s >= 0),
    hold_until  timestamptz,                        -- by the server's clock, from the last entry released
    epoch       text not null,                      -- of the catalog: one that was restored from a backup purges nothing
    requested_by text not null,
    approved_by text,                               -- the second person, where one is needed
    created_at  timestamptz not null default now(),
    finished_at timestamptz,
    unique (project_id, id),
    foreign key (project_id, transfer_id) references mover.transfer (project_id, id),
    check (state not in ('held', 'purging', 'purged') or hold_until is not null)
);
create index release_transfer on mover.release (transfer_id);
create index release_held on mover.release (project_id, hold_until) where state in ('held', 'purging');

create table mover.release_entry (
    id          bigint generated always as identity primary key,  -- what purging names
    project_id  text not null,
    release_id  text not null,
    entry_id    bigint not null,                    -- of mover.transfer_entry
    state       text not null default 'waiting'
                check (state in ('waiting', 'leaving', 'released', 'kept', 'restored', 'purging', 'purged')),
    source      bytea not null,
    size_bytes  bigint not null,
    digest      text not null,
    trash       bytea,                              -- written before the rename, so that a crash leaves nothing unknown
    device      bigint,
    inode       bigint,
    code        text,
    what        text,
    released_at timestamptz,
    ended_at    timestamptz,
    foreign key (project_id, release_id) references mover.release (project_id, id),
    check (state in ('waiting', 'kept') or (trash is not null and device is not null and inode is not null)),
    check (state <> 'kept' or code is not null)
);
-- one source leaves once; what was kept or brought back may be asked for again
create unique index release_entry_once on mover.release_entry (entry_id) where state not in ('kept', 'restored');
create index release_entry_entry on mover.release_entry (entry_id, id);
create index release_entry_of on mover.release_entry (release_id, state, id);

do $$
declare t text;
begin
    foreach t in array array['transfer', 'transfer_entry', 'transfer_part', 'release', 'release_entry'] loop
        execute format('alter table mover.%I enable row level security', t);
        execute format('alter table mover.%I force row level security', t);
        execute format('create policy by_project on mover.%I using (project_id = (select mover.current_project()))'
                       ' with check (project_id = (select mover.current_project()))', t);
    end loop;
end $$;

grant select, insert, update on mover.transfer, mover.transfer_entry, mover.release, mover.release_entry to mover_daemon;
grant select, insert, update, delete on mover.transfer_part to mover_daemon;
grant select on mover.release to mover_dispatch;

reset role;

grant create on schema mover to mover_dispatch;
set role mover_dispatch;

-- keys of a tier that some project's slides or live runs point to: those bytes are not released, whoever asks
create function mover.keys_held(in_tier text, in_keys text[]) returns table (key text)
    language sql stable security definer set search_path = mover, pg_temp as $$
    select s.key from mover.slide s where s.tier = in_tier and s.key = any (in_keys)
    union select s.thumbnail_key from mover.slide s where s.tier = in_tier and s.thumbnail_key = any (in_keys)
    union select e.archive_key from mover.run_entry e join mover.run r on r.id = e.run_id
           where e.archive_tier = in_tier and e.archive_key = any (in_keys)
             and r.state not in ('cleaned', 'refused', 'cancelled', 'failed')
$$;

-- releases whose hold is over
create function mover.releases_over() returns table (release_id text, project_id text, tier text)
    language sql stable security definer set search_path = mover, pg_temp as $$
    select id, project_id, tier from mover.release where state = 'held' and hold_until < now() order by hold_until
$$;

reset role;
revoke create on schema mover from mover_dispatch;
revoke execute on function mover.keys_held(text, text[]), mover.releases_over() from public;
grant execute on function mover.keys_held(text, text[]), mover.releases_over() to mover_daemon;

-- === budgets of tiers, and verifications ==================================================================

set role mover_owner;

-- what fraction of a tier's budget a daemon holds until it says otherwise; written under the tier's advisory lock,
-- so that the fractions of the living never sum above one. Tiers belong to the instance, so there is no project
create table mover.tier_use (
    tier        text not null references mover.tier,
    node        text not null,                      -- <node>-<role>
    fraction    double precision not null check (fraction between 0 and 1),
    seen_at     timestamptz not null default clock_timestamp(),
    primary key (tier, node)
);

-- one reading of a tier, a run root or a list of keys against the catalog
create table mover.verification (
    id          text primary key,
    project_id  text not null references mover.project,
    tier        text not null references mover.tier,
    scope       text not null check (scope in ('tier', 'run', 'list')),
    prefix      bytea not null default '',
    run_id      text,
    policy      text,                               -- null: asked for by a person
    strangers   boolean not null,                   -- the tier is listed too
    repair_from text references mover.tier,
    limit_bytes numeric,                            -- of a share: the oldest proofs up to so many bytes
    state       text not null default 'planning'
                check (state in ('planning', 'reading', 'listing', 'confirming', 'complete', 'failed', 'aborted')),
    reason      text,
    explanation text,
    entries     bigint not null default 0,          -- to be read, as planned
    bytes       numeric not null default 0,
    checked_count bigint not null default 0,
    checked_bytes numeric not null default 0,
    listed_count bigint not null default 0,
    created_by  text not null,
    created_at  timestamptz not null default now(),
    started_at  timestamptz,
    finished_at timestamptz,
    unique (project_id, id),
    foreign key (project_id, run_id) references mover.run (project_id, id),
    check ((scope = 'run') = (run_id is not null)),
    check (state <> 'failed' or reason is not null)
);
create index verification_project on mover.verification (project_id, created_at desc);
create index verification_policy on mover.verification (project_id, policy, created_at desc) where policy is not null;

-- its work list, frozen, oldest proof first; which row is still waiting is where a killed one goes on
create table mover.verification_entry (
    id          bigint generated always as identity primary key,
    project_id  text not null,
    verification_id text not null,
    key         bytea not null,                     -- as the tier spells it: only deidentified tiers are verified
    source      text not null check (source in ('entry', 'slide', 'run', 'list', 'listing')),  -- who says it should be there
    subject     text,                               -- number of the slide, id of the run
    digest      text check (digest ~ '^[0-9a-f]{64}$'),  -- null: nothing in the catalog knows this key
    size_bytes  bigint,
    mtime_ns    bigint,                             -- fingerprint under which the digest was verified last, if known
    mark        text,
    state       text not null default 'waiting' check (state in ('waiting', 'whole', 'found', 'known')),
    finished_at timestamptz,
    foreign key (project_id, verification_id) references mover.verification (project_id, id)
);
create index verification_entry_of on mover.verification_entry (verification_id, id);
create unique index verification_entry_key on mover.verification_entry (verification_id, key);
create index verification_entry_waiting on mover.verification_entry (verification_id, id) where state = 'waiting';

-- what is not as the catalog says. Open ones are the damage that stands; whole or repaired since, they are closed
create table mover.verification_finding (
    id          text primary key,
    project_id  text not null,
    verification_id text not null,
    tier        text not null references mover.tier,
    key         bytea not null,
    kind        text not null check (kind in ('bit-rot', 'changed', 'missing', 'stranger', 'unreadable')),
    source      text not null,
    subject     text,
    expected    text,
    found       text,
    size_bytes  bigint,
    found_bytes bigint,
    code        text,                               -- the tier's error, of what could not be read
    state       text not null default 'open' check (state in ('open', 'repaired', 'cleared', 'repeated')),
    explanation text,                               -- why, and what stands in the way of a repair
    quarantine  text,                               -- where the damaged bytes are; written before they are moved
    repaired_from text,
    repaired_at timestamptz,
    at          timestamptz not null default now(),
    unique (verification_id, key),
    foreign key (project_id, verification_id) references mover.verification (project_id, id),
    check (state <> 'repaired' or (repaired_at is not null and repaired_from is not null))
);
create index verification_finding_open on mover.verification_finding (project_id, tier, key) where state = 'open';

-- what the catalog vouches for on a tier below a prefix, each key once: slides and their thumbnails, and every entry
-- whose digest is known. Fingerprint and time of the last proof are the entry's, where its digest is the same. It
-- runs with the rights of who asks, so a project sees its own
create function mover.vouched(in_tier text, in_prefix bytea)
    returns table (key bytea, source text, subject text, digest text, size_bytes bigint, mtime_ns bigint, mark text,
                   verified_at timestamptz)
    language sql stable as $$
    with slides as (
        select convert_to(s.key, 'UTF8') as key, s.number, s.digest, s.size_bytes from mover.slide s where s.tier = in_tier
        union all
        select convert_to(s.thumbnail_key, 'UTF8'), s.number, s.thumbnail_digest, s.thumbnail_bytes
          from mover.slide s
         where s.tier = in_tier and s.thumbnail_key is not null and s.thumbnail_digest is not null),
    known as (
        select s.key, 'slide' as source, s.number as subject, s.digest, s.size_bytes, e.mtime_ns, e.mark, e.verified_at
          from slides s left join mover.entry e on e.tier = in_tier and e.key = s.key and e.digest = s.digest
        union all
        select e.key, 'entry', null, e.digest, e.size_bytes, e.mtime_ns, e.mark, e.verified_at from mover.entry e
         where e.tier = in_tier and e.kind = 'file' and e.digest is not null
           and not exists (select from slides s where s.key = e.key)
           -- what was released left on purpose; what is gone without that is missing
           and (e.gone_at is null or not exists (
                select from mover.release_entry r join mover.release l on l.id = r.release_id
                 where l.tier = in_tier and r.source = e.key and r.state in ('leaving', 'released', 'purging', 'purged'))))
    select * from known k
     where in_prefix = ''::bytea or k.key = in_prefix
        or substring(k.key from 1 for length(in_prefix) + 1) = in_prefix || '/'::bytea
$$;

do $$
declare t text;
begin
    foreach t in array array['verification', 'verification_entry', 'verification_finding'] loop
        execute format('alter table mover.%I enable row level security', t);
        execute format('alter table mover.%I force row level security', t);
        execute format('create policy by_project on mover.%I using (project_id = (select mover.current_project()))'
                       ' with check (project_id = (select mover.current_project()))', t);
    end loop;
end $$;

grant select, insert, update, delete on mover.tier_use to mover_daemon;
grant select, insert, update on mover.verification, mover.verification_entry, mover.verification_finding to mover_daemon;
grant delete on mover.verification_entry to mover_daemon;
grant select on mover.entry, mover.content to mover_dispatch;

reset role;

grant create on schema mover to mover_dispatch;
set role mover_dispatch;

-- which of these keys the catalog vouches for, whatever the project: what another project owns is no stranger.
-- With `in_seen` it is enough that a walk saw it; else a digest must be known
create function mover.keys_known(in_tier text, in_keys bytea[], in_seen boolean) returns table (key bytea)
    language sql stable security definer set search_path = mover, pg_temp as $$
    select e.key from mover.entry e
     where e.tier = in_tier and e.key = any (in_keys) and (in_seen or e.digest is not null)
    union select k from unnest(in_keys) k
            join mover.slide s on s.number = substring(encode(k, 'escape') from '^slides/([0-9A-Z]{17})/')
           where s.tier = in_tier
             and k in (convert_to(s.key, 'UTF8'), convert_to(s.thumbnail_key, 'UTF8'),
                       convert_to('slides/' || s.number || '/sidecar.json', 'UTF8'))
$$;

reset role;
revoke create on schema mover from mover_dispatch;
revoke execute on function mover.keys_known(text, bytea[], boolean), mover.vouched(text, bytea) from public;
grant execute on function mover.keys_known(text, bytea[], boolean), mover.vouched(text, bytea) to mover_daemon;

-- === hints of file events ==================================================================================

set role mover_owner;

-- one watcher's unbroken watch of a tier: every change since `since` and until `heard_at` stands in the hints, or was
-- read by a scan since. A watcher that starts, or that lost events, begins a new one
create table mover.folder_watch (
    project_id  text not null references mover.project,
    tier        text not null references mover.tier,
    since       timestamptz not null,
    heard_at    timestamptz not null,
    reason      text not null,                      -- why it does not reach further back
    primary key (project_id, tier)
);

-- folders that changed, by the path's own bytes: only deidentified tiers are watched. What a scan reads it first makes
-- its own, so that a change that comes meanwhile is a row beside
create table mover.folder_hint (
    project_id  text not null references mover.project,
    tier        text not null references mover.tier,
    scan_id     text not null default '',           -- the scan that reads it; empty: none yet
    folder      bytea not null,
    deep        boolean not null,                   -- came, went or moved: all that is below it counts
    seen_at     timestamptz not null default clock_timestamp(),
    primary key (project_id, tier, scan_id, folder)
);

do $$
declare t text;
begin
    foreach t in array array['folder_watch', 'folder_hint'] loop
        execute format('alter table mover.%I enable row level security', t);
        execute format('alter table mover.%I force row level security', t);
        execute format('create policy by_project on mover.%I using (project_id = (select mover.current_project()))'
                       ' with check (project_id = (select mover.current_project()))', t);
    end loop;
end $$;

grant select, insert, update on mover.folder_watch to mover_daemon;
grant select, insert, update, delete on mover.folder_hint to mover_daemon;

-- a scan of changes saw what it was pointed to, and never claims to have seen everything
alter table mover.scan drop constraint scan_method_check, drop constraint scan_state_check;
alter table mover.scan
    add constraint scan_method_check check (method in ('walk', 'listing', 'inventory', 'changes')),
    add constraint scan_state_check check
        (state in ('waiting', 'walking', 'merging', 'complete', 'caught-up', 'incomplete', 'failed')),
    add constraint scan_changes_check check ((method = 'changes' and state <> 'complete') or (method <> 'changes' and state <> 'caught-up'));

reset role;

-- === slides of several files, and who stands for whom ======================================================

set role mover_owner;

-- the row itself is the main file; `root` is the digest over all files where there are more, `rules` the digest of the
-- rules of the profile that it was de-identified under (empty: made before there were profiles)
alter table mover.slide
    add column files_count integer not null default 0 check (files_count >= 0),
    add column files_bytes bigint not null default 0 check (files_bytes >= 0),
    add column root text check (root ~ '^[0-9a-f]{64}$'),
    add column rules text not null default '',
    add constraint several_have_a_root check ((files_count = 0) = (root is null));

-- the files of a slide beside its main one, by their names below the slide's folder
create table mover.slide_file (
    number      text not null references mover.slide deferrable initially deferred,
    name        text not null,
    size_bytes  bigint not null,
    digest      text not null check (digest ~ '^[0-9a-f]{64}$'),
    segments    text[] not null default '{}',
    tier        text not null references mover.tier,
    key         text not null,
    primary key (number, name),
    unique (tier, key)
);
create index slide_file_digest on mover.slide_file (digest);
alter table mover.slide_file enable row level security;
alter table mover.slide_file force row level security;
create policy by_grant on mover.slide_file for select
    using (exists (select from mover.slide_grant g where g.number = slide_file.number));
create policy minting on mover.slide_file for insert
    with check (exists (select from mover.slide_grant g where g.number = slide_file.number));
grant select, insert on mover.slide_file to mover_daemon;
grant select on mover.slide_file to mover_dispatch;

-- as before, and with every file of every slide
create or replace function mover.vouched(in_tier text, in_prefix bytea)
    returns table (key bytea, source text, subject text, digest text, size_bytes bigint, mtime_ns bigint, mark text,
                   verified_at timestamptz)
    language sql stable as $$
    with slides as (
        select convert_to(s.key, 'UTF8') as key, s.number, s.digest, s.size_bytes from mover.slide s where s.tier = in_tier
        union all
        select convert_to(f.key, 'UTF8'), f.number, f.digest, f.size_bytes from mover.slide_file f where f.tier = in_tier
        union all
        select convert_to(s.thumbnail_key, 'UTF8'), s.number, s.thumbnail_digest, s.thumbnail_bytes
          from mover.slide s
         where s.tier = in_tier and s.thumbnail_key is not null and s.thumbnail_digest is not null),
    known as (
        select s.key, 'slide' as source, s.number as subject, s.digest, s.size_bytes, e.mtime_ns, e.mark, e.verified_at
          from slides s left join mover.entry e on e.tier = in_tier and e.key = s.key and e.digest = s.digest
        union all
        select e.key, 'entry', null, e.digest, e.size_bytes, e.mtime_ns, e.mark, e.verified_at from mover.entry e
         where e.tier = in_tier and e.kind = 'file' and e.digest is not null
           and not exists (select from slides s where s.key = e.key)
           -- what was released left on purpose; what is gone without that is missing
           and (e.gone_at is null or not exists (
                select from mover.release_entry r join mover.release l on l.id = r.release_id
                 where l.tier = in_tier and r.source = e.key and r.state in ('leaving', 'released', 'purging', 'purged'))))
    select * from known k
     where in_prefix = ''::bytea or k.key = in_prefix
        or substring(k.key from 1 for length(in_prefix) + 1) = in_prefix || '/'::bytea
$$;

-- a case, a block or a slide as the site's labels and tables name it: what stands for it, minted once per site
create table vault.entity (
    site        text not null,
    kind        text not null check (kind in ('case', 'block', 'slide')),
    lookup      bytea not null,
    pseudonym   text not null unique,
    body        bytea not null,                     -- sealed: the original
    created_at  timestamptz not null default now(),
    primary key (site, kind, lookup)
);

-- a DICOM UID and the one that stands for it, minted once per site (D19): a scan is published once, and every project
-- that is granted it sees one graph
create table vault.uid (
    site        text not null,
    lookup      bytea not null,
    replacement text not null unique check (replacement ~ '^2[.]25[.][0-9]{1,39}$'),
    body        bytea not null,                     -- sealed: the original
    created_at  timestamptz not null default now(),
    primary key (site, lookup)
);
grant select, insert on vault.entity, vault.uid to mover_vault;

reset role;

grant create on schema mover to mover_dispatch;
set role mover_dispatch;

-- under which rules was the slide of this number made, whatever project published it? Null where none stands
drop function mover.slide_stands(text);
create function mover.slide_rules(in_number text) returns text
    language sql stable security definer set search_path = mover, pg_temp as $$
    select rules from mover.slide where number = in_number
$$;

-- as before, and with every file of every slide
create or replace function mover.keys_held(in_tier text, in_keys text[]) returns table (key text)
    language sql stable security definer set search_path = mover, pg_temp as $$
    select s.key from mover.slide s where s.tier = in_tier and s.key = any (in_keys)
    union select s.thumbnail_key from mover.slide s where s.tier = in_tier and s.thumbnail_key = any (in_keys)
    union select f.key from mover.slide_file f where f.tier = in_tier and f.key = any (in_keys)
    union select e.archive_key from mover.run_entry e join mover.run r on r.id = e.run_id
           where e.archive_tier = in_tier and e.archive_key = any (in_keys)
             and r.state not in ('cleaned', 'refused', 'cancelled', 'failed')
$$;

create or replace function mover.keys_known(in_tier text, in_keys bytea[], in_seen boolean) returns table (key bytea)
    language sql stable security definer set search_path = mover, pg_temp as $$
    select e.key from mover.entry e
     where e.tier = in_tier and e.key = any (in_keys) and (in_seen or e.digest is not null)
    union select k from unnest(in_keys) k
            join mover.slide s on s.number = substring(encode(k, 'escape') from '^slides/([0-9A-Z]{17})/')
           where s.tier = in_tier
             and (k in (convert_to(s.key, 'UTF8'), convert_to(s.thumbnail_key, 'UTF8'),
                        convert_to('slides/' || s.number || '/sidecar.json', 'UTF8'))
                  or exists (select from mover.slide_file f
                              where f.number = s.number and f.tier = in_tier and convert_to(f.key, 'UTF8') = k))
$$;

reset role;
revoke create on schema mover from mover_dispatch;
revoke execute on function mover.slide_rules(text) from public;
grant execute on function mover.slide_rules(text) to mover_daemon;

-- === records that arrive later, and certificates ==========================================================

set role mover_owner;

-- a slide in which something of its patient was found after it was published: a fact of the site, whoever found it.
-- No selection and no run takes it from then on, in whatever project
create table mover.slide_withdrawal (
    number      text primary key references mover.slide,
    reason      text not null,                      -- stable code
    found_by    text not null,                      -- id of the record set that brought the words
    at          timestamptz not null default now()
);
alter table mover.slide_withdrawal enable row level security;
alter table mover.slide_withdrawal force row level security;
create policy by_grant on mover.slide_withdrawal for select
    using (exists (select from mover.slide_grant g where g.number = slide_withdrawal.number));
create policy finding on mover.slide_withdrawal for insert
    with check (exists (select from mover.slide_grant g where g.number = slide_withdrawal.number));
grant select, insert on mover.slide_withdrawal to mover_daemon;
grant select on mover.slide_withdrawal, mover.slide_grant to mover_dispatch;

-- slides that were searched for what the tables of a record set say of their patients; which is not here yet is where a
-- killed search goes on
create table mover.slide_search (
    project_id  text not null references mover.project,
    record_set_id text not null,
    number      text not null references mover.slide,
    outcome     text not null check (outcome in ('clean', 'found', 'unsearched')),
    strings     integer not null,                   -- sought, in all their forms
    forms       bigint not null,
    bytes       bigint not null,                    -- of the slide, searched
    root        text not null,                      -- what the slide's files are
    at          timestamptz not null default now(),
    primary key (record_set_id, number),
    foreign key (project_id, record_set_id) references mover.record_set (project_id, id)
);
create index slide_search_number on mover.slide_search (number);

-- certificates as they were issued. The same content is the same certificate: `content` is the digest of all that it
-- says but the time, the chain and the signature
create table mover.certificate (
    digest      text primary key check (digest ~ '^[0-9a-f]{64}$'),
    project_id  text not null references mover.project,
    batch_id    text not null,
    content     text not null check (content ~ '^[0-9a-f]{64}$'),
    fingerprint text not null,                      -- of the public key that signed
    body        text not null,
    issued_by   text not null,
    issued_at   timestamptz not null default clock_timestamp(),
    unique (project_id, batch_id, content, fingerprint),
    foreign key (project_id, batch_id) references mover.batch (project_id, id)
);

do $$
declare t text;
begin
    foreach t in array array['slide_search', 'certificate'] loop
        execute format('alter table mover.%I enable row level security', t);
        execute format('alter table mover.%I force row level security', t);
        execute format('create policy by_project on mover.%I using (project_id = (select mover.current_project()))'
                       ' with check (project_id = (select mover.current_project()))', t);
    end loop;
end $$;
grant select, insert on mover.slide_search, mover.certificate to mover_daemon;

reset role;

grant create on schema mover to mover_dispatch;
set role mover_dispatch;

-- why the slide of this number was withdrawn, whatever project found it; null where it was not
create function mover.slide_withdrawn(in_number text) returns text
    language sql stable security definer set search_path = mover, pg_temp as $$
    select reason from mover.slide_withdrawal where number = in_number
$$;

-- who has to be told that these slides are withdrawn: every project they are granted to, with its runs that hold them
create function mover.slide_holders(in_numbers text[]) returns table (number text, project_id text, run_id text)
    language sql stable security definer set search_path = mover, pg_temp as $$
    select g.number, g.project_id, r.id from mover.slide_grant g
      left join (select distinct e.number, e.project_id, l.id from mover.run_entry e join mover.run l on l.id = e.run_id
                  where e.number = any (in_numbers)
                    and l.state not in ('cleaned', 'refused', 'cancelled', 'failed')) r
        on r.number = g.number and r.project_id = g.project_id
     where g.number = any (in_numbers)
$$;

reset role;
revoke create on schema mover from mover_dispatch;
revoke execute on function mover.slide_withdrawn(text), mover.slide_holders(text[]) from public;
grant execute on function mover.slide_withdrawn(text), mover.slide_holders(text[]) to mover_daemon;

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

-- === the vault is asked, never read: functions only, generations of its key, copies for two, erasure ==========

set role mover_owner;

-- Which generation of the vault's key finds and seals. While `oldest` is behind, a re-key is under way and rows of both
-- stand; every function refuses who comes with another generation, so nobody misses what was re-keyed already.
create table vault.ring (
    one         boolean primary key default true check (one),
    generation  integer not null default 1 check (generation > 0),
    oldest      integer not null default 1,
    key_check   bytea,                              -- keyed hash by which the key is known; null until one came
    changed_at  timestamptz not null default now(),
    check (oldest in (generation, generation - 1))
);
insert into vault.ring default values;

-- `copy` is what only the two sealed key files together open; `subject` whose row this is, where one patient was named
alter table vault.sealed add column generation integer not null default 1;
alter table vault.number add column generation integer not null default 1, add column copy bytea;
alter table vault.subject add column generation integer not null default 1, add column copy bytea;
alter table vault.entity add column generation integer not null default 1, add column copy bytea, add column subject text;
alter table vault.uid add column generation integer not null default 1, add column copy bytea, add column subject text;
create index entity_subject on vault.entity (site, subject) where subject is not null;
create index uid_subject on vault.uid (site, subject) where subject is not null;

-- whose scan a number is, as the scan itself said; what tables say stands in the catalog
create table vault.tie (
    site        text not null,
    number      text not null,
    subject     text not null,
    primary key (site, number, subject)
);
create index tie_subject on vault.tie (site, subject);

-- what was erased: it is not minted again, and a restored backup is brought back to it at the next start
create table vault.tombstone (
    site        text not null,
    kind        text not null check (kind in ('subject', 'number', 'entity', 'uid', 'sealed')),
    lookup      bytea not null,
    generation  integer not null,
    stood_for   text not null,                      -- pseudonym, number, UID or sealed id that was given
    project_id  text not null default '',           -- of a sealed name
    erased_at   timestamptz not null default now(),
    primary key (site, kind, lookup)
);

-- numbers that an honest broker gave to files before they were scanned
create table vault.promise (
    site        text not null,
    lookup      bytea not null,                     -- keyed hash of the file's name
    number      text not null unique,
    generation  integer not null,
    primary key (site, lookup)
);

create function vault.is_of(in_generation integer) returns void language plpgsql stable security definer
    set search_path = vault, pg_temp as $$
declare now_at integer;
begin
    select generation into now_at from vault.ring;
    if now_at <> in_generation then raise exception 'the vault is of generation %', now_at using errcode = 'MV001'; end if;
end $$;

-- Before an insert: a change of generation waits for everybody who passed here, and who comes later sees it.
create function vault.fence(in_generation integer) returns void language plpgsql security definer
    set search_path = vault, pg_temp as $$
begin
    perform pg_advisory_xact_lock_shared(7885631566818767219);
    perform vault.is_of(in_generation);
end $$;

create function vault.refuse_erased(in_site text, in_kind text, in_lookups bytea[]) returns void language plpgsql
    stable security definer set search_path = vault, pg_temp as $$
begin
    if exists (select from vault.tombstone where site = in_site and kind = in_kind and lookup = any (in_lookups)) then
        raise exception 'erased' using errcode = 'MV002';
    end if;
end $$;

-- --- names of a project

create function vault.put_sealed(in_generation integer, in_project text, in_kind text, in_ids text[], in_lookups bytea[],
                                 in_bodies bytea[]) returns void
    language plpgsql security definer set search_path = vault, pg_temp as $$
begin
    perform vault.fence(in_generation);
    insert into vault.sealed (id, project_id, kind, lookup, body, generation)
    select t.id, in_project, in_kind, t.lookup, t.body, in_generation
      from unnest(in_ids, in_lookups, in_bodies) as t (id, lookup, body) order by t.lookup
    on conflict (project_id, kind, lookup) do nothing;
end $$;

create function vault.find_sealed(in_generation integer, in_project text, in_kind text, in_lookups bytea[])
    returns table (id text, lookup bytea) language plpgsql stable security definer set search_path = vault, pg_temp as $$
begin
    perform vault.is_of(in_generation);
    return query select s.id, s.lookup from vault.sealed s
                  where s.project_id = in_project and s.kind = in_kind and s.lookup = any (in_lookups);
end $$;

create function vault.read_sealed(in_generation integer, in_project text, in_ids text[])
    returns table (id text, kind text, lookup bytea, body bytea, generation integer)
    language plpgsql stable security definer set search_path = vault, pg_temp as $$
begin
    perform vault.is_of(in_generation);
    return query select s.id, s.kind, s.lookup, s.body, s.generation from vault.sealed s
                  where s.project_id = in_project and s.id = any (in_ids);
end $$;

-- --- what stands for scans, patients, cases and UIDs

create function vault.find(in_generation integer, in_table text, in_site text, in_kind text, in_lookups bytea[])
    returns table (lookup bytea, drawn text, body bytea, generation integer)
    language plpgsql stable security definer set search_path = vault, pg_temp as $$
begin
    perform vault.is_of(in_generation);
    case in_table
        when 'number' then return query select n.lookup, n.number, n.body, n.generation from vault.number n
            where n.site = in_site and n.lookup = any (in_lookups);
        when 'subject' then return query select s.lookup, s.pseudonym, s.body, s.generation from vault.subject s
            where s.site = in_site and s.lookup = any (in_lookups);
        when 'entity' then return query select e.lookup, e.pseudonym, e.body, e.generation from vault.entity e
            where e.site = in_site and e.kind = in_kind and e.lookup = any (in_lookups);
        when 'uid' then return query select u.lookup, u.replacement, u.body, u.generation from vault.uid u
            where u.site = in_site and u.lookup = any (in_lookups);
        when 'promise' then return query select p.lookup, p.number, ''::bytea, p.generation from vault.promise p
            where p.site = in_site and p.lookup = any (in_lookups);
        when 'tombstone' then return query select t.lookup, t.stood_for, ''::bytea, t.generation from vault.tombstone t
            where t.site = in_site and t.kind = in_kind and t.lookup = any (in_lookups);
    end case;
end $$;

-- Insert-or-get, first half; what another one minted first does not come back. `in_lookups_before` are the same lookups
-- under the generation before, for tombstones that a re-key has not come to.
create function vault.mint(in_generation integer, in_table text, in_site text, in_kind text, in_lookups bytea[],
                           in_lookups_before bytea[], in_drawn text[], in_bodies bytea[], in_copies bytea[],
                           in_subjects text[])
    returns table (lookup bytea, drawn text) language plpgsql security definer set search_path = vault, pg_temp as $$
begin
    perform vault.fence(in_generation);
    if in_table in ('number', 'subject') then
        perform vault.refuse_erased(in_site, in_table, in_lookups || in_lookups_before);
    end if;
    case in_table
        when 'number' then return query
            insert into vault.number as m (site, lookup, number, body, copy, generation)
            select in_site, t.l, t.d, t.b, t.c, in_generation
              from unnest(in_lookups, in_drawn, in_bodies, in_copies) as t (l, d, b, c) order by t.l
            on conflict on constraint number_pkey do nothing returning m.lookup, m.number;
        when 'subject' then return query
            insert into vault.subject as m (site, lookup, pseudonym, body, copy, generation)
            select in_site, t.l, t.d, t.b, t.c, in_generation
              from unnest(in_lookups, in_drawn, in_bodies, in_copies) as t (l, d, b, c) order by t.l
            on conflict on constraint subject_pkey do nothing returning m.lookup, m.pseudonym;
        when 'entity' then return query
            insert into vault.entity as m (site, kind, lookup, pseudonym, body, copy, subject, generation)
            select in_site, in_kind, t.l, t.d, t.b, t.c, t.s, in_generation
              from unnest(in_lookups, in_drawn, in_bodies, in_copies, in_subjects) as t (l, d, b, c, s) order by t.l
            on conflict on constraint entity_pkey do nothing returning m.lookup, m.pseudonym;
        when 'uid' then return query
            insert into vault.uid as m (site, lookup, replacement, body, copy, subject, generation)
            select in_site, t.l, t.d, t.b, t.c, t.s, in_generation
              from unnest(in_lookups, in_drawn, in_bodies, in_copies, in_subjects) as t (l, d, b, c, s) order by t.l
            on conflict on constraint uid_pkey do nothing returning m.lookup, m.replacement;
        when 'promise' then return query
            insert into vault.promise as m (site, lookup, number, generation)
            select in_site, t.l, t.d, in_generation from unnest(in_lookups, in_drawn) as t (l, d) order by t.l
            on conflict on constraint promise_pkey do nothing returning m.lookup, m.number;
    end case;
end $$;

create function vault.tie_number(in_site text, in_number text, in_subjects text[]) returns void
    language sql security definer set search_path = vault, pg_temp as $$
    insert into vault.tie (site, number, subject) select in_site, in_number, s from unnest(in_subjects) s order by s
    on conflict do nothing
$$;

-- --- the custodian's: by what was given, or in slices that leave their record

-- the rows of what somebody holds in his hand already: a number, a pseudonym, a UID
create function vault.by_drawn(in_table text, in_site text, in_drawn text[])
    returns table (kind text, lookup bytea, drawn text, copy bytea, generation integer)
    language plpgsql stable security definer set search_path = vault, pg_temp as $$
begin
    case in_table
        when 'number' then return query select ''::text, n.lookup, n.number, n.copy, n.generation from vault.number n
            where n.site = in_site and n.number = any (in_drawn);
        when 'subject' then return query select ''::text, s.lookup, s.pseudonym, s.copy, s.generation from vault.subject s
            where s.site = in_site and s.pseudonym = any (in_drawn);
        when 'entity' then return query select e.kind, e.lookup, e.pseudonym, e.copy, e.generation from vault.entity e
            where e.site = in_site and e.pseudonym = any (in_drawn);
        when 'uid' then return query select ''::text, u.lookup, u.replacement, u.copy, u.generation from vault.uid u
            where u.site = in_site and u.replacement = any (in_drawn);
        when 'promise' then return query select ''::text, p.lookup, p.number, null::bytea, p.generation from vault.promise p
            where p.site = in_site and p.number = any (in_drawn);
    end case;
end $$;

-- everything that is one patient's, by what was given for it
create function vault.of_subject(in_site text, in_subject text) returns table (kind text, drawn text)
    language sql stable security definer set search_path = vault, pg_temp as $$
    select 'subject', s.pseudonym from vault.subject s where s.site = in_site and s.pseudonym = in_subject
    union all select 'number', t.number from vault.tie t where t.site = in_site and t.subject = in_subject
    union all select 'entity', e.pseudonym from vault.entity e where e.site = in_site and e.subject = in_subject
    union all select 'uid', u.replacement from vault.uid u where u.site = in_site and u.subject = in_subject
$$;

-- of these subjects, those with a scan among these numbers
create function vault.tied(in_site text, in_subjects text[]) returns table (subject text, number text)
    language sql stable security definer set search_path = vault, pg_temp as $$
    select t.subject, t.number from vault.tie t where t.site = in_site and t.subject = any (in_subjects)
$$;

create function vault.table_key(in_table text) returns text language sql immutable as $$
    select case in_table when 'sealed' then 'project_id, kind, lookup' when 'entity' then 'site, kind, lookup'
        when 'tombstone' then 'site, kind, lookup' when 'number' then 'site, ''''::text, lookup'
        when 'subject' then 'site, ''''::text, lookup' when 'uid' then 'site, ''''::text, lookup'
        when 'promise' then 'site, ''''::text, lookup' end
$$;

-- The only way to read rows that one does not know: a slice in the order of the key after (owner, kind, lookup), and
-- its audit record in the same transaction.
create function vault.list_rows(in_table text, in_owner text, in_kind text, in_lookup bytea, in_limit integer,
                                in_project text, in_node text, in_record text)
    returns table (owner text, kind text, lookup bytea, drawn text, body bytea, copy bytea, subject text, generation integer)
    language plpgsql security definer set search_path = vault, pg_temp as $$
declare
    key text := vault.table_key(in_table);
    after text := case when in_table in ('sealed', 'entity', 'tombstone') then key else 'site, lookup' end;
    given text := case when in_table in ('sealed', 'entity', 'tombstone') then '$1, $2, $3' else '$1, $3' end;
    columns text := case in_table
        when 'sealed' then 'id, body, null::bytea, null::text' when 'number' then 'number, body, copy, null::text'
        when 'subject' then 'pseudonym, body, copy, pseudonym' when 'entity' then 'pseudonym, body, copy, subject'
        when 'uid' then 'replacement, body, copy, subject' when 'promise' then 'number, ''''::bytea, null::bytea, null::text'
        when 'tombstone' then 'stood_for, ''''::bytea, null::bytea, project_id' end;
begin
    perform mover.audit_append(in_project, in_node, in_record);
    return query execute format('select %s, %s, generation from vault.%I where (%s) > (%s) order by %s limit $4',
                                key, columns, in_table, after, given, after)
        using in_owner, in_kind, in_lookup, least(in_limit, 5000);
end $$;

-- Rows sealed or found anew. One that is gone, or that somebody else did first, stays as it is.
create function vault.replace_rows(in_table text, in_owners text[], in_kinds text[], in_lookups bytea[],
                                   in_was integer[], in_new_lookups bytea[], in_bodies bytea[], in_copies bytea[],
                                   in_generation integer) returns bigint
    language plpgsql security definer set search_path = vault, pg_temp as $$
declare
    changed bigint;
    kinds text := case when in_table in ('sealed', 'entity', 'tombstone') then 'and r.kind = t.kind' else '' end;
    owner text := case when in_table = 'sealed' then 'project_id' else 'site' end;
    columns text := case when in_table in ('promise', 'tombstone') then '' when in_table = 'sealed' then ', body = t.body'
        else ', body = t.body, copy = t.copy' end;
begin
    execute format('update vault.%I r set lookup = t.new_lookup, generation = $8 %s
                      from unnest($1, $2, $3, $4, $5, $6, $7) as t (owner, kind, lookup, was, new_lookup, body, copy)
                     where r.%I = t.owner and r.lookup = t.lookup and r.generation = t.was %s', in_table, columns, owner, kinds)
        using in_owners, in_kinds, in_lookups, in_was, in_new_lookups, in_bodies, in_copies, in_generation;
    get diagnostics changed = row_count;
    return changed;
end $$;

create function vault.projects() returns table (id text)
    language sql stable security definer set search_path = vault, pg_temp as $$ select id from mover.project order by id $$;

-- Is this the key of the vault? The first that comes is.
create function vault.claim(in_generation integer, in_check bytea) returns boolean language plpgsql security definer
    set search_path = vault, pg_temp as $$
begin
    perform vault.is_of(in_generation);
    update vault.ring set key_check = in_check where key_check is null;
    return (select key_check = in_check from vault.ring);
end $$;

-- A re-key begins: from the commit on, everybody comes with the new generation. Beginning again changes nothing. False
-- where the key before, or the one of the re-key that was begun, is another.
create function vault.begin_rekey(in_from integer, in_check_before bytea, in_check_after bytea, in_project text,
                                  in_node text, in_record text) returns boolean
    language plpgsql security definer set search_path = vault, pg_temp as $$
declare ring vault.ring;
begin
    perform pg_advisory_xact_lock(7885631566818767219);
    select * into ring from vault.ring for update;
    if ring.generation = in_from and ring.oldest = in_from then
        if ring.key_check <> in_check_before then return false; end if;
        update vault.ring set generation = in_from + 1, key_check = in_check_after, changed_at = clock_timestamp();
    elsif ring.generation <> in_from + 1 then
        raise exception 'the vault is of generation %', ring.generation using errcode = 'MV001';
    elsif ring.key_check <> in_check_after then
        return false;
    end if;
    perform mover.audit_append(in_project, in_node, in_record);
    return true;
end $$;

-- It ends when no row of the generation before is left, in any table of any project; answers how many are.
create function vault.end_rekey(in_generation integer, in_project text, in_node text, in_record text) returns bigint
    language plpgsql security definer set search_path = vault, pg_temp as $$
declare ring vault.ring; behind bigint; part bigint; project text;
begin
    perform pg_advisory_xact_lock(7885631566818767219);
    select * into ring from vault.ring for update;
    if ring.generation <> in_generation then
        raise exception 'the vault is of generation %', ring.generation using errcode = 'MV001';
    end if;
    select (select count(*) from vault.number where generation < in_generation)
         + (select count(*) from vault.subject where generation < in_generation)
         + (select count(*) from vault.entity where generation < in_generation)
         + (select count(*) from vault.uid where generation < in_generation)
         + (select count(*) from vault.promise where generation < in_generation)
         + (select count(*) from vault.tombstone where generation < in_generation) into behind;
    for project in select id from mover.project loop
        perform set_config('mover.project', project, true);
        select count(*) into part from vault.sealed where generation < in_generation;
        behind := behind + part;
    end loop;
    perform set_config('mover.project', in_project, true);
    if behind = 0 then
        update vault.ring set oldest = in_generation, changed_at = clock_timestamp();
        perform mover.audit_append(in_project, in_node, in_record);
    end if;
    return behind;
end $$;

create function vault.ring_now() returns table (generation integer, oldest integer)
    language sql stable security definer set search_path = vault, pg_temp as $$ select generation, oldest from vault.ring $$;

-- Erasure: the rows go, the stones stay. Again and again the same; what a backup brought back goes once more. Answers
-- how many rows went.
create function vault.bury(in_site text, in_kinds text[], in_lookups bytea[], in_generations integer[], in_stood_for text[],
                           in_projects text[]) returns bigint
    language plpgsql security definer set search_path = vault, pg_temp as $$
declare gone bigint := 0; part bigint; one record; was text := coalesce(current_setting('mover.project', true), '');
begin
    insert into vault.tombstone (site, kind, lookup, generation, stood_for, project_id)
    select in_site, t.k, t.l, t.g, t.s, t.p
      from unnest(in_kinds, in_lookups, in_generations, in_stood_for, in_projects) as t (k, l, g, s, p)
     where not exists (select from vault.tombstone o
                        where o.site = in_site and o.kind = t.k and o.stood_for = t.s and o.project_id = t.p)
     order by t.k, t.l on conflict do nothing;
    for one in select k as kind, array_agg(s) as drawn from unnest(in_kinds, in_stood_for) as t (k, s)
                where k <> 'sealed' group by k loop
        case one.kind
            -- overwritten before they go: what stands in the table's file afterwards is no sealed body
            when 'number' then
                update vault.number set body = '', copy = null where site = in_site and number = any (one.drawn);
                delete from vault.number where site = in_site and number = any (one.drawn);
                get diagnostics part = row_count;
                delete from vault.promise where site = in_site and number = any (one.drawn);
                delete from vault.tie where site = in_site and number = any (one.drawn);
            when 'subject' then
                update vault.subject set body = '', copy = null where site = in_site and pseudonym = any (one.drawn);
                delete from vault.subject where site = in_site and pseudonym = any (one.drawn);
                get diagnostics part = row_count;
                delete from vault.tie where site = in_site and subject = any (one.drawn);
            when 'entity' then
                update vault.entity set body = '', copy = null where site = in_site and pseudonym = any (one.drawn);
                delete from vault.entity where site = in_site and pseudonym = any (one.drawn);
                get diagnostics part = row_count;
            when 'uid' then
                update vault.uid set body = '', copy = null where site = in_site and replacement = any (one.drawn);
                delete from vault.uid where site = in_site and replacement = any (one.drawn);
                get diagnostics part = row_count;
        end case;
        gone := gone + part;
    end loop;
    -- names of packs: the row stays, since a pack refers to it and a second walk must not seal the name again
    for one in select p as project, array_agg(s) as drawn from unnest(in_kinds, in_stood_for, in_projects) as t (k, s, p)
                where k = 'sealed' group by p loop
        perform set_config('mover.project', one.project, true);
        update vault.sealed set body = '' where project_id = one.project and id = any (one.drawn) and body <> '';
        get diagnostics part = row_count;
        gone := gone + part;
    end loop;
    perform set_config('mover.project', was, true);
    return gone;
end $$;

reset role;

-- nothing is read or written but through the functions: insert-or-get needs a key, a list leaves a record
revoke all on all tables in schema vault from mover_vault;
revoke execute on all functions in schema vault from public;
grant execute on all functions in schema vault to mover_vault;
revoke execute on function vault.is_of(integer), vault.fence(integer), vault.refuse_erased(text, text, bytea[]),
    vault.table_key(text) from mover_vault;

-- === what claims to be clean ==============================================================================

set role mover_owner;

-- a verify-only scan of a place on a deidentified tier; `root` is the digest over all its verdicts
create table mover.adoption (
    id          text primary key,
    project_id  text not null references mover.project,
    tier        text not null references mover.tier,
    prefix      text not null,
    state       text not null default 'scanning' check (state in ('scanning', 'complete', 'failed')),
    trust_names boolean not null,
    reason      text not null,                      -- of whoever asked: who says that it is clean
    explanation text,
    judged_by   text,                               -- software and profile
    root        text check (root ~ '^[0-9a-f]{64}$'),
    created_by  text not null,
    created_at  timestamptz not null default now(),
    finished_at timestamptz,
    unique (project_id, id),
    check (state <> 'complete' or root is not null)
);
create index adoption_project on mover.adoption (project_id, created_at desc);

-- one file and the verdict about these bytes of it; `reasons` by place and masked shape
create table mover.adoption_file (
    project_id  text not null references mover.project,
    adoption_id text not null,
    key         bytea not null,
    verdict     text not null check (verdict in ('clean', 'suspect', 'refused', 'unjudged')),
    family      text not null default '',
    size_bytes  bigint not null,
    digest      text check (digest ~ '^[0-9a-f]{64}$'),
    reasons     jsonb not null default '[]',
    primary key (adoption_id, key),
    foreign key (project_id, adoption_id) references mover.adoption (project_id, id),
    check (verdict <> 'clean' or digest is not null)
);

do $$
declare t text;
begin
    foreach t in array array['adoption', 'adoption_file'] loop
        execute format('alter table mover.%I enable row level security', t);
        execute format('alter table mover.%I force row level security', t);
        execute format('create policy by_project on mover.%I using (project_id = (select mover.current_project()))'
                       ' with check (project_id = (select mover.current_project()))', t);
    end loop;
end $$;
grant select, insert, update on mover.adoption to mover_daemon;
grant select, insert on mover.adoption_file to mover_daemon;

reset role;

-- === what is clean is registered; a withdrawal has a way back; whose number it is =========================

set role mover_owner;

alter type mover.proof_kind add value 'adopted'; -- a slide that others de-identified was judged as a source and lost nothing

alter table mover.adoption
    drop constraint adoption_state_check,
    add constraint adoption_state_check check (state in ('scanning', 'scanned', 'registering', 'complete', 'failed')),
    add constraint judged_has_a_root check (state not in ('scanned', 'registering') or root is not null),
    add column register boolean not null default false; -- without another word, as soon as all is judged

-- `number`: what the file belongs to since; its key is what the broker called it by
alter table mover.adoption_file
    drop constraint adoption_file_verdict_check,
    add constraint adoption_file_verdict_check
        check (verdict in ('clean', 'suspect', 'refused', 'unjudged', 'known')),
    add column number text;
create index adoption_file_key on mover.adoption_file (key) where number is not null;
grant update (number) on mover.adoption_file to mover_daemon;

-- A slide that was found clean. Its number is drawn with the verdict, so that whoever goes on after a kill puts the same
-- sidecar; `registered` stands with the slide, its files, its grant and its proof, or not at all
create table mover.adoption_slide (
    project_id  text not null references mover.project,
    adoption_id text not null,
    number      text not null check (number ~ '^[0-9A-HJKMNP-TV-Z]{17}$'),
    scan        text not null check (scan ~ '^[0-9a-f]{64}$'), -- equal for equal files, whatever they are called
    sidecar     text not null,
    evidence    jsonb not null,
    marks       jsonb not null,                     -- by key: what the file was when it was judged
    outcome     text not null default 'judged' check (outcome in ('judged', 'registered', 'duplicate', 'refused')),
    reason      text,                               -- stable code
    adopted_proof text,
    -- as text, because a value that an enum has only just been given cannot be named in the same transaction
    adopted_kind mover.proof_kind check (adopted_kind::text = 'adopted'),
    primary key (adoption_id, number),
    foreign key (project_id, adoption_id) references mover.adoption (project_id, id),
    foreign key (adopted_proof, number, adopted_kind) references mover.proof (id, subject_id, kind),
    check (outcome <> 'registered' or (adopted_proof is not null and adopted_kind is not null)),
    check (outcome <> 'refused' or reason is not null)
);
create index adoption_slide_open on mover.adoption_slide (adoption_id, number) where outcome = 'judged';
create index adoption_slide_scan on mover.adoption_slide (scan) where outcome = 'registered';

-- What two people decided about a withdrawn slide: who asks, and who else grants. `reinstate`: it was a false alarm;
-- `remove`: its bytes go from the archive for good
create table mover.slide_ruling (
    id          text primary key,
    project_id  text not null references mover.project,
    number      text not null references mover.slide,
    action      text not null check (action in ('reinstate', 'remove')),
    state       text not null default 'asked' check (state in ('asked', 'granted', 'done', 'declined', 'failed')),
    reason      text not null,
    asked_by    text not null,
    asked_at    timestamptz not null default now(),
    decided_by  text,
    decided_at  timestamptz,
    decision    text,                               -- the second person's reason
    explanation text,                               -- why it failed
    check (decided_by is null or decided_by <> asked_by),
    check (state = 'asked' or decided_by is not null),
    unique (project_id, id)
);
-- one open question about a slide, whoever asks
create unique index slide_ruling_open on mover.slide_ruling (number) where state in ('asked', 'granted');

-- What is to be removed, written down before anything goes: a name alone removes nothing
create table mover.slide_removal (
    project_id  text not null references mover.project,
    ruling_id   text not null,
    place       integer not null,                   -- in this order; the sidecar first
    tier        text not null references mover.tier,
    key         text not null,
    digest      text not null check (digest ~ '^[0-9a-f]{64}$'),
    size_bytes  bigint not null,
    mark        text,                               -- version or change mark under which the digest was read
    state       text not null default 'intended' check (state in ('intended', 'removed')),
    primary key (ruling_id, place),
    foreign key (project_id, ruling_id) references mover.slide_ruling (project_id, id)
);

-- of a slide in which something was found: keyed hashes of what was found. Once two people have called it a false
-- alarm, these words are not sought in it again, and any other is
alter table mover.slide_search add column sought bytea[];

alter table mover.slide_withdrawal add column removed_at timestamptz;
create policy removing on mover.slide_withdrawal for update
    using (exists (select from mover.slide_grant g where g.number = slide_withdrawal.number));
-- an erased patient's slide never comes back, and any other only by what two people granted
create policy reinstating on mover.slide_withdrawal for delete
    using (reason = 'identifier-found-later' and removed_at is null
           and exists (select from mover.slide_ruling r
                        where r.number = slide_withdrawal.number and r.action = 'reinstate' and r.state = 'granted'));

do $$
declare t text;
begin
    foreach t in array array['adoption_slide', 'slide_ruling', 'slide_removal'] loop
        execute format('alter table mover.%I enable row level security', t);
        execute format('alter table mover.%I force row level security', t);
        execute format('create policy by_project on mover.%I using (project_id = (select mover.current_project()))'
                       ' with check (project_id = (select mover.current_project()))', t);
    end loop;
end $$;
grant select, insert, update on mover.adoption_slide, mover.slide_ruling, mover.slide_removal to mover_daemon;
grant delete, update (removed_at) on mover.slide_withdrawal to mover_daemon;
grant select on mover.adoption, mover.adoption_file, mover.adoption_slide to mover_dispatch;

-- as before, without the files of slides that two people removed
create or replace function mover.vouched(in_tier text, in_prefix bytea)
    returns table (key bytea, source text, subject text, digest text, size_bytes bigint, mtime_ns bigint, mark text,
                   verified_at timestamptz)
    language sql stable as $$
    with every as (
        select convert_to(s.key, 'UTF8') as key, s.number, s.digest, s.size_bytes from mover.slide s where s.tier = in_tier
        union all
        select convert_to(f.key, 'UTF8'), f.number, f.digest, f.size_bytes from mover.slide_file f where f.tier = in_tier
        union all
        select convert_to(s.thumbnail_key, 'UTF8'), s.number, s.thumbnail_digest, s.thumbnail_bytes
          from mover.slide s
         where s.tier = in_tier and s.thumbnail_key is not null and s.thumbnail_digest is not null),
    slides as (
        select * from every e
         where not exists (select from mover.slide_withdrawal w where w.number = e.number and w.removed_at is not null)),
    known as (
        select s.key, 'slide' as source, s.number as subject, s.digest, s.size_bytes, e.mtime_ns, e.mark, e.verified_at
          from slides s left join mover.entry e on e.tier = in_tier and e.key = s.key and e.digest = s.digest
        union all
        select e.key, 'entry', null, e.digest, e.size_bytes, e.mtime_ns, e.mark, e.verified_at from mover.entry e
         where e.tier = in_tier and e.kind = 'file' and e.digest is not null
           and not exists (select from every s where s.key = e.key)
           -- what was released left on purpose; what is gone without that is missing
           and (e.gone_at is null or not exists (
                select from mover.release_entry r join mover.release l on l.id = r.release_id
                 where l.tier = in_tier and r.source = e.key and r.state in ('leaving', 'released', 'purging', 'purged'))))
    select * from known k
     where in_prefix = ''::bytea or k.key = in_prefix
        or substring(k.key from 1 for length(in_prefix) + 1) = in_prefix || '/'::bytea
$$;

-- which issuer's a patient's number is that comes without one (tables have none): the first that came. Both are keyed
-- hashes that no re-key changes; another issuer's equal number is another patient
create table vault.home (
    site        text not null,
    patient     bytea not null,
    issuer      bytea not null,
    primary key (site, patient)
);

create function vault.homes(in_site text, in_patients bytea[], in_issuers bytea[])
    returns table (patient bytea, issuer bytea) language plpgsql security definer set search_path = vault, pg_temp as $$
begin
    insert into vault.home as h (site, patient, issuer)
    select in_site, t.p, t.i from unnest(in_patients, in_issuers) as t (p, i) order by t.p, t.i
    on conflict on constraint home_pkey do nothing;
    return query select h.patient, h.issuer from vault.home h where h.site = in_site and h.patient = any (in_patients);
end $$;

reset role;

revoke execute on function vault.homes(text, bytea[], bytea[]) from public;
grant execute on function vault.homes(text, bytea[], bytea[]) to mover_vault;

grant create on schema mover to mover_dispatch;
set role mover_dispatch;

-- the slide that this scan is already, whatever project has it, and why it was withdrawn
create function mover.slide_of(in_scan text) returns table (number text, withdrawn text)
    language sql stable security definer set search_path = mover, pg_temp as $$
    select n.number, w.reason
      from (select s.number from mover.slide s where s.digest = in_scan and s.files_count = 0
             union select a.number from mover.adoption_slide a where a.scan = in_scan and a.outcome = 'registered') n
      left join mover.slide_withdrawal w using (number) order by n.number limit 1
$$;

-- as before, and what was adopted where it stood
create or replace function mover.keys_known(in_tier text, in_keys bytea[], in_seen boolean) returns table (key bytea)
    language sql stable security definer set search_path = mover, pg_temp as $$
    select e.key from mover.entry e
     where e.tier = in_tier and e.key = any (in_keys) and (in_seen or e.digest is not null)
    union select k from unnest(in_keys) k
            join mover.slide s on s.number = substring(encode(k, 'escape') from '^slides/([0-9A-Z]{17})/')
           where s.tier = in_tier
             and (k in (convert_to(s.key, 'UTF8'), convert_to(s.thumbnail_key, 'UTF8'),
                        convert_to('slides/' || s.number || '/sidecar.json', 'UTF8'))
                  or exists (select from mover.slide_file f
                              where f.number = s.number and f.tier = in_tier and convert_to(f.key, 'UTF8') = k))
    union select f.key from mover.adoption_file f join mover.adoption a on a.id = f.adoption_id
           where a.tier = in_tier and f.key = any (in_keys)
             and exists (select from mover.slide s where s.number = f.number)  -- a verdict alone makes nothing known
$$;

reset role;
revoke create on schema mover from mover_dispatch;
revoke execute on function mover.slide_of(text) from public;
grant execute on function mover.slide_of(text) to mover_daemon;
-- === what is kept: series, doubts, trash, holds, terms in force, and what needs two persons ====================
--
-- Read first: no right to update or delete a snapshot is left to mover_daemon. Each step that brings a snapshot
-- nearer to its end is a function here, owned by mover_owner, that looks at the rules in force itself, by the
-- database's clock. What shortens protection passes `protect_request`: asked by one person, approved by another,
-- after a delay, applied once. decide/retention.py says the same with reasons; tests hold the two to each other.

set role mover_owner;

alter table mover.snapshot drop constraint snapshot_state_check;
alter table mover.snapshot
    add constraint snapshot_state_check check (state in ('written', 'checked', 'trashed', 'forgotten')),
    add column series text,                         -- what it is a version of: `run:<id>`, `folder:<id>`
    add column tags text[] not null default '{}',
    add column doubt text check (doubt in ('flood', 'collapsed', 'incomplete')),  -- kept, and displaces nothing
    add column agreed_at timestamptz,               -- two persons said that it is right as it is
    add column missing_at timestamptz,              -- its file is no longer in the repository, and not by us
    add column trashed_at timestamptz,
    add column trash_until timestamptz,
    add column trashed_for text,                    -- a request; `cut-off`; null: by the rules
    add column purged_at timestamptz;               -- its file was removed from the repository
alter table mover.snapshot no force row level security;
update mover.snapshot set series = coalesce('run:' || run_id, 'snapshot:' || id);
alter table mover.snapshot alter column series set not null,
    add check ((state = 'trashed') <= (trash_until is not null)),
    add check ((state = 'forgotten') <= (forgotten_at is not null));
-- one file, one row: a second row in any project could let go of what the first keeps
create unique index snapshot_file on mover.snapshot (repository_id);
create index snapshot_page on mover.snapshot (project_id, sequence);
create index snapshot_of_series on mover.snapshot (project_id, series, sequence);
create index snapshot_of_policy on mover.snapshot (project_id, policy, state, sequence);

-- how large a series was since two persons last agreed to its size: what a collapse is measured against
create table mover.snapshot_series (
    project_id  text not null references mover.project,
    policy      text not null,
    series      text not null,
    files       bigint not null,
    bytes       bigint not null,
    primary key (project_id, policy, series)
);
insert into mover.snapshot_series select project_id, policy, series, max(files), max(bytes) from mover.snapshot
 where state = 'checked' group by project_id, policy, series;
alter table mover.snapshot force row level security;

create table mover.hold (
    id          text primary key,
    project_id  text not null references mover.project,
    snapshot_id text not null,
    reason      text not null check (length(reason) between 3 and 500),
    until       timestamptz,                        -- null: until two persons release it
    placed_by   text not null,
    placed_person text not null,
    placed_at   timestamptz not null default now(),
    released_at timestamptz,
    released_for text,                              -- the request that released it
    foreign key (project_id, snapshot_id) references mover.snapshot (project_id, id),
    unique (project_id, id)
);
create index hold_snapshot on mover.hold (snapshot_id) where released_at is null;

-- the rules that hold for a policy's snapshots, whatever its file says: longer ones at once, shorter ones by request
create table mover.protect_terms (
    project_id  text not null references mover.project,
    policy      text not null,
    terms       jsonb not null,
    wanted      jsonb not null,                     -- what the file says now
    since       timestamptz not null default now(),
    large_until timestamptz,                        -- until then the breaker is open: two persons said so
    primary key (project_id, policy)
);

create table mover.protect_request (
    id          text primary key,
    project_id  text not null references mover.project,
    kind        text not null check (kind in ('shorten', 'forget', 'empty-trash', 'release-hold', 'agree', 'untag',
                                              'large', 'remove-key')),
    policy      text,
    subjects    text[] not null default '{}',
    wanted      jsonb not null default '{}',
    reason      text not null check (length(reason) between 3 and 500),
    requested_by text not null,
    requested_token text,                           -- null: the machine itself, by its local socket
    requested_person text not null,
    requested_at timestamptz not null,
    not_before  timestamptz not null,
    lapses_at   timestamptz not null,
    approved_by text,
    approved_token text,
    approved_person text,
    approved_at timestamptz,
    withdrawn_by text,
    withdrawn_at timestamptz,
    applied_at  timestamptz,
    constraint two_persons check (approved_person <> requested_person),
    constraint a_delay check (not_before >= requested_at + interval '1 hour'),
    constraint approved_whole check ((approved_at is null) = (approved_by is null)
                                     and (approved_at is null) = (approved_person is null)),
    constraint applied_after_both check (applied_at is null or (approved_at is not null and applied_at >= not_before
                                                                and withdrawn_at is null)),
    unique (project_id, id)
);
create index protect_request_open on mover.protect_request (project_id, requested_at desc);

-- the newest turn of the upkeep of a policy's repository: what it planned, what it did; the audit has all of them
create table mover.protect_turn (
    id          text not null unique,
    project_id  text not null references mover.project,
    policy      text not null,
    kind        text not null check (kind in ('keep', 'prune', 'drill', 'sample', 'whole', 'copy', 'rebuild')),
    state       text not null default 'running' check (state in ('running', 'waiting', 'done', 'failed')),
    plan        jsonb not null default '{}',
    counts      jsonb not null default '{}',
    explanation text,
    started_at  timestamptz not null default now(),
    finished_at timestamptz,
    primary key (project_id, policy, kind)
);

do $$
declare t text;
begin
    foreach t in array array['snapshot_series', 'hold', 'protect_terms', 'protect_request', 'protect_turn'] loop
        execute format('alter table mover.%I enable row level security', t);
        execute format('alter table mover.%I force row level security', t);
        execute format('create policy by_project on mover.%I using (project_id = (select mover.current_project()))'
                       ' with check (project_id = (select mover.current_project()))', t);
    end loop;
end $$;

-- --- who is a person ------------------------------------------------------------------------------------------

-- Tokens that one token made, and those that they made, are one person. What the machine itself makes (root or the
-- daemon's user on the local socket, `mover init`) begins a person of its own. Who made the earlier ones nobody wrote
-- down: they are one person together.
alter table mover.token add column made_by text, add column person text;
alter table mover.token no force row level security;
update mover.token set person = 'before';
alter table mover.token force row level security;
alter table mover.token alter column person set not null;

create function mover.token_person() returns trigger language plpgsql as $$
begin
    new.person := coalesce(new.person, new.id);
    return new;
end $$;
create trigger token_person before insert on mover.token for each row execute function mover.token_person();

-- the only way to a token; `in_maker` is the digest of the maker's secret, null for the machine
create function mover.token_add(in_id text, in_hash bytea, in_actor text, in_role text, in_uid integer, in_gid integer,
                                in_expires timestamptz, in_maker bytea) returns boolean
    language plpgsql security definer set search_path = mover, pg_temp as $$
declare maker mover.token;
begin
    if in_maker is not null then
        select * into maker from mover.token t where t.hash = in_maker and t.revoked_at is null
           and (t.expires_at is null or t.expires_at > now()) and t.role = 'admin';
        if maker.id is null then
            raise exception 'only a live admin token makes tokens' using errcode = 'MV103';
        end if;
    end if;
    insert into mover.token (id, hash, actor, role, project_id, posix_uid, posix_gid, expires_at, made_by, person)
    values (in_id, in_hash, in_actor, in_role, mover.current_project(), in_uid, in_gid, in_expires, maker.id,
            coalesce(maker.person, in_id))
    on conflict do nothing;
    return found;
end $$;

create type mover.asker as (actor text, token text, person text, role text, since timestamptz);

-- Who asks? A token by the digest of its secret, which only its holder and the daemon in that moment know; without
-- one, the machine. `since`: how long this person's first token stands.
create function mover.asker_of(in_proof bytea, in_actor text) returns mover.asker
    language plpgsql stable security definer set search_path = mover, pg_temp as $$
declare found_one mover.asker;
begin
    if in_proof is null then
        return row(in_actor, null::text, 'machine'::text, 'admin'::text, '-infinity'::timestamptz)::mover.asker;
    end if;
    select t.actor, t.id, t.person, t.role, coalesce(f.created_at, t.created_at) into found_one
      from mover.token t left join mover.token f on f.id = t.person
     where t.hash = in_proof and t.revoked_at is null and (t.expires_at is null or t.expires_at > now());
    if found_one.token is null then
        raise exception 'the token is unknown, expired or revoked' using errcode = 'MV103';
    end if;
    return found_one;
end $$;

create function mover.protect_record(in_node text, in_actor text, in_action text, in_subject text, in_reason text,
                                     in_details jsonb) returns void
    language plpgsql security definer set search_path = mover, pg_temp as $$
begin
    perform mover.audit_append(mover.current_project(), in_node, jsonb_build_object('actor', in_actor, 'action',
        in_action, 'subject', in_subject, 'reason', in_reason, 'request', '', 'details', in_details)::text);
end $$;

-- --- the rules --------------------------------------------------------------------------------------------------

create function mover.terms_number(in_terms jsonb, in_name text) returns numeric language sql immutable as $$
    select coalesce((in_terms ->> in_name)::numeric, 0)
$$;

create function mover.terms_time(in_terms jsonb, in_name text, in_default numeric) returns interval
    language sql immutable as $$
    select make_interval(secs => coalesce((in_terms ->> in_name)::numeric, in_default)::double precision)
$$;

-- no rule at all keeps everything
create function mover.keeps_all(in_keep jsonb) returns boolean language sql immutable as $$
    select in_keep ->> 'within_s' is null and coalesce(jsonb_array_length(in_keep -> 'tags'), 0) = 0
       and (select bool_and(mover.terms_number(in_keep, n) <= 0)
              from unnest(array['last', 'hourly', 'daily', 'weekly', 'monthly', 'yearly']) n)
$$;

-- What of `in_new` protects less than `in_old`. Whatever is not provably at least as long counts as shorter.
create function mover.terms_shorter(in_old jsonb, in_new jsonb) returns text[] language sql immutable as $$
    with o as (select coalesce(in_old -> 'keep', '{}') as k), n as (select coalesce(in_new -> 'keep', '{}') as k)
    select coalesce(array_agg(word order by word), '{}') from (
        select 'keep.' || w as word from o, n, unnest(array['last', 'hourly', 'daily', 'weekly', 'monthly', 'yearly']) w
         where not mover.keeps_all(n.k)
           and (mover.keeps_all(o.k) or mover.terms_number(n.k, w) < mover.terms_number(o.k, w))
        union all
        select 'keep.at_least_s' from o, n
         where mover.terms_number(n.k, 'at_least_s') < mover.terms_number(o.k, 'at_least_s')
        union all
        select 'keep.within_s' from o, n
         where not mover.keeps_all(n.k)
           and coalesce((n.k ->> 'within_s')::numeric, -1) < coalesce((o.k ->> 'within_s')::numeric, -1)
        union all
        select 'keep.tags' from o, n
         where not mover.keeps_all(n.k) and not coalesce(n.k -> 'tags', '[]') @> coalesce(o.k -> 'tags', '[]')
        union all
        select 'keep.' || w from o, n,
               lateral (select jsonb_object_keys(o.k) w union select jsonb_object_keys(n.k)) every_word
         where w <> all (array['last', 'hourly', 'daily', 'weekly', 'monthly', 'yearly', 'at_least_s', 'within_s', 'tags'])
           and n.k -> w is distinct from o.k -> w
        union all
        select w from (select jsonb_object_keys(in_old) w union select jsonb_object_keys(in_new)) every_word
         where w <> 'keep' and case
             when w = 'copy' then coalesce(in_old ->> w, '') not in ('', coalesce(in_new ->> w, ''))
             when jsonb_typeof(coalesce(in_old -> w, '0')) <> 'number'
                  or jsonb_typeof(coalesce(in_new -> w, '0')) <> 'number'
                 then in_old -> w is distinct from in_new -> w
             when w = 'copy_every_s' and mover.terms_number(in_old, w) = 0 then false
             when w in ('breaker_percent', 'copy_every_s') then mover.terms_number(in_new, w) > mover.terms_number(in_old, w)
             else mover.terms_number(in_new, w) < mover.terms_number(in_old, w) end
    ) s
$$;

-- A policy's file was read: what is longer holds from now on, what is shorter waits for two persons and its delay.
-- Answers the terms that hold.
create function mover.terms_follow(in_policy text, in_wanted jsonb, in_node text) returns jsonb
    language plpgsql security definer set search_path = mover, pg_temp as $$
declare known mover.protect_terms;
begin
    insert into mover.protect_terms (project_id, policy, terms, wanted)
    values (mover.current_project(), in_policy, in_wanted, in_wanted) on conflict do nothing;
    select * into known from mover.protect_terms where policy = in_policy for update;
    if known.wanted is distinct from in_wanted then
        update mover.protect_terms set wanted = in_wanted where policy = in_policy;
    end if;
    if known.terms = in_wanted or mover.terms_shorter(known.terms, in_wanted) <> '{}' then
        return known.terms;
    end if;
    update mover.protect_terms set terms = in_wanted, since = now() where policy = in_policy;
    perform mover.protect_record(in_node, 'daemon', 'protection lengthened', in_policy, '',
                                 jsonb_build_object('before', known.terms, 'now', in_wanted));
    return in_wanted;
end $$;

create function mover.is_held(in_snapshot text) returns boolean
    language sql stable security definer set search_path = mover, pg_temp as $$
    select exists (select from mover.hold h where h.snapshot_id = in_snapshot and h.released_at is null
                      and (h.until is null or h.until > now()))
$$;

-- What the terms in force keep of a series; the reasons are decide/retention.py's. Young, doubtful and missing ones
-- are kept and count for nothing; the newest that counts is what proves the series protected.
create function mover.snapshots_kept(in_policy text, in_series text) returns table (snapshot text)
    language sql stable security definer set search_path = mover, pg_temp as $$
    with t as (select terms -> 'keep' as keep from mover.protect_terms where policy = in_policy),
    every as (
        select s.id, s.sequence, s.recorded_at, s.tags, s.doubt is not null or s.missing_at is not null as doubtful,
               s.recorded_at > now() - mover.terms_time(t.keep, 'at_least_s', 0) as young,
               t.keep
          from mover.snapshot s left join t on true
         where s.policy = in_policy and s.series = in_series
           and (s.state = 'checked' or s.state = 'trashed' and s.trashed_for is null)),
    counted as (select *, row_number() over (order by sequence desc) as place,
                       recorded_at at time zone 'UTC' as at from every where not doubtful and not young),
    periods as (
        select distinct on (p.name, p.period) c.id, c.sequence, p.name, c.keep
          from counted c cross join lateral (values
               ('hourly', to_char(c.at, 'YYYY-MM-DD HH24')), ('daily', to_char(c.at, 'YYYY-MM-DD')),
               ('weekly', to_char(c.at, 'IYYY-IW')), ('monthly', to_char(c.at, 'YYYY-MM')),
               ('yearly', to_char(c.at, 'YYYY'))) p (name, period)
         order by p.name, p.period, c.sequence desc),
    ranked as (select id, name, keep, row_number() over (partition by name order by sequence desc) as place from periods)
    select e.id from every e
     where e.keep is null or mover.keeps_all(e.keep) or e.young or e.doubtful
        or e.sequence = (select max(sequence) from counted)
        or exists (select from mover.hold h where h.snapshot_id = e.id and h.released_at is null
                      and (h.until is null or h.until > now()))
        or exists (select from jsonb_array_elements_text(coalesce(e.keep -> 'tags', '[]')) g where g = any (e.tags))
    union
    select id from counted where place <= mover.terms_number(keep, 'last')
    union
    select id from ranked where place <= mover.terms_number(keep, name)
    union
    select c.id from counted c
     where c.recorded_at >= (select recorded_at from counted where place = 1)
                            - mover.terms_time(c.keep, 'within_s', null)
$$;

-- --- one snapshot's way -------------------------------------------------------------------------------------------

-- Time and order of record are the database's; whatever else a row claims, it begins as written.
create function mover.snapshot_recorded() returns trigger
    language plpgsql security definer set search_path = mover, pg_temp as $$
begin
    new.series := coalesce(new.series, 'run:' || new.run_id, 'snapshot:' || new.id);
    if pg_has_role(session_user, 'mover_owner', 'usage') then
        return new;     -- who owns the tables needs no trigger to lie
    end if;
    new.sequence := nextval(pg_get_serial_sequence('mover.snapshot', 'sequence'));
    new.recorded_at := clock_timestamp();
    new.state := 'written';
    new.doubt := null; new.agreed_at := null; new.missing_at := null; new.trashed_at := null; new.trash_until := null;
    new.trashed_for := null; new.forgotten_at := null; new.purged_at := null;
    return new;
end $$;
create trigger snapshot_recorded before insert on mover.snapshot for each row execute function mover.snapshot_recorded();

-- Every blob was read back. Here doubts arise: of a flood (24 of a series within an hour) none counts, and one whose
-- bytes or files fell below half of what its series had does not displace what was there.
create function mover.snapshot_checked(in_id text) returns text
    language plpgsql security definer set search_path = mover, pg_temp as $$
declare s mover.snapshot; base mover.snapshot_series; hour text[]; found_doubt text;
begin
    select * into s from mover.snapshot where id = in_id and state = 'written' for update;
    if s.id is null then return null; end if;
    insert into mover.snapshot_series values (s.project_id, s.policy, s.series, s.files, s.bytes) on conflict do nothing;
    select * into base from mover.snapshot_series where policy = s.policy and series = s.series for update;
    select array_agg(id) into hour from (select id, recorded_at from mover.snapshot
        where policy = s.policy and series = s.series and state <> 'written' order by sequence desc limit 23) near
        where recorded_at > s.recorded_at - interval '1 hour';
    if cardinality(hour) = 23 then
        found_doubt := 'flood';
        update mover.snapshot set doubt = 'flood' where id = any (hour) and doubt is null and agreed_at is null;
    elsif s.bytes * 2 < base.bytes or s.files * 2 < base.files then
        found_doubt := 'collapsed';
    else
        update mover.snapshot_series set files = greatest(files, s.files), bytes = greatest(bytes, s.bytes)
         where policy = s.policy and series = s.series;
    end if;
    update mover.snapshot set state = 'checked', doubt = found_doubt where id = in_id;
    return found_doubt;
end $$;

-- Not whole: files changed or could not be read. It may hold the only copy of what was deleted since, so it stays.
create function mover.snapshot_incomplete(in_id text) returns void
    language sql security definer set search_path = mover, pg_temp as $$
    update mover.snapshot set doubt = 'incomplete' where id = in_id and state = 'written'
$$;

-- has the clock gone back since something was recorded? then nobody knows what is over
create function mover.clock_doubtful(in_policy text) returns boolean
    language sql stable security definer set search_path = mover, pg_temp as $$
    select exists (select from mover.snapshot where policy = in_policy and state in ('checked', 'trashed')
                      and greatest(recorded_at, trashed_at) > clock_timestamp() + interval '5 minutes')
$$;

-- Into the trash goes what no rule in force keeps, what is not held, and at most the breaker's part of the policy's
-- snapshots a day, oldest first; of what was asked for, this is what went. The files stay where they are.
create function mover.snapshots_trash(in_policy text, in_series text, in_ids text[], in_node text)
    returns table (snapshot text)
    language plpgsql security definer set search_path = mover, pg_temp as $$
declare known mover.protect_terms; room bigint; gone text[];
begin
    select * into known from mover.protect_terms where policy = in_policy for update;
    if known.policy is null or mover.clock_doubtful(in_policy) then return; end if;
    select greatest(20, ceil(count(*) filter (where state = 'checked')
                             * mover.terms_number(known.terms, 'breaker_percent') / 100))
           - count(*) filter (where state in ('trashed', 'forgotten') and trashed_for is null
                                    and trashed_at > now() - interval '1 day')
      into room from mover.snapshot where policy = in_policy;
    if known.large_until > now() then room := cardinality(in_ids); end if;
    with doomed as (
        select s.id from mover.snapshot s
         where s.policy = in_policy and s.series = in_series and s.id = any (in_ids) and s.state = 'checked'
           and s.id not in (select k.snapshot from mover.snapshots_kept(in_policy, in_series) k)
         order by s.sequence limit greatest(room, 0)),
    moved as (
        update mover.snapshot set state = 'trashed', trashed_at = now(), trashed_for = null,
               trash_until = now() + mover.terms_time(known.terms, 'trash_s', 1209600)
         where id in (select id from doomed) returning id)
    select array_agg(id) into gone from moved;
    if gone is null then return; end if;
    perform mover.protect_record(in_node, 'daemon', 'snapshots trashed', in_policy, 'no rule keeps them',
                                 jsonb_build_object('series', in_series, 'snapshots', to_jsonb(gone)));
    return query select unnest(gone);
end $$;

-- attempts whose snapshot was never checked, while a later one of the series was: nothing rests on them
create function mover.snapshots_cut_off(in_series text) returns bigint
    language sql security definer set search_path = mover, pg_temp as $$
    with moved as (
        update mover.snapshot s set state = 'trashed', trashed_at = now(), trashed_for = 'cut-off',
               reasons = '{cut off before it was checked}',
               trash_until = now() + mover.terms_time((select t.terms from mover.protect_terms t where t.policy = s.policy),
                                                     'trash_s', 1209600)
         where s.series = in_series and s.state = 'written' and s.doubt is null
           and exists (select from mover.snapshot n where n.policy = s.policy and n.series = s.series
                          and n.sequence > s.sequence and n.state = 'checked' and n.missing_at is null)
        returning 1)
    select count(*) from moved
$$;

-- The trash period is over: judged once more by the rules that hold now, what they keep comes back, the rest is
-- forgotten from this moment; its file goes next (purged_at), and is asked for again until it went.
create function mover.trash_over(in_policy text, in_limit integer, in_node text)
    returns table (snapshot text, repository text, comes_back boolean)
    language plpgsql security definer set search_path = mover, pg_temp as $$
declare one record; gone text[]; back text[];
begin
    if mover.clock_doubtful(in_policy) then return; end if;
    perform 1 from mover.protect_terms where policy = in_policy for update;
    for one in select d.series, array_agg(d.id) as ids from (
                   select s.id, s.series from mover.snapshot s
                    where s.policy = in_policy and s.state = 'trashed' and s.trash_until <= now()
                    order by s.sequence limit in_limit for update) d group by d.series loop
        with judged as (
            select s.id, s.reasons, mover.is_held(s.id) or (s.trashed_for is null and exists (
                       select from mover.snapshots_kept(in_policy, one.series) k where k.snapshot = s.id)) as kept
              from mover.snapshot s where s.id = any (one.ids)),
        changed as (
            update mover.snapshot s set state = case when j.kept then 'checked' else 'forgotten' end,
                   forgotten_at = case when j.kept then null else now() end,
                   trash_until = case when j.kept then null else s.trash_until end
              from judged j where j.id = s.id returning s.id, s.repository_id, j.kept)
        select coalesce(gone, '{}') || coalesce(array_agg(id) filter (where not kept), '{}'),
               coalesce(back, '{}') || coalesce(array_agg(id) filter (where kept), '{}') into gone, back from changed;
    end loop;
    if gone is null then return; end if;
    perform mover.protect_record(in_node, 'daemon', 'snapshots forgotten', in_policy, 'their time in the trash is over',
                                 jsonb_build_object('snapshots', to_jsonb(gone), 'kept again', to_jsonb(back)));
    return query select s.id, s.repository_id, s.state = 'checked' from mover.snapshot s where s.id = any (gone || back);
end $$;

create function mover.snapshots_purged(in_ids text[]) returns void
    language sql security definer set search_path = mover, pg_temp as $$
    update mover.snapshot set purged_at = now() where id = any (in_ids) and state = 'forgotten' and purged_at is null
$$;

-- What the repository holds, listed at `in_listed_at`. Rows whose file is gone, and not by us, are missing from now on;
-- answers those that are newly missing. One that is there again counts again.
create function mover.snapshots_present(in_policy text, in_repository_ids text[], in_listed_at timestamptz, in_node text)
    returns table (snapshot text)
    language plpgsql security definer set search_path = mover, pg_temp as $$
declare lost text[];
begin
    update mover.snapshot set missing_at = null
     where policy = in_policy and missing_at is not null and repository_id = any (in_repository_ids);
    with changed as (
        update mover.snapshot set missing_at = now()
         where policy = in_policy and state in ('written', 'checked', 'trashed') and missing_at is null
           and recorded_at < in_listed_at and repository_id <> all (in_repository_ids) returning id)
    select array_agg(id) into lost from changed;
    if lost is null then return; end if;
    perform mover.protect_record(in_node, 'daemon', 'snapshots missing', in_policy,
                                 'their files left the repository, and not by us',
                                 jsonb_build_object('snapshots', to_jsonb(lost)));
    return query select unnest(lost);
end $$;

-- --- what people may do alone: hold, tag --------------------------------------------------------------------------

-- A hold brings back what is in the trash, too. The same hold asked for again is the same hold.
create function mover.hold_place(in_id text, in_snapshot text, in_reason text, in_until timestamptz, in_proof bytea,
                                 in_actor text, in_node text) returns text
    language plpgsql security definer set search_path = mover, pg_temp as $$
declare who mover.asker := mover.asker_of(in_proof, in_actor); s mover.snapshot; same text;
begin
    select * into s from mover.snapshot where id = in_snapshot for update;
    if s.id is null then raise exception 'no such snapshot' using errcode = 'MV101'; end if;
    if s.state = 'forgotten' then raise exception 'the snapshot is forgotten' using errcode = 'MV102'; end if;
    if in_until <= now() then raise exception 'a hold ends in the future' using errcode = 'MV102'; end if;
    select h.id into same from mover.hold h where h.snapshot_id = in_snapshot and h.released_at is null
       and h.reason = in_reason and h.until is not distinct from in_until and h.placed_by = who.actor limit 1;
    if same is not null then return same; end if;
    if (select count(*) >= 20 from mover.hold h where h.snapshot_id = in_snapshot and h.released_at is null
           and h.placed_person = who.person and (h.until is null or h.until > now())) then
        raise exception 'one person holds a snapshot at most 20 times' using errcode = 'MV102';
    end if;
    insert into mover.hold (id, project_id, snapshot_id, reason, until, placed_by, placed_person)
    values (in_id, mover.current_project(), in_snapshot, in_reason, in_until, who.actor, who.person);
    update mover.snapshot set state = 'checked', trash_until = null, trashed_for = null
     where id = in_snapshot and state = 'trashed' and trashed_for is distinct from 'cut-off';
    perform mover.protect_record(in_node, who.actor, 'snapshot held', in_snapshot, in_reason,
                                 jsonb_build_object('hold', in_id, 'until', in_until, 'was', s.state));
    return in_id;
end $$;

create function mover.snapshot_tag(in_snapshot text, in_tags text[], in_proof bytea, in_actor text, in_node text)
    returns void language plpgsql security definer set search_path = mover, pg_temp as $$
declare who mover.asker := mover.asker_of(in_proof, in_actor); s mover.snapshot;
begin
    select * into s from mover.snapshot where id = in_snapshot for update;
    if s.id is null then raise exception 'no such snapshot' using errcode = 'MV101'; end if;
    if s.tags @> in_tags then return; end if;
    if cardinality(s.tags) + cardinality(in_tags) > 100 then
        raise exception 'a snapshot has at most 100 tags' using errcode = 'MV102';
    end if;
    update mover.snapshot set tags = array(select distinct unnest(s.tags || in_tags) order by 1) where id = in_snapshot;
    perform mover.protect_record(in_node, who.actor, 'snapshot tagged', in_snapshot, '',
                                 jsonb_build_object('tags', to_jsonb(in_tags)));
end $$;

-- --- what needs two persons ----------------------------------------------------------------------------------------

-- how long a change to these policies waits: by the terms that hold, never less than an hour
create function mover.protect_delay(in_policies text[]) returns interval
    language sql stable security definer set search_path = mover, pg_temp as $$
    select greatest(interval '1 hour', max(mover.terms_time(t.terms, 'delay_s', 259200)))
      from unnest(in_policies) p left join mover.protect_terms t on t.policy = p
$$;

create function mover.request_policies(in_kind text, in_policy text, in_subjects text[]) returns text[]
    language plpgsql stable security definer set search_path = mover, pg_temp as $$
declare found_ones text[]; known bigint;
begin
    if in_kind in ('shorten', 'large', 'remove-key') then
        if not exists (select from mover.protect_terms where policy = in_policy) then
            raise exception 'no such protect policy' using errcode = 'MV101';
        end if;
        return array[in_policy];
    end if;
    if in_kind = 'release-hold' then
        select array_agg(distinct s.policy), count(*) into found_ones, known
          from mover.hold h join mover.snapshot s on s.id = h.snapshot_id
         where h.id = any (in_subjects) and h.released_at is null;
    else
        select array_agg(distinct s.policy), count(*) into found_ones, known from mover.snapshot s
         where s.id = any (in_subjects) and case in_kind when 'forget' then s.state in ('written', 'checked')
               when 'empty-trash' then s.state = 'trashed' when 'agree' then s.doubt is not null else true end;
    end if;
    if known = 0 or known <> cardinality(in_subjects) then
        raise exception 'not everything that is named is there in the state it needs' using errcode = 'MV102';
    end if;
    return found_ones;
end $$;

-- Asked again while it is open, it is the same request.
create function mover.request_make(in_id text, in_kind text, in_policy text, in_subjects text[], in_wanted jsonb,
                                   in_reason text, in_proof bytea, in_actor text, in_node text) returns text
    language plpgsql security definer set search_path = mover, pg_temp as $$
declare who mover.asker := mover.asker_of(in_proof, in_actor); same text; delay interval; policies text[];
begin
    if who.role not in ('operator', 'admin') then
        raise exception 'this role asks for nothing here' using errcode = 'MV103';
    end if;
    policies := mover.request_policies(in_kind, in_policy, in_subjects);
    if in_kind = 'shorten' and '{}' = mover.terms_shorter(
            (select terms from mover.protect_terms where policy = in_policy), in_wanted) then
        raise exception 'this shortens nothing' using errcode = 'MV102';
    end if;
    select r.id into same from mover.protect_request r
     where r.kind = in_kind and r.policy is not distinct from in_policy and r.subjects = in_subjects
       and r.wanted = in_wanted
       and r.requested_person = who.person and r.applied_at is null and r.withdrawn_at is null and r.lapses_at > now();
    if same is not null then return same; end if;
    if (select count(*) >= 1000 from mover.protect_request r
         where r.applied_at is null and r.withdrawn_at is null and r.lapses_at > now()) then
        raise exception '1000 requests are open already' using errcode = 'MV102';
    end if;
    delay := mover.protect_delay(policies);
    insert into mover.protect_request (id, project_id, kind, policy, subjects, wanted, reason, requested_by,
                                       requested_token, requested_person, requested_at, not_before, lapses_at)
    values (in_id, mover.current_project(), in_kind, in_policy, in_subjects, in_wanted, in_reason, who.actor, who.token,
            who.person, now(), now() + delay, now() + delay + interval '30 days');
    perform mover.protect_record(in_node, who.actor, 'protection: asked to shorten', in_id, in_reason, jsonb_build_object(
        'kind', in_kind, 'policy', in_policy, 'subjects', to_jsonb(in_subjects), 'wanted', in_wanted,
        'not before', now() + delay));
    return in_id;
end $$;

create function mover.request_open(in_id text) returns mover.protect_request
    language plpgsql security definer set search_path = mover, pg_temp as $$
declare r mover.protect_request;
begin
    select * into r from mover.protect_request where id = in_id for update;
    if r.id is null then raise exception 'no such request' using errcode = 'MV101'; end if;
    if r.applied_at is not null then raise exception 'the request was applied' using errcode = 'MV102'; end if;
    if r.withdrawn_at is not null then raise exception 'the request was withdrawn' using errcode = 'MV102'; end if;
    if r.lapses_at <= now() then raise exception 'the request has lapsed' using errcode = 'MV102'; end if;
    return r;
end $$;

-- The second person. Neither may be newer than the delay: whoever makes a token to be two waits as long again, and
-- is seen. Approving twice is approving once.
create function mover.request_approve(in_id text, in_proof bytea, in_actor text, in_node text) returns void
    language plpgsql security definer set search_path = mover, pg_temp as $$
declare who mover.asker := mover.asker_of(in_proof, in_actor); r mover.protect_request := mover.request_open(in_id);
    asked_since timestamptz; delay interval;
begin
    if r.approved_person = who.person then return; end if;
    if who.role <> 'admin' then
        raise exception 'only an admin approves' using errcode = 'MV103';
    end if;
    if who.person = r.requested_person then
        raise exception 'who asked does not approve; tokens that one person made are one person' using errcode = 'MV103';
    end if;
    if r.approved_at is not null then raise exception 'it is approved already' using errcode = 'MV102'; end if;
    delay := r.not_before - r.requested_at;
    select coalesce(f.created_at, t.created_at) into asked_since
      from mover.token t left join mover.token f on f.id = t.person where t.id = r.requested_token;
    if who.since > r.requested_at - delay or coalesce(asked_since, '-infinity') > r.requested_at - delay then
        raise exception 'one of the two tokens was made too short before the request' using errcode = 'MV103';
    end if;
    update mover.protect_request set approved_by = who.actor, approved_token = who.token, approved_person = who.person,
           approved_at = now() where id = in_id;
    perform mover.protect_record(in_node, who.actor, 'protection: shortening approved', in_id, r.reason,
                                 jsonb_build_object('requested by', r.requested_by, 'not before', r.not_before));
end $$;

create function mover.request_withdraw(in_id text, in_proof bytea, in_actor text, in_node text) returns void
    language plpgsql security definer set search_path = mover, pg_temp as $$
declare who mover.asker := mover.asker_of(in_proof, in_actor); r mover.protect_request;
begin
    select * into r from mover.protect_request where id = in_id;
    if r.withdrawn_at is not null then return; end if;
    r := mover.request_open(in_id);
    update mover.protect_request set withdrawn_by = who.actor, withdrawn_at = now() where id = in_id;
    perform mover.protect_record(in_node, who.actor, 'protection: request withdrawn', in_id, r.reason, '{}');
end $$;

-- Approved, its delay over, once. Holds beat what two persons agreed on: only releasing them does not.
create function mover.request_apply(in_id text, in_node text) returns boolean
    language plpgsql security definer set search_path = mover, pg_temp as $$
declare r mover.protect_request := mover.request_open(in_id); changed bigint; asked_for jsonb;
begin
    if r.approved_at is null or r.not_before > now()
       or exists (select from unnest(mover.request_policies_of(r)) p where mover.clock_doubtful(p)) then
        return false;
    end if;
    case r.kind
        when 'shorten' then
            update mover.protect_terms set terms = r.wanted, since = now() where policy = r.policy;
        when 'large' then
            update mover.protect_terms set large_until = now() + interval '1 day' where policy = r.policy;
        when 'forget' then
            update mover.snapshot s set state = 'trashed', trashed_at = now(), trashed_for = r.id,
                   reasons = array['two persons agreed: ' || r.reason],
                   trash_until = now() + mover.terms_time((select t.terms from mover.protect_terms t where t.policy = s.policy),
                                                     'trash_s', 1209600)
             where s.id = any (r.subjects) and s.state in ('written', 'checked') and not mover.is_held(s.id);
        when 'empty-trash' then
            update mover.snapshot set trash_until = now() where id = any (r.subjects) and state = 'trashed';
        when 'release-hold' then
            update mover.hold set released_at = now(), released_for = r.id
             where id = any (r.subjects) and released_at is null;
        when 'agree' then
            update mover.snapshot_series b set files = s.files, bytes = s.bytes from (
                select distinct on (policy, series) policy, series, files, bytes from mover.snapshot
                 where id = any (r.subjects) and doubt is not null order by policy, series, sequence desc) s
             where b.policy = s.policy and b.series = s.series;
            update mover.snapshot set doubt = null, agreed_at = now() where id = any (r.subjects) and doubt is not null;
        when 'untag' then
            update mover.snapshot set tags = array(select t from unnest(tags) t
                                                    where not (r.wanted -> 'tags') ? t order by 1)
             where id = any (r.subjects);
        when 'remove-key' then
            null;   -- the daemon removes it from the repository before this transaction ends
    end case;
    get diagnostics changed = row_count;
    update mover.protect_request set applied_at = now() where id = in_id;
    perform mover.protect_record(in_node, 'daemon', 'protection: shortening applied', in_id, r.reason, jsonb_build_object(
        'kind', r.kind, 'requested by', r.requested_by, 'approved by', r.approved_by, 'changed', changed));
    return true;
end $$;

create function mover.request_policies_of(r mover.protect_request) returns text[]
    language sql stable security definer set search_path = mover, pg_temp as $$
    select case when r.policy is not null then array[r.policy]
                else array(select distinct s.policy from mover.snapshot s where s.id = any (r.subjects)
                              or s.id in (select h.snapshot_id from mover.hold h where h.id = any (r.subjects))) end
$$;

reset role;

revoke update on mover.snapshot from mover_daemon;
grant update (reasons) on mover.snapshot to mover_daemon;
revoke insert, update on mover.token from mover_daemon;
grant update (revoked_at) on mover.token to mover_daemon;
grant select (made_by, person) on mover.token to mover_daemon;
grant select on mover.snapshot_series, mover.hold, mover.protect_terms, mover.protect_request to mover_daemon;
grant select, insert, update on mover.protect_turn to mover_daemon;
do $$
declare f text;
begin
    foreach f in array array[
        'token_add(text, bytea, text, text, integer, integer, timestamptz, bytea)', 'asker_of(bytea, text)',
        'protect_record(text, text, text, text, text, jsonb)', 'terms_number(jsonb, text)',
        'terms_time(jsonb, text, numeric)', 'keeps_all(jsonb)',
        'terms_shorter(jsonb, jsonb)', 'terms_follow(text, jsonb, text)', 'is_held(text)', 'snapshots_kept(text, text)',
        'snapshot_checked(text)',
        'snapshot_incomplete(text)', 'clock_doubtful(text)', 'snapshots_trash(text, text, text[], text)',
        'snapshots_cut_off(text)', 'trash_over(text, integer, text)', 'snapshots_purged(text[])',
        'snapshots_present(text, text[], timestamptz, text)',
        'hold_place(text, text, text, timestamptz, bytea, text, text)', 'snapshot_tag(text, text[], bytea, text, text)',
        'protect_delay(text[])', 'request_policies(text, text, text[])', 'request_open(text)',
        'request_policies_of(mover.protect_request)',
        'request_make(text, text, text, text[], jsonb, text, bytea, text, text)',
        'request_approve(text, bytea, text, text)',
        'request_withdraw(text, bytea, text, text)', 'request_apply(text, text)', 'token_person()', 'snapshot_recorded()'] loop
        execute format('revoke execute on function mover.%s from public', f);
    end loop;
    foreach f in array array[
        'token_add(text, bytea, text, text, integer, integer, timestamptz, bytea)', 'terms_number(jsonb, text)',
        'terms_time(jsonb, text, numeric)', 'keeps_all(jsonb)', 'terms_shorter(jsonb, jsonb)', 'terms_follow(text, jsonb, text)', 'is_held(text)',
        'snapshots_kept(text, text)', 'snapshot_checked(text)',
        'snapshot_incomplete(text)', 'clock_doubtful(text)',
        'snapshots_trash(text, text, text[], text)', 'snapshots_cut_off(text)', 'trash_over(text, integer, text)',
        'snapshots_purged(text[])', 'snapshots_present(text, text[], timestamptz, text)',
        'hold_place(text, text, text, timestamptz, bytea, text, text)', 'snapshot_tag(text, text[], bytea, text, text)',
        'request_make(text, text, text, text[], jsonb, text, bytea, text, text)',
        'request_approve(text, bytea, text, text)',
        'request_withdraw(text, bytea, text, text)', 'request_apply(text, text)'] loop
        execute format('grant execute on function mover.%s to mover_daemon', f);
    end loop;
end $$;

-- === restores: jobs that outlive the daemon, and versions of a path =========================================

set role mover_owner;

create table mover.restore (
    id          text primary key,
    project_id  text not null references mover.project,
    snapshot_id text not null,
    tier        text not null references mover.tier,    -- of the repository it comes from
    node        text not null,                          -- whose folders `target` names
    path        text not null,                          -- inside the snapshot
    target      text not null,
    first       text[] not null default '{}',           -- patterns of what is wanted first
    agreed      text,                                   -- digest of the preview somebody agreed to; null: to a new place
    state       text not null default 'waiting'
                check (state in ('waiting', 'restoring', 'complete', 'incomplete', 'cancelled', 'failed')),
    cancel      boolean not null default false,         -- asked for; whoever works on it stops between two pieces
    reason      text,                                   -- stable code
    explanation text,
    local       boolean not null,                       -- asked over the local socket, by a user the kernel named
    posix_uid   integer,                                -- whose rights the target is opened with
    posix_gid   integer,
    of_files    bigint,                                 -- what there is to restore, once it is known
    of_bytes    bigint,
    of_packs    bigint,
    files       bigint not null default 0,
    bytes       bigint not null default 0,
    seconds     double precision not null default 0,    -- worked, over all attempts
    first_at    timestamptz,                            -- what is wanted first stood in the target
    damaged_count bigint not null default 0,            -- files left out; the first of them by name
    damaged     text[] not null default '{}',
    left_count  bigint not null default 0,              -- not restored: something stood there that nobody agreed to replace
    left_paths  text[] not null default '{}',
    warnings_count bigint not null default 0,
    warnings    text[] not null default '{}',
    aside       text,                                   -- folder beside the target with what was replaced
    created_by  text not null,
    created_at  timestamptz not null default now(),
    started_at  timestamptz,
    finished_at timestamptz,
    unique (project_id, id),
    foreign key (project_id, snapshot_id) references mover.snapshot (project_id, id),
    check (state <> 'complete' or (damaged_count = 0 and left_count = 0)),
    check ((state in ('waiting', 'restoring')) = (finished_at is null))
);
create index restore_project on mover.restore (project_id, created_at desc, id desc);
-- what the estimate of the next one learns from
create index restore_measured on mover.restore (project_id, tier, finished_at desc) where state = 'complete';

alter table mover.restore enable row level security;
alter table mover.restore force row level security;
create policy by_project on mover.restore using (project_id = (select mover.current_project()))
    with check (project_id = (select mover.current_project()));
grant select, insert, update on mover.restore to mover_daemon;

-- the versions of one path, whichever snapshots hold it
create index artifact_path on mover.artifact (project_id, path, snapshot_id);

reset role;

-- === what is kept: locks on tiers, sealed dumps ============================================================

set role mover_owner;

-- can what is kept on a tier be destroyed with our own credential? As the last lock probe found it. Tiers belong to the
-- instance, so there is no project
create table mover.tier_lock (
    tier        text primary key references mover.tier,
    policy      text not null,
    means       text not null check (means in ('object lock', 'immutable files')),
    state       text not null default 'unknown' check (state in ('immutable', 'not immutable', 'unknown')),
    succeeded   text[] not null default '{}',       -- of what was tried and should have been refused
    explanation text not null default '',
    standing    integer not null default 0,         -- probe objects that have not run out
    asked_at    timestamptz not null default now(), -- a probe was begun
    probed_at   timestamptz,                        -- one had an answer
    since       timestamptz not null default now()  -- of the state
);

-- until when an object of a repository is locked, as the last renewal left it; it only ever grows
create table mover.object_lock (
    tier        text not null references mover.tier,
    key         text not null,
    until       timestamptz not null,
    primary key (tier, key)
);

-- one pass over what the kept snapshots of a repository need
create table mover.lock_renewal (
    id          text primary key,
    project_id  text not null references mover.project,
    tier        text not null references mover.tier,
    prefix      text not null,
    retain_s    bigint not null,
    state       text not null default 'running' check (state in ('running', 'done', 'failed')),
    needed      bigint not null default 0,
    renewed     bigint not null default 0,
    brought_back bigint not null default 0,         -- somebody had hidden them
    missing     bigint not null default 0,
    swept       bigint not null default 0,          -- hidden versions that had run out
    explanation text,
    started_at  timestamptz not null default now(),
    finished_at timestamptz
);
create unique index lock_renewal_running on mover.lock_renewal (tier, prefix) where state = 'running';
create index lock_renewal_last on mover.lock_renewal (project_id, tier, prefix, started_at desc);

-- a dump of catalog and vault, sealed for the two key files, on two tiers; made, proved, drilled, gone
create table mover.dump (
    id          text primary key,
    project_id  text not null references mover.project, -- whose records tell of it; it holds every project's rows
    sequence    bigint generated always as identity,
    policy      text not null,
    state       text not null default 'making' check (state in ('making', 'verified', 'failed', 'damaged', 'gone')),
    reason      text,
    explanation text,
    why         text not null,                      -- it was made
    created_by  text not null,
    started_at  timestamptz not null default now(),
    taken_at    timestamptz,                        -- what it holds is of this moment
    pair        text,
    digest      text,
    size_bytes  bigint,
    newest_migration text,
    facts       jsonb,                              -- rows and digest of each table, in the very snapshot
    proof       text,
    verified_kind mover.proof_kind generated always as ('verified') stored,
    verified_at timestamptz,
    drilled_at  timestamptz,
    reasons     text[] not null default '{}',       -- why it stays or went
    gone_at     timestamptz,
    unique (project_id, id),
    foreign key (proof, id, verified_kind) references mover.proof (id, subject_id, kind),
    constraint dump_verified_needs_proof check (state <> 'verified' or (proof is not null and taken_at is not null)),
    check (state not in ('failed', 'damaged') or reason is not null)
);
create unique index dump_making on mover.dump (project_id, policy) where state = 'making';
create index dump_newest on mover.dump (project_id, policy, sequence desc);

-- where it stands; a copy is written down only after it was read back cold
create table mover.dump_copy (
    project_id  text not null references mover.project,
    dump_id     text not null,
    tier        text not null references mover.tier,
    key         text not null,
    state       text not null default 'whole' check (state in ('whole', 'damaged', 'gone')),
    read_at     timestamptz not null default now(), -- last read back whole
    primary key (dump_id, tier),
    foreign key (project_id, dump_id) references mover.dump (project_id, id)
);

-- a drill reads both copies; where both key files are given it restores into a scratch database and compares
create table mover.dump_drill (
    id          text primary key,
    project_id  text not null references mover.project,
    dump_id     text not null,
    kind        text not null check (kind in ('read', 'restore')),
    passed      boolean,                            -- null: it runs
    explanation text,
    tables      integer not null default 0,
    row_count   bigint not null default 0,
    seconds     double precision,
    created_by  text not null,
    started_at  timestamptz not null default now(),
    finished_at timestamptz,
    foreign key (project_id, dump_id) references mover.dump (project_id, id)
);
create index dump_drill_of on mover.dump_drill (project_id, dump_id, started_at desc);

do $$
declare t text;
begin
    foreach t in array array['lock_renewal', 'dump', 'dump_copy', 'dump_drill'] loop
        execute format('alter table mover.%I enable row level security', t);
        execute format('alter table mover.%I force row level security', t);
        execute format('create policy by_project on mover.%I using (project_id = (select mover.current_project()))'
                       ' with check (project_id = (select mover.current_project()))', t);
    end loop;
end $$;

grant select, insert, update on mover.tier_lock, mover.object_lock, mover.lock_renewal, mover.dump, mover.dump_copy,
    mover.dump_drill to mover_daemon;
grant delete on mover.object_lock to mover_daemon;

-- a lock that was written down is never shortened
create function mover.keep_locked() returns trigger language plpgsql as $$
begin
    if new.until < old.until then
        raise exception 'a lock is never shortened' using errcode = 'check_violation';
    end if;
    return new;
end $$;
create trigger keep_locked before update on mover.object_lock for each row execute function mover.keep_locked();
revoke execute on function mover.keep_locked() from public;

reset role;

grant create on schema mover to mover_dispatch;
set role mover_dispatch;

-- how old the newest verified dump of each policy is, whatever project's records tell of it
create function mover.dump_ages() returns table (policy text, age_s double precision)
    language sql stable security definer set search_path = mover, pg_temp as $$
    select d.policy, extract(epoch from now() - max(d.taken_at)) from mover.dump d
     where d.state = 'verified' group by d.policy
$$;

reset role;
revoke create on schema mover from mover_dispatch;
grant select on mover.dump to mover_dispatch;
revoke execute on function mover.dump_ages() from public;
grant execute on function mover.dump_ages() to mover_daemon;

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

reset role;
-- === a second person is somebody else, and no transaction sleeps through a delay =============================================

set role mover_owner;

-- A transaction's now() stands still. One that was begun days ago would write days-old times: a delay that is over as
-- soon as it begins, a trash that is emptied at once, a token as old as it likes.
create function mover.awake() returns void language plpgsql as $$
begin
    if now() < clock_timestamp() - interval '15 minutes' then
        raise exception 'a transaction that stood open for so long decides nothing here' using errcode = 'MV102';
    end if;
end $$;

create or replace function mover.protect_record(in_node text, in_actor text, in_action text, in_subject text,
                                                in_reason text, in_details jsonb) returns void
    language plpgsql security definer set search_path = mover, pg_temp as $$
begin
    perform mover.awake();
    perform mover.audit_append(mover.current_project(), in_node, jsonb_build_object('actor', in_actor, 'action',
        in_action, 'subject', in_subject, 'reason', in_reason, 'request', '', 'details', in_details)::text);
end $$;

-- attempts whose snapshot was never checked, while a later one of the series was: nothing rests on them
create or replace function mover.snapshots_cut_off(in_series text) returns bigint
    language sql security definer set search_path = mover, pg_temp as $$
    select mover.awake();
    with moved as (
        update mover.snapshot s set state = 'trashed', trashed_at = now(), trashed_for = 'cut-off',
               reasons = '{cut off before it was checked}',
               trash_until = now() + mover.terms_time((select t.terms from mover.protect_terms t where t.policy = s.policy),
                                                     'trash_s', 1209600)
         where s.series = in_series and s.state = 'written' and s.doubt is null
           and exists (select from mover.snapshot n where n.policy = s.policy and n.series = s.series
                          and n.sequence > s.sequence and n.state = 'checked' and n.missing_at is null)
        returning 1)
    select count(*) from moved
$$;

-- Forgotten, but its file is still there, and the daemon, which sees the files, finds that the rules keep it: what had
-- displaced it has no file. It stands again.
create function mover.snapshots_back(in_ids text[], in_node text) returns bigint
    language plpgsql security definer set search_path = mover, pg_temp as $$
declare back text[];
begin
    with changed as (
        update mover.snapshot set state = 'checked', forgotten_at = null, trash_until = null
         where id = any (in_ids) and state = 'forgotten' and trashed_for is null and purged_at is null returning id)
    select array_agg(id) into back from changed;
    if back is null then return 0; end if;
    perform mover.protect_record(in_node, 'daemon', 'snapshots kept after all', '', 'rows without a file had displaced them',
                                 jsonb_build_object('snapshots', to_jsonb(back)));
    return cardinality(back);
end $$;

-- The only way to a token; `in_maker` is the digest of the maker's secret, null for the machine. A token and its audit
-- record come together, whoever calls: a second person that nobody has seen arrive is none.
drop function mover.token_add(text, bytea, text, text, integer, integer, timestamptz, bytea);
create function mover.token_add(in_id text, in_hash bytea, in_actor text, in_role text, in_uid integer, in_gid integer,
                                in_expires timestamptz, in_maker bytea, in_by text, in_node text, in_request text)
    returns boolean
    language plpgsql security definer set search_path = mover, pg_temp as $$
declare maker mover.token;
begin
    perform mover.awake();
    if in_maker is not null then
        select * into maker from mover.token t where t.hash = in_maker and t.revoked_at is null
           and (t.expires_at is null or t.expires_at > now()) and t.role = 'admin';
        if maker.id is null then
            raise exception 'only a live admin token makes tokens' using errcode = 'MV103';
        end if;
    end if;
    insert into mover.token (id, hash, actor, role, project_id, posix_uid, posix_gid, expires_at, made_by, person)
    values (in_id, in_hash, in_actor, in_role, mover.current_project(), in_uid, in_gid, in_expires, maker.id,
            coalesce(maker.person, in_id))
    on conflict do nothing;
    if not found then return false; end if;
    perform mover.audit_append(mover.current_project(), in_node, jsonb_build_object('actor', coalesce(maker.actor, in_by),
        'action', 'token made', 'subject', in_id, 'reason', '', 'request', in_request,
        'details', jsonb_build_object('role', in_role, 'for', in_actor, 'by the machine', maker.id is null))::text);
    return true;
end $$;

-- whose word this is: the machine's, or that of the person whose tokens this one belongs to
create function mover.person_of(in_proof bytea, in_actor text) returns text
    language sql stable security definer set search_path = mover, pg_temp as $$
    select (mover.asker_of(in_proof, in_actor)).person
$$;

alter table mover.slide_ruling add column asked_person text;    -- null: asked before this was written down

reset role;

do $$
declare f text;
begin
    foreach f in array array[
        'snapshots_back(text[], text)', 'person_of(bytea, text)',
        'token_add(text, bytea, text, text, integer, integer, timestamptz, bytea, text, text, text)'] loop
        execute format('revoke execute on function mover.%s from public', f);
        execute format('grant execute on function mover.%s to mover_daemon', f);
    end loop;
    revoke execute on function mover.awake() from public;
end $$;

-- === a scheduler acts for the members of its project's group ==============================================================

set role mover_owner;

-- It has no user of its own and one group, the project's: whom it may act for is asked of that group each time.
alter table mover.token drop constraint token_role_check;
alter table mover.token
    add constraint token_role_check check (role in ('viewer', 'operator', 'admin', 'custodian', 'scheduler')),
    add constraint token_scheduler_check check (role <> 'scheduler' or (posix_uid is null and posix_gid > 0));

reset role;

-- === facts as columns: what cohorts are asked of ===========================================================

set role mover_owner;

-- Where a slide stands in a project's columns: given once, in order, never again. Selections are lists of places.
create table mover.slide_place (
    project_id  text not null references mover.project,
    place       integer not null check (place >= 0),
    number      text not null,
    primary key (project_id, place),
    unique (project_id, number),
    foreign key (project_id, number) references mover.slide_grant (project_id, number)
);

-- One column of 32,768 places, packed (`decide.vectors`). Made from slide and aligned, and made anew at any time:
-- row level security binds it by its own key, so it is read through an index whatever is asked.
create table mover.fact_block (
    project_id  text not null references mover.project,
    name        text not null,                      -- record:<fact> or slide:<column>
    block       integer not null,                   -- place / 32768
    body        bytea not null,
    primary key (project_id, name, block)
);
alter table mover.fact_block alter column body set storage external;

-- Slides whose facts were written since their block was: they are read row by row until it is made anew. A row per
-- write, never updated: two writers of one slide never wait for each other here.
create table mover.fact_mark (
    project_id  text not null references mover.project,
    id          bigint generated always as identity,
    number      text not null,
    primary key (project_id, id)
);

create function mover.mark_facts() returns trigger language plpgsql as $$
begin
    insert into mover.fact_mark (project_id, number) select project_id, number from written;
    return null;
end $$;
revoke execute on function mover.mark_facts() from public;
create trigger mark_facts after insert on mover.slide_grant referencing new table as written
    for each statement execute function mover.mark_facts();
create trigger mark_facts after insert on mover.aligned referencing new table as written
    for each statement execute function mover.mark_facts();
create trigger mark_changed_facts after update on mover.aligned referencing new table as written
    for each statement execute function mover.mark_facts();

-- A frozen list, once for all selections of that root: two bytes a slide.
create table mover.selection_list (
    project_id  text not null references mover.project,
    root        text not null,
    block       integer not null,
    offsets     smallint[] not null,                -- places within the block, ascending
    primary key (project_id, root, block)
);

-- The list of a selection, slide by slide.
create view mover.selection_slide with (security_invoker = true) as
    select s.project_id, s.id as selection_id, p.number
      from mover.selection s
      join mover.selection_list l on l.project_id = s.project_id and l.root = s.root
      cross join lateral unnest(l.offsets) as o (at)
      join mover.slide_place p on p.project_id = s.project_id and p.place = l.block * 32768 + o.at;

do $$
declare t text;
begin
    foreach t in array array['slide_place', 'fact_block', 'fact_mark', 'selection_list'] loop
        execute format('alter table mover.%I enable row level security', t);
        execute format('alter table mover.%I force row level security', t);
        execute format('create policy by_project on mover.%I using (project_id = (select mover.current_project()))'
                       ' with check (project_id = (select mover.current_project()))', t);
    end loop;
end $$;

grant select on mover.selection_slide to mover_daemon;
grant select, insert on mover.slide_place, mover.selection_list to mover_daemon;
grant select, insert, update, delete on mover.fact_block to mover_daemon;
grant select, insert, delete on mover.fact_mark to mover_daemon;

reset role;

grant create on schema mover to mover_dispatch;
set role mover_dispatch;

-- projects in which something was written since its columns were
create function mover.projects_marked() returns table (project_id text)
    language sql stable security definer set search_path = mover, pg_temp as $$
    select id from mover.project p where exists (select from mover.fact_mark m where m.project_id = p.id)
$$;

reset role;
revoke create on schema mover from mover_dispatch;
grant select on mover.fact_mark to mover_dispatch;
revoke execute on function mover.projects_marked() from public;
grant execute on function mover.projects_marked() to mover_daemon;
-- === runs: in what order they are let in, what is learnt from them, and what happened to them ==============================

set role mover_owner;

alter table mover.run
    add column priority smallint not null default 0 check (priority between -10 and 10),
    add column deadline timestamptz,                -- of no use to the requester when it is not let in by then
    add column wanted_files bigint not null default 0,  -- entries it asked for, and their bytes
    add column wanted_bytes bigint not null default 0,
    add column copy_bytes bigint,                   -- of those, what did not stand on the flash when it was let in
    add column admitted_at timestamptz;

create index run_waiting on mover.run (tier, priority desc, deadline, created_at, id) where state = 'requested';
create index run_staged on mover.run (tier, ready_at desc) where ready_at is not null;
create index run_entry_unstaged on mover.run_entry (run_id) include (size_bytes) where staged_at is null;

-- Every state a run was in, and since when: who watches it goes on where it was cut off.
create table mover.run_event (
    project_id  text not null references mover.project,
    run_id      text not null,
    seq         bigint generated always as identity,
    state       mover.run_state not null,
    reason      text,
    at          timestamptz not null default clock_timestamp(),
    primary key (run_id, seq),
    foreign key (project_id, run_id) references mover.run (project_id, id)
);
alter table mover.run_event enable row level security;
alter table mover.run_event force row level security;
create policy by_project on mover.run_event using (project_id = (select mover.current_project()))
    with check (project_id = (select mover.current_project()));
grant select, insert on mover.run_event to mover_daemon;

-- Nobody can watch a run before it is there, so its first state wakes nobody: commits that notify wait for each other.
create function mover.tell_run() returns trigger language plpgsql as $$
begin
    insert into mover.run_event (project_id, run_id, state, reason) values (new.project_id, new.id, new.state, new.reason);
    if tg_op = 'UPDATE' then
        perform pg_notify('mover_runs', new.id);
    end if;
    return null;
end $$;
revoke execute on function mover.tell_run() from public;
create trigger tell_new_run after insert on mover.run for each row execute function mover.tell_run();
create trigger tell_run after update of state on mover.run for each row
    when (old.state is distinct from new.state) execute function mover.tell_run();

reset role;

grant create on schema mover to mover_dispatch;
set role mover_dispatch;

-- runs that wait for space on a tier, whatever the project: the more important first, then who needs it sooner, then
-- who came first
create function mover.run_queue(in_tier text, in_limit integer)
    returns table (run_id text, project_id text, selection_id text, policy text, bytes bigint, overdue boolean)
    language sql stable security definer set search_path = mover, pg_temp as $$
    select id, project_id, selection_id, policy, wanted_bytes, coalesce(deadline < now(), false) from mover.run
     where tier = in_tier and state = 'requested'
     order by priority desc, deadline, created_at, id limit in_limit
$$;

-- what runs hold on a tier, whatever the project, and for how long they have: a promise ends when the root is gone
create function mover.run_holders(in_tier text) returns table (bytes bigint, held_s double precision)
    language sql stable security definer set search_path = mover, pg_temp as $$
    select reserved_bytes, extract(epoch from now() - coalesce(admitted_at, created_at)) from mover.run
     where tier = in_tier and reserved_bytes > 0
$$;

-- runs that were let in and whose staging has not begun: whoever let them in may have died
create function mover.runs_admitted(in_tier text, in_limit integer) returns table (run_id text, project_id text)
    language sql stable security definer set search_path = mover, pg_temp as $$
    select id, project_id from mover.run where tier = in_tier and state = 'admitted' order by admitted_at, id limit in_limit
$$;

-- how long the newest runs of these policies took to be staged: bytes, files and seconds, no names
create function mover.run_paces(in_tier text, in_policies text[], in_limit integer)
    returns table (copy_bytes bigint, files bigint, seconds double precision)
    language sql stable security definer set search_path = mover, pg_temp as $$
    select copy_bytes, wanted_files, extract(epoch from ready_at - admitted_at) from mover.run
     where tier = in_tier and ready_at is not null and admitted_at is not null and copy_bytes is not null
       and policy = any (in_policies)
     order by ready_at desc limit in_limit
$$;

-- for how long the newest runs of a tier held their place
create function mover.run_holds(in_tier text, in_limit integer) returns table (seconds double precision)
    language sql stable security definer set search_path = mover, pg_temp as $$
    select extract(epoch from cleaned_at - admitted_at) from mover.run
     where tier = in_tier and ready_at is not null and state = 'cleaned' and admitted_at is not null
     order by ready_at desc limit in_limit
$$;

reset role;
revoke create on schema mover from mover_dispatch;
revoke execute on function mover.run_queue(text, integer), mover.run_holders(text), mover.runs_admitted(text, integer),
    mover.run_paces(text, text[], integer), mover.run_holds(text, integer) from public;
grant execute on function mover.run_queue(text, integer), mover.run_holders(text), mover.runs_admitted(text, integer),
    mover.run_paces(text, text[], integer), mover.run_holds(text, integer) to mover_daemon;

-- === datasets are kept with their runs: pins, second copies, what a run is repeated from ========================

set role mover_owner;

-- A slide's files on a second tier, under the same keys. `writing` comes before the first byte, so that whoever removes
-- the slide knows where bytes of it may stand; `whole` has its proof
create table mover.slide_copy (
    number      text not null references mover.slide,
    tier        text not null references mover.tier,
    state       text not null default 'writing' check (state in ('writing', 'whole', 'failed')),
    reason      text,                               -- stable code
    tried_at    timestamptz not null default now(),
    proof       text,
    verified_kind mover.proof_kind generated always as ('verified') stored,
    primary key (number, tier),
    foreign key (proof, number, verified_kind) references mover.proof (id, subject_id, kind),
    constraint whole_needs_proof check (state <> 'whole' or proof is not null),
    check (state <> 'failed' or reason is not null)
);
alter table mover.slide_copy enable row level security;
alter table mover.slide_copy force row level security;
create policy by_grant on mover.slide_copy
    using (exists (select from mover.slide_grant g where g.number = slide_copy.number))
    with check (exists (select from mover.slide_grant g where g.number = slide_copy.number));

-- A turn of an archive policy: what is to be copied is copied, what kept manifests name is locked on
create table mover.archive_turn (
    id          text primary key,
    project_id  text not null references mover.project,
    policy      text not null,
    state       text not null default 'running' check (state in ('running', 'done', 'failed')),
    copied      bigint not null default 0,
    bytes       bigint not null default 0,
    failed      bigint not null default 0,
    locked      bigint not null default 0,
    missing     bigint not null default 0,
    explanation text,
    created_by  text not null,
    started_at  timestamptz not null default now(),
    finished_at timestamptz
);
create unique index archive_turn_running on mover.archive_turn (project_id, policy) where state = 'running';
create index archive_turn_last on mover.archive_turn (project_id, policy, started_at desc);

-- An archived file that was not what the catalog says when somebody needed it: it is read again, and repaired
create table mover.archive_doubt (
    project_id  text not null references mover.project,
    tier        text not null references mover.tier,
    key         text not null,
    reason      text not null,
    at          timestamptz not null default now(),
    primary key (project_id, tier, key)
);

-- `records.parquet` of every run that became ready: facts change, and a run that is repeated has those of then
create table mover.run_records (
    project_id  text not null references mover.project,
    digest      text not null check (digest ~ '^[0-9a-f]{64}$'),
    body        bytea not null,
    primary key (project_id, digest)
);

alter table mover.run no force row level security;
alter table mover.run
    add column like_id text,                        -- the run it repeats, file by file
    add constraint run_like_of_project foreign key (project_id, like_id) references mover.run (project_id, id);
alter table mover.run force row level security;
-- how many kept manifests the second person was told of
alter table mover.slide_ruling add column manifests bigint;

do $$
declare t text;
begin
    foreach t in array array['archive_turn', 'archive_doubt', 'run_records'] loop
        execute format('alter table mover.%I enable row level security', t);
        execute format('alter table mover.%I force row level security', t);
        execute format('create policy by_project on mover.%I using (project_id = (select mover.current_project()))'
                       ' with check (project_id = (select mover.current_project()))', t);
    end loop;
end $$;
-- where bytes of a slide may stand is never forgotten
grant select, insert, update (state, reason, tried_at, proof) on mover.slide_copy to mover_daemon;
grant select, insert, update on mover.archive_turn to mover_daemon;
grant select, insert, delete on mover.archive_doubt to mover_daemon;
grant select, insert on mover.run_records to mover_daemon;
grant select on mover.slide_copy to mover_dispatch;

-- a copy begins only of a slide that stands, and is whole only with a proof over all its files
create function mover.slide_copy_judged() returns trigger language plpgsql as $$
declare s mover.slide; p mover.proof;
begin
    select * into s from mover.slide where number = new.number;
    if new.tier = s.tier then
        raise exception 'a tier is no second copy of itself' using errcode = 'check_violation';
    end if;
    if new.state = 'writing' and mover.slide_withdrawn(new.number) is not null then
        raise exception 'the slide is withdrawn: nothing of it is copied' using errcode = 'check_violation';
    end if;
    if new.state = 'whole' then
        select * into p from mover.proof where id = new.proof;
        if p.count is distinct from s.files_count + 1 + (s.thumbnail_key is not null)::integer
           or p.root is distinct from coalesce(s.root, s.digest) or p.details ->> 'tier' is distinct from new.tier then
            raise exception 'the proof is not one of all files of this slide on this tier' using errcode = 'check_violation';
        end if;
    end if;
    return new;
end $$;
create trigger slide_copy_judged before insert or update on mover.slide_copy
    for each row execute function mover.slide_copy_judged();

reset role;

grant create on schema mover to mover_dispatch;
set role mover_dispatch;

-- Kept manifests that name a slide, whatever the project: each is a promise that it can be staged again. The digest is
-- what run entries are found by
create function mover.slide_pins(in_number text) returns table (project_id text, run_id text)
    language sql stable security definer set search_path = mover, pg_temp as $$
    select distinct r.project_id, r.id from mover.slide s
      join mover.run_entry e on e.digest = s.digest and e.number = s.number join mover.run r on r.id = e.run_id
     where s.number = in_number and r.manifest_root is not null order by r.id
$$;

create function mover.slide_pinned(in_number text) returns boolean
    language sql stable security definer set search_path = mover, pg_temp as $$
    select exists (select from mover.slide s
      join mover.run_entry e on e.digest = s.digest and e.number = s.number join mover.run r on r.id = e.run_id
     where s.number = in_number and r.manifest_root is not null)
$$;

-- is this a file of a slide, or what vouches for one, on the tier it was published to or on that of its second copy?
create function mover.archive_keeps(in_tier text, in_key bytea) returns boolean
    language plpgsql stable security definer set search_path = mover, pg_temp as $$
declare k text := encode(in_key, 'escape');
begin
    -- plain names, which nearly all are, need no subtransaction
    if strpos(k, '\') > 0 then
        begin
            k := convert_from(in_key, 'UTF8');
        exception when others then
            return false;  -- no key of ours is spelled so
        end;
    end if;
    return exists (
        select from (
            select s.number, s.tier from mover.slide s where s.tier in (select name from mover.tier) and s.key = k
             union all
            select f.number, f.tier from mover.slide_file f where f.tier in (select name from mover.tier) and f.key = k
             union all
            select s.number, s.tier from mover.slide s
             where s.number = substring(k from '^slides/([0-9A-Z]{17})/')
               and k in (s.thumbnail_key, 'slides/' || s.number || '/sidecar.json')) n
         where n.tier = in_tier
            or exists (select from mover.slide_copy c where c.number = n.number and c.tier = in_tier));
end $$;

-- as before, and second copies
create or replace function mover.keys_held(in_tier text, in_keys text[]) returns table (key text)
    language sql stable security definer set search_path = mover, pg_temp as $$
    select s.key from mover.slide s where s.tier = in_tier and s.key = any (in_keys)
    union select s.thumbnail_key from mover.slide s where s.tier = in_tier and s.thumbnail_key = any (in_keys)
    union select f.key from mover.slide_file f where f.tier = in_tier and f.key = any (in_keys)
    union select e.archive_key from mover.run_entry e join mover.run r on r.id = e.run_id
           where e.archive_tier = in_tier and e.archive_key = any (in_keys)
             and r.state not in ('cleaned', 'refused', 'cancelled', 'failed')
    union select k from unnest(in_keys) k where mover.archive_keeps(in_tier, convert_to(k, 'UTF8'))
$$;

create or replace function mover.keys_known(in_tier text, in_keys bytea[], in_seen boolean) returns table (key bytea)
    language sql stable security definer set search_path = mover, pg_temp as $$
    select e.key from mover.entry e
     where e.tier = in_tier and e.key = any (in_keys) and (in_seen or e.digest is not null)
    union select k from unnest(in_keys) k where mover.archive_keeps(in_tier, k)
    union select f.key from mover.adoption_file f join mover.adoption a on a.id = f.adoption_id
           where a.tier = in_tier and f.key = any (in_keys)
             and exists (select from mover.slide s where s.number = f.number)  -- a verdict alone makes nothing known
$$;

-- no archived file leaves by a release, whatever our code thinks
create function mover.release_judged() returns trigger
    language plpgsql security definer set search_path = mover, pg_temp as $$
begin
    if mover.archive_keeps((select tier from mover.release where id = new.release_id), new.source) then
        raise exception 'a file of an archived slide is not released' using errcode = 'check_violation';
    end if;
    return new;
end $$;

-- bytes of a slide go only after two persons said so, the second of them knowing how many manifests it breaks
create function mover.removal_judged() returns trigger
    language plpgsql security definer set search_path = mover, pg_temp as $$
declare r mover.slide_ruling;
begin
    select * into r from mover.slide_ruling where id = new.ruling_id;
    if r.action <> 'remove' or r.state <> 'granted' or mover.slide_withdrawn(r.number) is null
       or r.manifests is distinct from (select count(*) from mover.slide_pins(r.number)) then
        raise exception 'nothing of a slide is removed but by a ruling of two persons' using errcode = 'check_violation';
    end if;
    return new;
end $$;

-- gone is gone: only by such a ruling, only after everything that was written down went, and never while a copy is made
create function mover.gone_judged() returns trigger
    language plpgsql security definer set search_path = mover, pg_temp as $$
begin
    if old.removed_at is not null
       or not exists (select from mover.slide_ruling r where r.number = new.number and r.action = 'remove'
                       and r.state = 'granted' and not exists (select from mover.slide_removal m
                                                                where m.ruling_id = r.id and m.state <> 'removed'))
       or exists (select from mover.slide_copy c where c.number = new.number and c.state = 'writing') then
        raise exception 'the bytes of the slide are not gone' using errcode = 'check_violation';
    end if;
    return new;
end $$;

reset role;
revoke create on schema mover from mover_dispatch;
grant select on mover.tier, mover.slide_ruling, mover.slide_removal to mover_dispatch;

revoke execute on function mover.slide_pins(text), mover.slide_pinned(text), mover.archive_keeps(text, bytea),
    mover.release_judged(), mover.removal_judged(), mover.gone_judged(), mover.slide_copy_judged() from public;
grant execute on function mover.slide_pins(text), mover.slide_pinned(text), mover.archive_keeps(text, bytea) to mover_daemon;
grant execute on function mover.release_judged(), mover.removal_judged(), mover.gone_judged() to mover_owner;

set role mover_owner;

create trigger release_judged before update on mover.release_entry
    for each row when (new.state = 'leaving' and old.state <> 'leaving') execute function mover.release_judged();
create trigger removal_judged before insert on mover.slide_removal
    for each row execute function mover.removal_judged();
create trigger gone_judged before update of removed_at on mover.slide_withdrawal
    for each row execute function mover.gone_judged();

-- as before, and with second copies
create or replace function mover.vouched(in_tier text, in_prefix bytea)
    returns table (key bytea, source text, subject text, digest text, size_bytes bigint, mtime_ns bigint, mark text,
                   verified_at timestamptz)
    language sql stable as $$
    with standing as (
        select s.number from mover.slide s where s.tier = in_tier
         union select c.number from mover.slide_copy c where c.tier = in_tier and c.state = 'whole'),
    every as (
        select convert_to(s.key, 'UTF8') as key, s.number, s.digest, s.size_bytes
          from standing join mover.slide s using (number)
        union all
        select convert_to(f.key, 'UTF8'), f.number, f.digest, f.size_bytes
          from standing join mover.slide_file f using (number)
        union all
        select convert_to(s.thumbnail_key, 'UTF8'), s.number, s.thumbnail_digest, s.thumbnail_bytes
          from standing join mover.slide s using (number)
         where s.thumbnail_key is not null and s.thumbnail_digest is not null),
    slides as (
        select * from every e
         where not exists (select from mover.slide_withdrawal w where w.number = e.number and w.removed_at is not null)),
    known as (
        select s.key, 'slide' as source, s.number as subject, s.digest, s.size_bytes, e.mtime_ns, e.mark, e.verified_at
          from slides s left join mover.entry e on e.tier = in_tier and e.key = s.key and e.digest = s.digest
        union all
        select e.key, 'entry', null, e.digest, e.size_bytes, e.mtime_ns, e.mark, e.verified_at from mover.entry e
         where e.tier = in_tier and e.kind = 'file' and e.digest is not null
           and not exists (select from every s where s.key = e.key)
           -- what was released left on purpose; what is gone without that is missing
           and (e.gone_at is null or not exists (
                select from mover.release_entry r join mover.release l on l.id = r.release_id
                 where l.tier = in_tier and r.source = e.key and r.state in ('leaving', 'released', 'purging', 'purged'))))
    select * from known k
     where in_prefix = ''::bytea or k.key = in_prefix
        or substring(k.key from 1 for length(in_prefix) + 1) = in_prefix || '/'::bytea
$$;

reset role;

-- === the edges of protection: snapshots by tag and time, the second copy and keys among what takes two persons =============

set role mover_owner;

-- Listing of snapshots by time, of a series, in a state or with a tag: each question has its index.
create index snapshot_recorded on mover.snapshot (project_id, recorded_at, sequence);
create index snapshot_of_series_recorded on mover.snapshot (project_id, series, recorded_at, sequence);
create index snapshot_of_policy_recorded on mover.snapshot (project_id, policy, state, recorded_at, sequence);

-- Tags again, for listing alone: below row level security no index is used for what an array holds.
create table mover.tagged_snapshot (
    project_id  text not null references mover.project,
    tag         text not null,
    recorded_at timestamptz not null,
    sequence    bigint not null,
    snapshot_id text not null,
    primary key (project_id, tag, recorded_at, sequence),
    foreign key (project_id, snapshot_id) references mover.snapshot (project_id, id) on delete cascade
);
create index tagged_snapshot_of on mover.tagged_snapshot (project_id, snapshot_id);

alter table mover.tagged_snapshot enable row level security;
alter table mover.tagged_snapshot force row level security;
create policy by_project on mover.tagged_snapshot using (project_id = (select mover.current_project()))
    with check (project_id = (select mover.current_project()));

create function mover.snapshot_tags_follow() returns trigger language plpgsql as $$
begin
    delete from mover.tagged_snapshot where project_id = new.project_id and snapshot_id = new.id;
    insert into mover.tagged_snapshot (project_id, tag, recorded_at, sequence, snapshot_id)
    select distinct new.project_id, t, new.recorded_at, new.sequence, new.id from unnest(new.tags) t;
    return null;
end $$;
revoke execute on function mover.snapshot_tags_follow() from public;
create trigger snapshot_tags_first after insert on mover.snapshot for each row when (new.tags <> '{}')
    execute function mover.snapshot_tags_follow();
create trigger snapshot_tags_follow after update of tags on mover.snapshot for each row
    when (new.tags is distinct from old.tags) execute function mover.snapshot_tags_follow();
grant select on mover.tagged_snapshot to mover_daemon;

reset role;

-- === lineage: what a run's begin and end tell a service outside ===========================================================

set role mover_owner;

-- Somebody delivers events, and when he last looked. Where nobody did for a day none are collected.
create table mover.lineage_reader (
    one     boolean primary key default true check (one),
    seen_at timestamptz not null default now()
);

-- The outbox: written with the change it tells of, removed when it is delivered.
create table mover.lineage (
    project_id  text not null references mover.project,
    run_id      text not null,
    event       text not null check (event in ('START', 'COMPLETE', 'FAIL', 'ABORT')),
    at          timestamptz not null default clock_timestamp(),
    not_before  timestamptz not null default now(),     -- taken, or tried in vain, until then
    attempts    integer not null default 0,
    primary key (run_id, event),
    foreign key (project_id, run_id) references mover.run (project_id, id)
);
create index lineage_due on mover.lineage (not_before, at);
alter table mover.lineage enable row level security;
alter table mover.lineage force row level security;
create policy by_project on mover.lineage using (project_id = (select mover.current_project()))
    with check (project_id = (select mover.current_project()));
grant select, insert, update, delete on mover.lineage to mover_daemon;
grant select, insert, update on mover.lineage_reader to mover_daemon;

-- A run begins when it is ready for the first time and ends when what it left is proved protected: by its job's exit
-- status, or because it was given up or nobody kept its lease.
create function mover.tell_lineage() returns trigger language plpgsql as $$
begin
    if exists (select from mover.lineage_reader where seen_at > now() - interval '1 day') then
        insert into mover.lineage (project_id, run_id, event) values (new.project_id, new.id, case
            when old.ready_proof is null then 'START'
            when new.reason in ('lease-expired', 'cancelled') then 'ABORT'
            when coalesce((new.finish ->> 'exit')::bigint, 0) <> 0 then 'FAIL'
            else 'COMPLETE' end)
        on conflict do nothing;
    end if;
    return null;
end $$;
revoke execute on function mover.tell_lineage() from public;
create trigger tell_lineage after update on mover.run for each row
    when ((old.ready_proof is null and new.ready_proof is not null)
       or (old.protected_proof is null and new.protected_proof is not null))
    execute function mover.tell_lineage();

reset role;

grant select, update on mover.lineage to mover_dispatch;
grant create on schema mover to mover_dispatch;
set role mover_dispatch;

-- Events that are due, whatever the project, taken for so long by whoever asks: two daemons do not tell the same one
-- at once, and one that dies lets go of it.
create function mover.lineage_take(in_limit integer, in_for_s integer)
    returns table (project_id text, run_id text, event text, at timestamptz, attempts integer)
    language sql security definer set search_path = mover, pg_temp as $$
    update mover.lineage l set not_before = now() + make_interval(secs => in_for_s), attempts = l.attempts + 1
      from (select d.run_id, d.event from mover.lineage d where d.not_before <= now()
             order by d.not_before, d.at limit in_limit for update skip locked) due
     where l.run_id = due.run_id and l.event = due.event
    returning l.project_id, l.run_id, l.event, l.at, l.attempts
$$;

reset role;
revoke create on schema mover from mover_dispatch;
revoke execute on function mover.lineage_take(integer, integer) from public;
grant execute on function mover.lineage_take(integer, integer) to mover_daemon;

-- === splits: what slides share, told as groups and never as whose ==========================================================

set role mover_owner;

alter table mover.aligned
    add column block text;                          -- pseudonym of the tissue block, where a table names one

alter table mover.run_entry
    add column split text check (split ~ '^[a-z][a-z0-9_-]{0,31}$');

alter table mover.run
    drop constraint run_layout_check,
    add constraint run_layout_check check (layout in ('flat', 'number', 'label', 'split'));

-- Who tells that two slides are one patient's reads who is tied to what, and nothing else in the vault.
grant usage on schema mover, vault to mover_guard;
grant select on vault.tie, mover.slide, mover.slide_grant, mover.aligned to mover_guard;
grant execute on function mover.current_project() to mover_guard;

reset role;

grant create on schema mover to mover_guard;
set role mover_guard;

-- Of these slides those that have a patient, as tables say or as the scan itself said, each with a group that stands for
-- that patient in this answer and in no other. Only slides of the caller's project.
create function mover.patient_groups(in_numbers text[]) returns table (number text, patient bigint)
    language sql stable security definer set search_path = mover, pg_temp as $$
    with asked as (
        select s.number, s.site, s.facts ->> 'subject' as own from mover.slide_grant g join mover.slide s using (number)
         where g.number = any (in_numbers)),
    named as (
        select k.number, k.own as subject from asked k where k.own is not null
        union
        select k.number, a.subject from asked k join mover.aligned a using (number) where a.subject is not null
        union
        select k.number, t.subject from asked k join vault.tie t using (site, number))
    select n.number, dense_rank() over (order by n.subject) from named n
$$;

reset role;
revoke create on schema mover from mover_guard;
revoke execute on function mover.patient_groups(text[]) from public;
grant execute on function mover.patient_groups(text[]) to mover_daemon;
-- === the second person of a release is somebody else, whatever name they go by ==================================

set role mover_owner;

alter table mover.transfer add column asked_person text;        -- null: asked before this was written down, or by a policy

reset role;
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
-- === what two people decide about a withdrawn slide, the database judges ==========================================

set role mover_owner;

alter table mover.slide_ruling
    add column decided_person text,                 -- null: decided before this was written down
    add constraint two_persons check (decided_person <> asked_person);

-- A ruling and its audit record come together, whoever calls.
create function mover.ruling_record(in_action text, in_reason text, in_actor text, in_node text, in_request text,
                                    r mover.slide_ruling, in_details jsonb) returns void
    language sql security definer set search_path = mover, pg_temp as $$
    select mover.audit_append(r.project_id, in_node, jsonb_build_object('actor', in_actor,
        'action', 'slide ' || r.action || ' ' || in_action, 'subject', r.number, 'reason', in_reason,
        'request', in_request, 'details', in_details)::text)
$$;

-- One open question about a slide; false where somebody asked already.
create function mover.ruling_ask(in_id text, in_number text, in_action text, in_reason text, in_proof bytea,
                                 in_actor text, in_node text, in_request text) returns boolean
    language plpgsql security definer set search_path = mover, pg_temp as $$
declare who mover.asker := mover.asker_of(in_proof, in_actor); r mover.slide_ruling;
begin
    perform mover.awake();
    if who.role not in ('operator', 'admin') then
        raise exception 'this role asks for nothing here' using errcode = 'MV103';
    end if;
    if not exists (select from mover.slide_withdrawal w where w.number = in_number and w.removed_at is null) then
        raise exception 'the slide is not withdrawn, or removed' using errcode = 'MV102';
    end if;
    insert into mover.slide_ruling (id, project_id, number, action, reason, asked_by, asked_person)
    values (in_id, mover.current_project(), in_number, in_action, in_reason, who.actor, who.person)
    on conflict do nothing returning * into r;
    if r.id is null then return false; end if;
    perform mover.ruling_record('asked', in_reason, who.actor, in_node, in_request, r, '{}');
    return true;
end $$;

-- Raises unless this person may grant it now. There is no delay to be seen in, so neither person may be newer than a
-- day: whoever makes a token to be two waits as long, and is seen.
create function mover.ruling_judged(r mover.slide_ruling, who mover.asker, in_manifests bigint) returns void
    language plpgsql stable security definer set search_path = mover, pg_temp as $$
begin
    if r.asked_person is null then
        raise exception 'who asked was not written down then; decline it and ask again' using errcode = 'MV102';
    end if;
    if greatest(who.since, (select t.created_at from mover.token t where t.id = r.asked_person))
       > r.asked_at - interval '1 day' then
        raise exception 'one of the two persons got a token less than a day before it was asked' using errcode = 'MV103';
    end if;
    if r.action = 'remove' and exists (select from mover.slide_holders(array[r.number]) where run_id is not null) then
        raise exception 'runs hold the slide; end them first' using errcode = 'MV102';
    end if;
    if r.action = 'remove' and in_manifests is distinct from (select count(*) from mover.slide_pins(r.number)) then
        raise exception 'that is not how many kept manifests name the slide' using errcode = 'MV102';
    end if;
end $$;

-- The second person's word. With a grant a slide is back, and its packs are what they were; or its removal may be
-- written down.
create function mover.ruling_decide(in_id text, in_grant boolean, in_reason text, in_manifests bigint, in_proof bytea,
                                    in_actor text, in_node text, in_request text) returns void
    language plpgsql security definer set search_path = mover, pg_temp as $$
declare who mover.asker := mover.asker_of(in_proof, in_actor); r mover.slide_ruling; packs jsonb := '{}';
begin
    perform mover.awake();
    select * into r from mover.slide_ruling where id = in_id for update;
    if r.id is null then raise exception 'no such ruling' using errcode = 'MV101'; end if;
    if r.state <> 'asked' then raise exception 'the ruling is %', r.state using errcode = 'MV102'; end if;
    if who.role <> 'custodian' then raise exception 'only a custodian decides' using errcode = 'MV103'; end if;
    if who.person = r.asked_person then
        raise exception 'who asked cannot decide; tokens that one person made are one person' using errcode = 'MV103';
    end if;
    if in_grant then perform mover.ruling_judged(r, who, in_manifests); end if;
    update mover.slide_ruling set state = case when in_grant then 'granted' else 'declined' end, decided_by = who.actor,
           decided_person = who.person, decided_at = now(), decision = in_reason, manifests = in_manifests
     where id = in_id returning * into r;
    if in_grant and r.action = 'reinstate' then
        delete from mover.slide_withdrawal where number = r.number;
        if not found then raise exception 'the slide never comes back' using errcode = 'MV102'; end if;
        with released as (
            update mover.pack set state = case when verified_proof is null then 'duplicate' else 'published' end,
                   reason = null, explanation = null, cause = null, updated_at = now()
             where number = r.number and state = 'quarantined' and reason = 'identifier-found-later' returning id)
        select jsonb_build_object('packs', coalesce(jsonb_agg(id), '[]')) into packs from released;
        update mover.slide_ruling set state = 'done' where id = in_id;
    end if;
    perform mover.ruling_record(case when in_grant then 'granted' else 'declined' end, in_reason, who.actor, in_node,
        in_request, r, packs || jsonb_build_object('asked_by', r.asked_by, 'manifests', in_manifests));
end $$;

-- What was granted is done, or failed; done is a removal after which the slide is gone.
create function mover.ruling_end(in_id text, in_state text, in_explanation text) returns void
    language plpgsql security definer set search_path = mover, pg_temp as $$
begin
    update mover.slide_ruling r set state = in_state, explanation = in_explanation
     where r.id = in_id and r.state = 'granted'
       and (in_state = 'failed' or in_state = 'done' and exists (
               select from mover.slide_withdrawal w where w.number = r.number and w.removed_at is not null));
end $$;

reset role;

grant create on schema mover to mover_dispatch;
set role mover_dispatch;

-- as before, and the two are persons, and only files of the slide that they spoke of
create or replace function mover.removal_judged() returns trigger
    language plpgsql security definer set search_path = mover, pg_temp as $$
declare r mover.slide_ruling;
begin
    select * into r from mover.slide_ruling where id = new.ruling_id;
    if r.action <> 'remove' or r.state <> 'granted' or mover.slide_withdrawn(r.number) is null
       or r.asked_person is null or r.decided_person is null or r.asked_person = r.decided_person
       or r.manifests is distinct from (select count(*) from mover.slide_pins(r.number)) then
        raise exception 'nothing of a slide is removed but by a ruling of two persons' using errcode = 'check_violation';
    end if;
    if not starts_with(new.key, '.mover/quarantine/') and new.key <> 'slides/' || r.number || '/sidecar.json'
       and not exists (select from mover.slide s where s.number = r.number and new.key in (s.key, s.thumbnail_key))
       and not exists (select from mover.slide_file f where f.number = r.number and f.key = new.key) then
        raise exception 'the two persons did not speak of this file' using errcode = 'check_violation';
    end if;
    return new;
end $$;

reset role;
revoke create on schema mover from mover_dispatch;

-- a withdrawal only withholds, so the daemon makes one; it says of none that it is over, and of nobody that they decided
revoke insert, update on mover.slide_ruling from mover_daemon;
grant update (explanation) on mover.slide_ruling to mover_daemon;
revoke update on mover.slide_removal from mover_daemon;
grant update (state) on mover.slide_removal to mover_daemon;
revoke insert, delete on mover.slide_withdrawal from mover_daemon;
grant insert (number, reason, found_by) on mover.slide_withdrawal to mover_daemon;
grant execute on function mover.slide_holders(text[]), mover.slide_pins(text) to mover_owner;
revoke execute on function mover.ruling_record(text, text, text, text, text, mover.slide_ruling, jsonb),
    mover.ruling_ask(text, text, text, text, bytea, text, text, text),
    mover.ruling_judged(mover.slide_ruling, mover.asker, bigint),
    mover.ruling_decide(text, boolean, text, bigint, bytea, text, text, text),
    mover.ruling_end(text, text, text) from public;
grant execute on function mover.ruling_ask(text, text, text, text, bytea, text, text, text),
    mover.ruling_decide(text, boolean, text, bigint, bytea, text, text, text),
    mover.ruling_end(text, text, text) to mover_daemon;

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

-- === layout `shards`: many small files in a few tars ==============================================================

set role mover_owner;

alter table mover.run
    add column shard_bytes bigint check (shard_bytes > 0),
    drop constraint run_layout_check,
    add constraint run_layout_check check (layout in ('flat', 'number', 'label', 'split', 'shards')),
    add constraint run_layout_shards_check check ((layout = 'shards') = (shard_bytes is not null));

-- what stands in a tar stands there and nowhere else below the root
alter table mover.run_entry
    add column shard text,                          -- the tar's path below the root
    add column shard_offset bigint,                 -- of its first byte in there
    add check ((shard is null) = (shard_offset is null));
create index run_entry_shard on mover.run_entry (run_id, shard) where shard is not null;

-- The tars of a run. `made_of` is the digest of their headers and their files' digests, known before the first byte; the
-- digest of the tar itself when it was read back.
create table mover.run_tar (
    project_id  text not null references mover.project,
    run_id      text not null,
    path        text not null,
    made_of     text not null check (made_of ~ '^[0-9a-f]{64}$'),
    count       integer not null check (count > 0),
    size_bytes  bigint not null,
    digest      text check (digest ~ '^[0-9a-f]{64}$'),
    staged_at   timestamptz,
    staged_how  text check (staged_how in ('copied', 'linked')),
    primary key (run_id, path),
    foreign key (project_id, run_id) references mover.run (project_id, id),
    check (num_nulls(digest, staged_at, staged_how) in (0, 3))
);
create index run_tar_made_of on mover.run_tar (made_of);
create index run_tar_digest on mover.run_tar (digest) where digest is not null;
alter table mover.run_tar enable row level security;
alter table mover.run_tar force row level security;
create policy by_project on mover.run_tar using (project_id = (select mover.current_project()))
    with check (project_id = (select mover.current_project()));
grant select, insert, update (digest, staged_at, staged_how) on mover.run_tar to mover_daemon;
grant select on mover.run_tar to mover_dispatch;

alter table mover.content add column made_of text check (made_of ~ '^[0-9a-f]{64}$');
create index content_made_of on mover.content (tier, made_of) where made_of is not null;

reset role;

grant create on schema mover to mover_dispatch;
set role mover_dispatch;

-- as before; of a run in tars they are what it holds, from before their digest is known to it
create or replace function mover.content_held(in_tier text) returns table (digest text)
    language sql stable security definer set search_path = mover, pg_temp as $$
    select e.digest from mover.run_entry e join mover.run r on r.id = e.run_id
     where r.tier = in_tier and r.state not in ('requested', 'cleaned', 'refused', 'cancelled', 'failed') and e.shard is null
     union
    select c.digest from mover.content c join mover.run_tar t on t.made_of = c.made_of join mover.run r on r.id = t.run_id
     where c.tier = in_tier and r.tier = in_tier
       and r.state not in ('requested', 'cleaned', 'refused', 'cancelled', 'failed')
$$;

create or replace function mover.tier_outstanding(in_tier text) returns bigint
    language sql stable security definer set search_path = mover, pg_temp as $$
    select (coalesce((
        select sum(e.size_bytes) from mover.run r join mover.run_entry e on e.run_id = r.id
         where r.tier = in_tier and r.state in ('admitted', 'staging') and e.staged_at is null and e.shard is null), 0)
        + coalesce((
        select sum(t.size_bytes) from mover.run r join mover.run_tar t on t.run_id = r.id
         where r.tier = in_tier and r.state in ('admitted', 'staging') and t.staged_at is null), 0))::bigint
$$;

reset role;
revoke create on schema mover from mover_dispatch;

-- === the flash tier's content store: what nobody vouches for yet, and what was damaged ==============================

set role mover_owner;

-- Content of which we know only that it stands there (a fetch that was given up left it): without a mark it may be
-- evicted as any other, and is read before it is shared.
alter table mover.content
    alter column verified_at drop not null,
    add constraint content_verified check ((verified_at is null) = (mark = ''));

alter table mover.run_entry
    add column mark text,                           -- fingerprint at the seal, of a file whose inode is the root's own
    add column damaged_at timestamptz;              -- since when its bytes on flash are known to be other ones
create index run_entry_damaged on mover.run_entry (run_id) where damaged_at is not null;
alter table mover.run_tar
    add column mark text,
    add column damaged_at timestamptz;
grant update (mark) on mover.run_tar to mover_daemon;

-- RUN.json as it was decided, before it was written: whoever writes it, or comes late, writes the same
alter table mover.run add column identity text;

-- content that was found to hold other bytes than its name says: it keeps them as evidence, under another name
create table mover.damaged (
    tier        text not null references mover.tier,
    moved_to    text not null,
    digest      text not null,
    size_bytes  bigint not null,
    at          timestamptz not null default now(),
    purged_at   timestamptz,
    primary key (tier, moved_to)
);
create index damaged_held on mover.damaged (tier, at) where purged_at is null;
grant select, insert on mover.damaged to mover_daemon;
grant update (purged_at) on mover.damaged to mover_daemon;

alter table mover.stray add column purged_at timestamptz;
create index stray_held on mover.stray (run_id) where purged_at is null;
grant update (purged_at) on mover.stray to mover_daemon;

reset role;

grant update (damaged_at) on mover.run_entry, mover.run_tar to mover_dispatch;
grant update (explanation) on mover.run to mover_dispatch;
grant insert on mover.run_event to mover_dispatch;
grant select on mover.stray to mover_dispatch;
grant create on schema mover to mover_dispatch;
set role mover_dispatch;

-- Every run that holds content which was found damaged is told, whatever its project. Runs are held first: one that
-- becomes ready meanwhile is told after it, or finds the damage before. One that is still staged stages it again.
create function mover.content_damaged(in_tier text, in_digest text) returns table (project text, run text)
    language plpgsql security definer set search_path = mover, pg_temp as $$
declare held text[];
begin
    select array_agg(h.id) into held from (
        select r.id from mover.run r
         where r.tier = in_tier and r.state in ('staging', 'sealed', 'ready', 'finishing', 'protecting', 'protected')
           and (exists (select from mover.run_entry e where e.run_id = r.id and e.digest = in_digest and e.shard is null)
                or exists (select from mover.run_tar t where t.run_id = r.id and t.digest = in_digest))
         order by r.id for share) h;
    return query
    with entries as (
        update mover.run_entry e set damaged_at = now()
         where e.run_id = any (held) and e.digest = in_digest and e.shard is null and e.staged_at is not null
           and e.damaged_at is null
        returning e.project_id, e.run_id),
    tars as (
        update mover.run_tar t set damaged_at = now()
         where t.run_id = any (held) and t.digest = in_digest and t.damaged_at is null
        returning t.project_id, t.run_id),
    events as (
        insert into mover.run_event (project_id, run_id, state, reason)
        select r.project_id, r.id, r.state, 'content-damaged' from mover.run r
         where r.state <> 'staging' and r.id in (select run_id from entries union select run_id from tars)
        returning run_event.project_id, run_event.run_id)
    select v.project_id, v.run_id from events v, lateral pg_notify('mover_runs', v.run_id);
end $$;

-- runs whose strays were all set aside so long ago, of every project
create function mover.strays_due(in_tier text, in_held_s double precision, in_limit integer)
    returns table (run_id text, project_id text, files bigint, bytes bigint, newest timestamptz)
    language sql stable security definer set search_path = mover, pg_temp as $$
    select s.run_id, s.project_id, count(*), sum(s.size_bytes)::bigint, max(s.at)
      from mover.stray s join mover.run r on r.id = s.run_id
     where s.purged_at is null and r.tier = in_tier and r.state = 'cleaned'
     group by s.run_id, s.project_id having max(s.at) < now() - make_interval(secs => in_held_s)
     order by max(s.at) limit in_limit
$$;

reset role;
revoke create on schema mover from mover_dispatch;
revoke execute on function mover.content_damaged(text, text), mover.strays_due(text, double precision, integer) from public;
grant execute on function mover.content_damaged(text, text), mover.strays_due(text, double precision, integer) to mover_daemon;

-- === checkpoints of the audit: where the chains ended, signed, and which tiers have them ==========================

set role mover_owner;

create table mover.checkpoint (
    project_id  text not null references mover.project,
    n           bigint not null check (n >= 1),
    at          timestamptz not null default clock_timestamp(),
    digest      text not null check (digest ~ '^[0-9a-f]{64}$'),
    fingerprint text not null,                      -- of the public key that signed
    body        text not null,                      -- as it stands on the tiers, byte for byte
    primary key (project_id, n)
);

create table mover.checkpoint_copy (
    project_id  text not null,
    n           bigint not null,
    tier        text not null references mover.tier,
    at          timestamptz not null default clock_timestamp(),
    primary key (project_id, n, tier),
    foreign key (project_id, n) references mover.checkpoint
);

create index audit_actor on mover.audit_record (project_id, ((body::jsonb) ->> 'actor'), at desc);
create index audit_at on mover.audit_record (project_id, at desc, node desc, seq desc);

do $$
declare t text;
begin
    foreach t in array array['checkpoint', 'checkpoint_copy'] loop
        execute format('alter table mover.%I enable row level security', t);
        execute format('alter table mover.%I force row level security', t);
        execute format('create policy by_project on mover.%I using (project_id = (select mover.current_project()))'
                       ' with check (project_id = (select mover.current_project()))', t);
        execute format('grant select, insert on mover.%I to mover_daemon', t);
    end loop;
end $$;

reset role;

-- === people who sign in: accounts, their roles by project, their sessions =========================================

set role mover_owner;

-- A password never comes here. The daemon makes a key of it (argon2id), and the database compares the key's digest: who
-- has the daemon's role alone opens nobody's session.
create table mover.account (
    id          text primary key,
    name        text not null check (name ~ '^[A-Za-z0-9][A-Za-z0-9@._-]{0,127}$'),
    salt        bytea,
    cost        integer[] check (cardinality(cost) = 3),    -- passes, KiB, lanes
    verifier    bytea,                              -- SHA-256 of the key; null: no password
    issuer      text,                               -- who the identity provider says it is
    subject     text,
    person      text not null,                      -- as of tokens: whoever knows the password is one person with it
    person_since timestamptz not null default now(),
    made_by     text not null,
    posix_uid   integer,
    posix_gid   integer,
    created_at  timestamptz not null default now(),
    expires_at  timestamptz,
    disabled_at timestamptz,
    unique (issuer, subject),
    check ((verifier is null) = (salt is null) and (verifier is null) = (cost is null)),
    check ((issuer is null) = (subject is null))
);
create unique index account_name on mover.account (lower(name));    -- nobody is told apart by a capital

create table mover.account_grant (
    project_id  text not null references mover.project,
    account_id  text not null references mover.account,
    role        text check (role in ('viewer', 'operator', 'admin', 'custodian')),  -- null: taken away
    by_provider boolean not null default false,
    granted_at  timestamptz not null default now(),
    primary key (project_id, account_id)
);
create index account_grant_account on mover.account_grant (account_id);
alter table mover.account_grant enable row level security;
alter table mover.account_grant force row level security;
create policy by_project on mover.account_grant using (project_id = (select mover.current_project()))
    with check (project_id = (select mover.current_project()));

create table mover.session (
    id          text primary key,
    hash        bytea not null unique,              -- SHA-256 of the secret that the cookie holds
    kind        text not null check (kind in ('password', 'token', 'provider')),
    account_id  text references mover.account,
    token_id    text references mover.token,
    chosen      text references mover.project,      -- the project that its person looks at
    origin      bytea,                              -- digest of account and address: from where it was opened
    idle_s      integer not null check (idle_s > 0),
    created_at  timestamptz not null default now(),
    seen_at     timestamptz not null default now(),
    ends_at     timestamptz not null,
    ended_at    timestamptz,
    check ((account_id is null) = (kind = 'token') and (token_id is null) = (kind <> 'token'))
);
create index session_account on mover.session (account_id, ends_at);
create index session_token on mover.session (token_id);
create index session_over on mover.session (ends_at);

alter table mover.token
    add column scopes text[],                       -- null: all that the role may
    add column account_id text references mover.account,    -- ends with it, and with its role
    add column last_used_at timestamptz;            -- to the minute
create index token_account on mover.token (account_id);

-- --- who is a person ------------------------------------------------------------------------------------------

-- Does the account stand, and in this role? Under whoever asks: of one project, or of all.
create function mover.account_stands(in_account text, in_project text, in_role text) returns boolean
    language sql stable as $$
    select exists (select from mover.account a join mover.account_grant g on g.account_id = a.id
                    where a.id = in_account and a.disabled_at is null and (a.expires_at is null or a.expires_at > now())
                      and g.project_id = in_project and g.role = in_role)
$$;

create function mover.token_live(t mover.token) returns boolean language sql stable as $$
    select t.revoked_at is null and (t.expires_at is null or t.expires_at > now())
       and (t.account_id is null or mover.account_stands(t.account_id, t.project_id, t.role))
$$;

create function mover.session_live(s mover.session) returns boolean language sql stable as $$
    select s.ended_at is null and s.ends_at > now() and s.seen_at + make_interval(secs => s.idle_s) > now()
$$;

-- how long somebody has been this person: their first token, or when the machine last gave the account a password
create function mover.person_since(in_person text) returns timestamptz
    language sql stable security definer set search_path = mover, pg_temp as $$
    select coalesce((select a.person_since from mover.account a where a.id = in_person),
                    (select t.created_at from mover.token t where t.id = in_person))
$$;

-- As before, and a session's digest is as good as a token's. Of whom only an identity provider tells, the daemon tells:
-- their word is the machine's.
create or replace function mover.asker_of(in_proof bytea, in_actor text) returns mover.asker
    language plpgsql stable security definer set search_path = mover, pg_temp as $$
declare found_one mover.asker;
begin
    if in_proof is null then
        return row(in_actor, null::text, 'machine'::text, 'admin'::text, '-infinity'::timestamptz)::mover.asker;
    end if;
    select t.actor, t.id, t.person, t.role, coalesce(mover.person_since(t.person), t.created_at) into found_one
      from mover.token t
     where mover.token_live(t) and (t.hash = in_proof or t.id = (
            select s.token_id from mover.session s where s.hash = in_proof and mover.session_live(s)));
    if found_one.token is null then
        select a.name, s.id, case s.kind when 'provider' then 'machine' else a.person end, g.role,
               case s.kind when 'provider' then '-infinity' else coalesce(mover.person_since(a.person), now()) end
          into found_one
          from mover.session s join mover.account a on a.id = s.account_id
          join mover.account_grant g on g.account_id = a.id and g.project_id = mover.current_project()
         where s.hash = in_proof and mover.session_live(s) and mover.account_stands(a.id, g.project_id, g.role);
    end if;
    if found_one.token is null then
        raise exception 'the token or session is unknown, expired or ended' using errcode = 'MV103';
    end if;
    return found_one;
end $$;

-- as before, and accounts are as old as their person
create or replace function mover.request_approve(in_id text, in_proof bytea, in_actor text, in_node text) returns void
    language plpgsql security definer set search_path = mover, pg_temp as $$
declare who mover.asker := mover.asker_of(in_proof, in_actor); r mover.protect_request := mover.request_open(in_id);
    asked_since timestamptz; delay interval;
begin
    if r.approved_person = who.person then return; end if;
    if who.role <> 'admin' then
        raise exception 'only an admin approves' using errcode = 'MV103';
    end if;
    if who.person = r.requested_person then
        raise exception 'who asked does not approve; tokens that one person made are one person' using errcode = 'MV103';
    end if;
    if r.approved_at is not null then raise exception 'it is approved already' using errcode = 'MV102'; end if;
    delay := r.not_before - r.requested_at;
    asked_since := coalesce(mover.person_since(r.requested_person),
                            (select t.created_at from mover.token t where t.id = r.requested_token));
    if who.since > r.requested_at - delay or coalesce(asked_since, '-infinity') > r.requested_at - delay then
        raise exception 'one of the two tokens was made too short before the request' using errcode = 'MV103';
    end if;
    update mover.protect_request set approved_by = who.actor, approved_token = who.token, approved_person = who.person,
           approved_at = now() where id = in_id;
    perform mover.protect_record(in_node, who.actor, 'protection: shortening approved', in_id, r.reason,
                                 jsonb_build_object('requested by', r.requested_by, 'not before', r.not_before));
end $$;

create or replace function mover.ruling_judged(r mover.slide_ruling, who mover.asker, in_manifests bigint) returns void
    language plpgsql stable security definer set search_path = mover, pg_temp as $$
begin
    if r.asked_person is null then
        raise exception 'who asked was not written down then; decline it and ask again' using errcode = 'MV102';
    end if;
    if greatest(who.since, mover.person_since(r.asked_person)) > r.asked_at - interval '1 day' then
        raise exception 'one of the two persons got a token less than a day before it was asked' using errcode = 'MV103';
    end if;
    if r.action = 'remove' and exists (select from mover.slide_holders(array[r.number]) where run_id is not null) then
        raise exception 'runs hold the slide; end them first' using errcode = 'MV102';
    end if;
    if r.action = 'remove' and in_manifests is distinct from (select count(*) from mover.slide_pins(r.number)) then
        raise exception 'that is not how many kept manifests name the slide' using errcode = 'MV102';
    end if;
end $$;

-- --- tokens: of a person's own, and of fewer actions ------------------------------------------------------------

-- The only way to a token; `in_maker` is the digest of the maker's secret, null for the machine. `in_own`: the maker's
-- account makes it for itself, in the role it has. A token and its audit record come together, whoever calls.
drop function mover.token_add(text, bytea, text, text, integer, integer, timestamptz, bytea, text, text, text);
create function mover.token_add(in_id text, in_hash bytea, in_actor text, in_role text, in_uid integer, in_gid integer,
                                in_expires timestamptz, in_maker bytea, in_by text, in_node text, in_request text,
                                in_scopes text[] default null, in_own boolean default false)
    returns boolean
    language plpgsql security definer set search_path = mover, pg_temp as $$
declare who mover.asker := mover.asker_of(in_maker, in_by); mine mover.account; narrowed text[];
begin
    perform mover.awake();
    select t.scopes into narrowed from mover.token t where t.id = who.token;
    if narrowed is not null and (in_scopes is null or not in_scopes <@ narrowed) then
        raise exception 'a token makes none that may more' using errcode = 'MV103';
    end if;
    if in_own then
        select a.* into mine from mover.account a join mover.session s on s.account_id = a.id where s.id = who.token;
        if mine.id is null then
            raise exception 'only somebody who signed in as an account makes tokens for it' using errcode = 'MV103';
        end if;
        if (select count(*) >= 50 from mover.token t where t.account_id = mine.id and mover.token_live(t)) then
            raise exception '50 tokens of this account live already' using errcode = 'MV102';
        end if;
    elsif who.role <> 'admin' then
        raise exception 'only a live admin token makes tokens' using errcode = 'MV103';
    end if;
    insert into mover.token (id, hash, actor, role, project_id, posix_uid, posix_gid, expires_at, made_by, person, scopes,
                             account_id)
    values (in_id, in_hash, in_actor, case when in_own then who.role else in_role end, mover.current_project(),
            case when in_own then mine.posix_uid else in_uid end, case when in_own then mine.posix_gid else in_gid end,
            in_expires, who.token, case when in_maker is null then in_id else who.person end, in_scopes, mine.id)
    on conflict do nothing;
    if not found then return false; end if;
    perform mover.audit_append(mover.current_project(), in_node, jsonb_build_object('actor', who.actor,
        'action', 'token made', 'subject', in_id, 'reason', '', 'request', in_request,
        'details', jsonb_build_object('role', case when in_own then who.role else in_role end, 'for', in_actor,
                                      'scopes', to_jsonb(in_scopes), 'by the machine', in_maker is null))::text);
    return true;
end $$;

-- --- accounts ---------------------------------------------------------------------------------------------------

-- A change of accounts and its audit record come together, whoever calls.
create function mover.people_record(in_action text, in_account text, in_proof bytea, in_actor text, in_node text,
                                    in_request text, in_details jsonb) returns void
    language sql security definer set search_path = mover, pg_temp as $$
    select mover.audit_append(mover.current_project(), in_node, jsonb_build_object('actor', in_actor, 'action', in_action,
        'subject', in_account, 'reason', '', 'request', in_request,
        'details', in_details || jsonb_build_object('by the machine', in_proof is null))::text)
$$;

create function mover.people_admin(in_proof bytea, in_actor text) returns mover.asker
    language plpgsql security definer set search_path = mover, pg_temp as $$
declare who mover.asker := mover.asker_of(in_proof, in_actor);
begin
    perform mover.awake();
    if who.role <> 'admin' then raise exception 'only an admin changes accounts' using errcode = 'MV103'; end if;
    return who;
end $$;

-- The account, if the asker may know of it: the machine knows all, an admin those of the project.
create function mover.account_known(in_name text, in_proof bytea) returns mover.account
    language plpgsql security definer set search_path = mover, pg_temp as $$
declare a mover.account;
begin
    select * into a from mover.account where lower(name) = lower(in_name) for update;
    if a.id is null or in_proof is not null and not exists (
            select from mover.account_grant g where g.account_id = a.id) then
        raise exception 'no such account' using errcode = 'MV101';
    end if;
    return a;
end $$;

create function mover.account_add(in_id text, in_name text, in_role text, in_salt bytea, in_cost integer[],
                                  in_verifier bytea, in_expires timestamptz, in_uid integer, in_gid integer,
                                  in_proof bytea, in_actor text, in_node text, in_request text) returns void
    language plpgsql security definer set search_path = mover, pg_temp as $$
declare who mover.asker := mover.people_admin(in_proof, in_actor);
begin
    insert into mover.account (id, name, salt, cost, verifier, person, made_by, posix_uid, posix_gid, expires_at)
    values (in_id, in_name, in_salt, in_cost, in_verifier, case when in_proof is null then in_id else who.person end,
            who.actor, in_uid, in_gid, in_expires)
    on conflict do nothing;
    if not found then raise exception 'this name cannot be had' using errcode = 'MV102'; end if;
    insert into mover.account_grant (project_id, account_id, role) values (mover.current_project(), in_id, in_role);
    perform mover.people_record('account made', in_id, in_proof, who.actor, in_node, in_request,
                                jsonb_build_object('role', in_role, 'for', in_name));
end $$;

-- A role in this project, or none: null. Of whom the project does not know, the machine alone says.
create function mover.account_role(in_name text, in_role text, in_proof bytea, in_actor text, in_node text,
                                   in_request text) returns void
    language plpgsql security definer set search_path = mover, pg_temp as $$
declare who mover.asker := mover.people_admin(in_proof, in_actor); a mover.account := mover.account_known(in_name, in_proof);
    was text;
begin
    select g.role into was from mover.account_grant g where g.account_id = a.id;
    if was is not distinct from in_role then return; end if;
    insert into mover.account_grant (project_id, account_id, role) values (mover.current_project(), a.id, in_role)
    on conflict (project_id, account_id) do update set role = in_role, by_provider = false, granted_at = now();
    perform mover.people_record(case when in_role is null then 'role revoked' else 'role granted' end, a.id, in_proof,
        who.actor, in_node, in_request, jsonb_build_object('role', in_role, 'was', was, 'for', a.name));
end $$;

-- Every session but one's own; how many there were.
create function mover.sessions_ended(in_account text, in_but bytea) returns bigint
    language sql security definer set search_path = mover, pg_temp as $$
    with ended as (
        update mover.session s set ended_at = now() where s.account_id = in_account and mover.session_live(s)
           and s.hash is distinct from in_but returning 1)
    select count(*) from ended
$$;

reset role;

grant select on mover.account, mover.account_grant, mover.session to mover_dispatch;
grant insert, update on mover.account, mover.account_grant to mover_dispatch;
grant insert, update, delete on mover.session to mover_dispatch;
grant update (last_used_at) on mover.token to mover_dispatch;
grant create on schema mover to mover_dispatch;
set role mover_dispatch;

create function mover.account_elsewhere(in_account text) returns boolean
    language sql stable security definer set search_path = mover, pg_temp as $$
    select exists (select from mover.account_grant where account_id = in_account and role is not null
                      and project_id <> mover.current_project())
$$;

reset role;
set role mover_owner;

-- What concerns the whole account, an admin does to those that are this project's alone.
create function mover.account_ours(in_name text, in_proof bytea) returns mover.account
    language plpgsql security definer set search_path = mover, pg_temp as $$
declare a mover.account := mover.account_known(in_name, in_proof);
begin
    if in_proof is not null and mover.account_elsewhere(a.id) then
        raise exception 'the account is not this project''s alone; the machine''s owner does this' using errcode = 'MV103';
    end if;
    return a;
end $$;

-- Whoever gives a password can be the account from then on, and so is one person with it. All its sessions end.
create function mover.account_password(in_name text, in_salt bytea, in_cost integer[], in_verifier bytea, in_proof bytea,
                                       in_actor text, in_node text, in_request text) returns void
    language plpgsql security definer set search_path = mover, pg_temp as $$
declare who mover.asker := mover.people_admin(in_proof, in_actor); a mover.account := mover.account_ours(in_name, in_proof);
begin
    update mover.account set salt = in_salt, cost = in_cost, verifier = in_verifier,
           person = case when in_proof is null then id else who.person end,
           person_since = case when in_proof is null then now() else person_since end where id = a.id;
    perform mover.people_record('password given', a.id, in_proof, who.actor, in_node, in_request,
        jsonb_build_object('for', a.name, 'sessions ended', mover.sessions_ended(a.id, null)));
end $$;

-- One's own, with the one before; the person stays who it was: whoever gave the one before knew it, too.
create function mover.account_repass(in_old bytea, in_salt bytea, in_cost integer[], in_verifier bytea, in_proof bytea,
                                     in_node text, in_request text) returns bigint
    language plpgsql security definer set search_path = mover, pg_temp as $$
declare who mover.asker := mover.asker_of(in_proof, ''); a mover.account; others bigint;
begin
    perform mover.awake();
    select c.* into a from mover.account c join mover.session s on s.account_id = c.id where s.hash = in_proof for update of c;
    if a.id is null or a.verifier is distinct from sha256(in_old) then return null; end if;
    update mover.account set salt = in_salt, cost = in_cost, verifier = in_verifier where id = a.id;
    others := mover.sessions_ended(a.id, in_proof);
    perform mover.people_record('password changed', a.id, in_proof, who.actor, in_node, in_request,
                                jsonb_build_object('sessions ended', others));
    return others;
end $$;

create function mover.account_disable(in_name text, in_disabled boolean, in_proof bytea, in_actor text, in_node text,
                                      in_request text) returns void
    language plpgsql security definer set search_path = mover, pg_temp as $$
declare who mover.asker := mover.people_admin(in_proof, in_actor); a mover.account := mover.account_ours(in_name, in_proof);
begin
    if (a.disabled_at is not null) = in_disabled then return; end if;
    update mover.account set disabled_at = case when in_disabled then now() end where id = a.id;
    perform mover.people_record(case when in_disabled then 'account disabled' else 'account enabled' end, a.id, in_proof,
        who.actor, in_node, in_request, jsonb_build_object('for', a.name, 'sessions ended', case when in_disabled
            then mover.sessions_ended(a.id, null) else 0 end));
end $$;

create function mover.account_signed_out(in_name text, in_proof bytea, in_actor text, in_node text, in_request text)
    returns bigint
    language plpgsql security definer set search_path = mover, pg_temp as $$
declare who mover.asker := mover.people_admin(in_proof, in_actor); a mover.account := mover.account_known(in_name, in_proof);
    count bigint := mover.sessions_ended(a.id, null);
begin
    perform mover.people_record('sessions ended', a.id, in_proof, who.actor, in_node, in_request,
                                jsonb_build_object('for', a.name, 'sessions ended', count));
    return count;
end $$;

-- a session opens nothing any more; with all: none of its account's
create function mover.session_end(in_hash bytea, in_all boolean) returns bigint
    language plpgsql security definer set search_path = mover, pg_temp as $$
declare s mover.session;
begin
    select * into s from mover.session where hash = in_hash;
    if in_all and s.account_id is not null then return mover.sessions_ended(s.account_id, null); end if;
    update mover.session set ended_at = now() where hash = in_hash and ended_at is null;
    return case when found then 1 else 0 end;
end $$;

reset role;
set role mover_dispatch;

-- --- signing in -------------------------------------------------------------------------------------------------

-- What the key of a name's password is made with, and whether its person came from there before. Of an unknown name:
-- nothing, and the daemon works as long.
create function mover.account_ask(in_name text, in_address text)
    returns table (id text, salt bytea, cost integer[], known_origin boolean)
    language sql stable security definer set search_path = mover, pg_temp as $$
    select a.id, a.salt, a.cost, exists (
               select from mover.session s where s.account_id = a.id
                  and s.origin = sha256(convert_to(a.id || '|' || in_address, 'UTF8')))
      from mover.account a where lower(a.name) = lower(in_name) and a.verifier is not null
$$;

create function mover.account_projects(in_account text) returns table (project_id text, role text)
    language sql stable security definer set search_path = mover, pg_temp as $$
    select g.project_id, g.role from mover.account_grant g where g.account_id = in_account and g.role is not null
     order by g.project_id limit 100
$$;

-- Twenty live sessions of one account, and its oldest end; what is over for 90 days is forgotten.
create function mover.session_add(in_id text, in_hash bytea, in_kind text, in_account text, in_token text,
                                  in_address text, in_idle_s integer, in_life_s integer) returns void
    language plpgsql security definer set search_path = mover, pg_temp as $$
begin
    delete from mover.session where id in (
        select s.id from mover.session s where s.ends_at < now() - interval '90 days' order by s.ends_at limit 1000);
    update mover.session set ended_at = now() where id in (
        select s.id from mover.session s where (s.account_id = in_account or s.token_id = in_token)
           and mover.session_live(s) order by s.created_at desc offset 19);
    insert into mover.session (id, hash, kind, account_id, token_id, origin, idle_s, ends_at)
    values (in_id, in_hash, in_kind, in_account, in_token,
            sha256(convert_to(in_account || '|' || in_address, 'UTF8')), in_idle_s,
            now() + make_interval(secs => in_life_s));
end $$;

-- The account's id where the key is right, the account stands and has a role anywhere; else nothing, and why is not said.
create function mover.session_open(in_name text, in_key bytea, in_id text, in_hash bytea, in_address text,
                                   in_idle_s integer, in_life_s integer) returns text
    language plpgsql security definer set search_path = mover, pg_temp as $$
declare a mover.account;
begin
    select * into a from mover.account where lower(name) = lower(in_name);
    if a.verifier is null or a.verifier <> sha256(in_key) or a.disabled_at is not null or a.expires_at <= now()
       or not exists (select from mover.account_projects(a.id)) then
        return null;
    end if;
    perform mover.session_add(in_id, in_hash, 'password', a.id, null, in_address, in_idle_s, in_life_s);
    return a.id;
end $$;

create function mover.session_open_token(in_token_hash bytea, in_id text, in_hash bytea, in_address text,
                                         in_idle_s integer, in_life_s integer) returns text
    language plpgsql security definer set search_path = mover, pg_temp as $$
declare t mover.token;
begin
    select * into t from mover.token where hash = in_token_hash;
    if t.id is null or not mover.token_live(t) or t.role = 'scheduler' then return null; end if;
    perform mover.session_add(in_id, in_hash, 'token', null, t.id, in_address, in_idle_s, in_life_s);
    return t.id;
end $$;

-- Whom an identity provider vouches for, by its own id of them; the roles of its making become what it says now. Nothing
-- where the name is another account's, or the account does not stand. `was`: of each project, the role until now.
create function mover.session_open_provider(in_issuer text, in_subject text, in_account text, in_name text, in_roles jsonb,
                                            in_id text, in_hash bytea, in_address text, in_idle_s integer,
                                            in_life_s integer)
    returns table (account text, project text, role text, was text)
    language plpgsql security definer set search_path = mover, pg_temp as $$
declare a mover.account;
begin
    insert into mover.account as c (id, name, issuer, subject, person, made_by)
    values (in_account, in_name, in_issuer, in_subject, in_account, 'provider') on conflict do nothing;
    select * into a from mover.account c where c.issuer = in_issuer and c.subject = in_subject for update;
    if a.id is null or a.disabled_at is not null or a.expires_at <= now() then return; end if;
    return query
        with wanted as (
            select w.key as project, w.value as role from jsonb_each_text(in_roles) w join mover.project p on p.id = w.key),
        held as (select g.project_id, g.role from mover.account_grant g where g.account_id = a.id and g.by_provider),
        changed as (
            insert into mover.account_grant as g (project_id, account_id, role, by_provider)
            select coalesce(w.project, h.project_id), a.id, w.role, true
              from wanted w full join held h on h.project_id = w.project where h.role is distinct from w.role
            on conflict (project_id, account_id) do update set role = excluded.role, granted_at = now() where g.by_provider
            returning g.project_id, g.role)
        select a.id, c.project_id, c.role, h.role from changed c left join held h on h.project_id = c.project_id;
    if not exists (select from mover.account_projects(a.id)) then return; end if;
    perform mover.session_add(in_id, in_hash, 'provider', a.id, null, in_address, in_idle_s, in_life_s);
    return query select a.id, null::text, null::text, null::text;
end $$;

-- --- from a secret to who asks ------------------------------------------------------------------------------------

drop function mover.token_by_hash(bytea);
create function mover.token_by_hash(in_hash bytea)
    returns table (id text, actor text, role text, project_id text, posix_uid integer, posix_gid integer, scopes text[],
                   created_at timestamptz, expires_at timestamptz)
    language sql security definer set search_path = mover, pg_temp as $$
    update mover.token set last_used_at = now() where id = (
        select t.id from mover.token t where t.hash = in_hash
           and coalesce(t.last_used_at < now() - interval '1 minute', true) for update skip locked);
    select t.id, t.actor, t.role, t.project_id, t.posix_uid, t.posix_gid, t.scopes, t.created_at, t.expires_at
      from mover.token t where t.hash = in_hash and mover.token_live(t)
$$;

-- A live session, and who is in it: in the project that is asked for, else in the one chosen, else at home. Without a role
-- there the project is null.
create function mover.session_by_hash(in_hash bytea, in_project text, in_home text)
    returns table (id text, kind text, account_id text, actor text, role text, project_id text, posix_uid integer,
                   posix_gid integer, scopes text[], created_at timestamptz, ends_at timestamptz)
    language sql security definer set search_path = mover, pg_temp as $$
    update mover.session set seen_at = now() where id = (
        select s.id from mover.session s where s.hash = in_hash and mover.session_live(s)
           and s.seen_at < now() - least(interval '1 minute', make_interval(secs => s.idle_s / 4)) for update skip locked);
    select s.id, s.kind, a.id, a.name, g.role, g.project_id, a.posix_uid, a.posix_gid, null::text[], s.created_at, s.ends_at
      from mover.session s join mover.account a on a.id = s.account_id
      left join lateral (
           select o.role, o.project_id from mover.account_grant o
            where o.account_id = a.id and o.role is not null and o.project_id = coalesce(in_project, o.project_id)
            order by coalesce(o.project_id = s.chosen, false) desc, o.project_id = in_home desc, o.project_id limit 1) g on true
     where s.hash = in_hash and mover.session_live(s) and a.disabled_at is null and (a.expires_at is null or a.expires_at > now())
    union all
    select s.id, s.kind, null, t.actor, t.role, case when t.project_id = coalesce(in_project, t.project_id) then t.project_id end,
           t.posix_uid, t.posix_gid, t.scopes, s.created_at, s.ends_at
      from mover.session s join mover.token t on t.id = s.token_id
     where s.hash = in_hash and mover.session_live(s) and mover.token_live(t)
$$;

-- the project that a session looks at from now on; false where its person has no role there
create function mover.session_choose(in_hash bytea, in_project text) returns boolean
    language plpgsql security definer set search_path = mover, pg_temp as $$
begin
    update mover.session s set chosen = in_project where s.hash = in_hash and mover.session_live(s)
       and (s.account_id is null and exists (select from mover.token t where t.id = s.token_id and t.project_id = in_project)
            or exists (select from mover.account_grant g where g.account_id = s.account_id and g.project_id = in_project
                          and g.role is not null));
    return found;
end $$;

reset role;
revoke create on schema mover from mover_dispatch;

do $$
declare f text;
begin
    foreach f in array array['account_stands(text, text, text)', 'token_live(mover.token)', 'session_live(mover.session)',
        'person_since(text)', 'people_record(text, text, bytea, text, text, text, jsonb)', 'people_admin(bytea, text)',
        'account_known(text, bytea)', 'account_ours(text, bytea)', 'sessions_ended(text, bytea)', 'account_elsewhere(text)',
        'session_add(text, bytea, text, text, text, text, integer, integer)'] loop
        execute format('revoke execute on function mover.%s from public', f);
    end loop;
    foreach f in array array[
        'token_add(text, bytea, text, text, integer, integer, timestamptz, bytea, text, text, text, text[], boolean)',
        'account_add(text, text, text, bytea, integer[], bytea, timestamptz, integer, integer, bytea, text, text, text)',
        'account_role(text, text, bytea, text, text, text)',
        'account_password(text, bytea, integer[], bytea, bytea, text, text, text)',
        'account_repass(bytea, bytea, integer[], bytea, bytea, text, text)',
        'account_disable(text, boolean, bytea, text, text, text)', 'account_signed_out(text, bytea, text, text, text)',
        'session_end(bytea, boolean)', 'account_ask(text, text)', 'account_projects(text)',
        'session_open(text, bytea, text, bytea, text, integer, integer)',
        'session_open_token(bytea, text, bytea, text, integer, integer)',
        'session_open_provider(text, text, text, text, jsonb, text, bytea, text, integer, integer)',
        'token_by_hash(bytea)', 'session_by_hash(bytea, text, text)', 'session_choose(bytea, text)'] loop
        execute format('revoke execute on function mover.%s from public', f);
        execute format('grant execute on function mover.%s to mover_daemon', f);
    end loop;
end $$;
-- functions of the one role call the other's
grant execute on function mover.account_stands(text, text, text), mover.token_live(mover.token),
    mover.session_live(mover.session) to mover_dispatch;
grant execute on function mover.account_elsewhere(text) to mover_owner;
grant select (id, name, cost, issuer, created_at, expires_at, disabled_at) on mover.account to mover_daemon;
grant select on mover.account_grant to mover_daemon;
grant select (id, account_id, kind, idle_s, created_at, seen_at, ends_at, ended_at) on mover.session to mover_daemon;
grant select (scopes, account_id, last_used_at) on mover.token to mover_daemon;

-- === runs: how far each is, and in which order its entries came ===================================================

set role mover_owner;

-- Kept by whoever writes entries, so that nobody who watches counts them. Narrow and rewritten often: room in the page.
create table mover.run_tally (
    project_id  text not null,
    run_id      text primary key,
    files       bigint not null default 0,
    bytes       bigint not null default 0,
    staged_files bigint not null default 0,
    staged_bytes bigint not null default 0,
    linked_files bigint not null default 0,
    turns       bigint not null default 0,          -- transactions that staged something, in the order of their commits
    foreign key (project_id, run_id) references mover.run (project_id, id)
) with (fillfactor = 50);
alter table mover.run_tally enable row level security;
alter table mover.run_tally force row level security;
create policy by_project on mover.run_tally using (project_id = (select mover.current_project()))
    with check (project_id = (select mover.current_project()));
grant select, insert, update on mover.run_tally to mover_daemon;

-- In which turn an entry was staged. What was staged before turns were counted came in none.
alter table mover.run_entry add column staged_in bigint not null default 0;
create index run_entry_staged on mover.run_entry (run_id, staged_in, path) where staged_at is not null;

-- A transaction takes its turn with the run's row, which it holds until its commit: so whoever follows by (turn, path)
-- never sees an entry appear behind it.
create function mover.take_turn() returns trigger language plpgsql as $$
declare taken text := current_setting('mover.turn', true);  -- of this transaction, and of which run
begin
    if new.staged_at is null then
        new.staged_in := 0;
    elsif split_part(taken, ' ', 1) = new.run_id then
        new.staged_in := split_part(taken, ' ', 2);
    else
        insert into mover.run_tally as t (project_id, run_id, turns) values (new.project_id, new.run_id, 1)
            on conflict (run_id) do update set turns = t.turns + 1 returning turns into new.staged_in;
        perform set_config('mover.turn', new.run_id || ' ' || new.staged_in, true);
    end if;
    return new;
end $$;
create trigger take_turn before insert on mover.run_entry
    for each row when (new.staged_at is not null) execute function mover.take_turn();
create trigger take_another_turn before update on mover.run_entry
    for each row when ((new.staged_at is null) <> (old.staged_at is null)) execute function mover.take_turn();

create function mover.tally_new_entries() returns trigger language plpgsql as $$
begin
    insert into mover.run_tally as t (project_id, run_id, files, bytes, staged_files, staged_bytes, linked_files)
    select project_id, run_id, count(*), sum(size_bytes), count(staged_at),
           coalesce(sum(size_bytes) filter (where staged_at is not null), 0), count(*) filter (where staged_how = 'linked')
      from written group by project_id, run_id
    on conflict (run_id) do update
       set files = t.files + excluded.files, bytes = t.bytes + excluded.bytes,
           staged_files = t.staged_files + excluded.staged_files, staged_bytes = t.staged_bytes + excluded.staged_bytes,
           linked_files = t.linked_files + excluded.linked_files;
    return null;
end $$;
create trigger tally_new_entries after insert on mover.run_entry referencing new table as written
    for each statement execute function mover.tally_new_entries();

create function mover.tally_entries() returns trigger language plpgsql as $$
begin
    update mover.run_tally t
       set bytes = t.bytes + d.bytes, staged_files = t.staged_files + d.staged_files,
           staged_bytes = t.staged_bytes + d.staged_bytes, linked_files = t.linked_files + d.linked_files
      from (select run_id, sum(sign * size_bytes) as bytes, sum(sign) filter (where staged_at is not null) as staged_files,
                   sum(sign * size_bytes) filter (where staged_at is not null) as staged_bytes,
                   sum(sign) filter (where staged_how = 'linked') as linked_files
              from (select 1 as sign, * from became union all select -1, * from was) entry group by run_id) c
      cross join lateral (select c.bytes, coalesce(c.staged_files, 0) as staged_files,
                                 coalesce(c.staged_bytes, 0) as staged_bytes, coalesce(c.linked_files, 0) as linked_files) d
     where t.run_id = c.run_id;
    return null;
end $$;
create trigger tally_entries after update on mover.run_entry referencing old table as was new table as became
    for each statement execute function mover.tally_entries();
revoke execute on function mover.take_turn(), mover.tally_new_entries(), mover.tally_entries() from public;

reset role;

-- === what was found damaged is told to runs whose entries are tallied, and to tars ==================================

-- writing entries keeps the tally, whoever writes them
grant select, update on mover.run_tally to mover_dispatch;
-- a tar that was found damaged is made again
grant update (damaged_at) on mover.run_tar to mover_daemon;

-- === how full tiers were, and how fast bytes went between them: of the machine, and of no project =================

set role mover_owner;

create table mover.tier_level (
    tier        text not null references mover.tier,
    at          timestamptz not null,               -- begin of the interval it was asked in
    capacity_bytes bigint not null check (capacity_bytes >= 0),
    free_bytes  bigint not null check (free_bytes >= 0),
    primary key (tier, at)
);

create table mover.tier_pace (
    at          timestamptz not null,               -- begin of the interval
    node        text not null,                      -- <node>-<role>, as in `tier_use`
    source      text not null references mover.tier,
    target      text not null references mover.tier,
    bytes       bigint not null check (bytes > 0),  -- nothing moved: no row
    primary key (at, node, source, target)
);

grant select, insert, update, delete on mover.tier_level, mover.tier_pace to mover_daemon;

-- what was given up lately is asked for again and again, and is seldom there
create index shard_failed on mover.shard (project_id, finished_at) where state = 'failed';

reset role;

-- === cleanup hooks: what the site's own executables said before and after a root went =====================================

set role mover_owner;

-- One row for each hook of a run. `running` is written before it begins, so that a node that was killed leaves it; it is
-- run again then, and what succeeded is not.
create table mover.run_hook (
    project_id   text not null references mover.project,
    run_id       text not null,
    phase        text not null check (phase in ('before-clean', 'after-clean')),
    name         text not null,
    state        text not null check (state in ('running', 'succeeded', 'failed', 'timed-out', 'refused')),
    attempts     integer not null default 1 check (attempts > 0),
    node         text not null,
    exit_status  integer,                           -- negative: the signal that ended it
    why          text,                              -- of one that did not succeed
    output       text,                              -- the end of what it printed, for people who may see the run
    output_bytes bigint,                            -- of all that it printed
    began_at     timestamptz not null default now(),
    ended_at     timestamptz,
    primary key (run_id, phase, name),
    foreign key (project_id, run_id) references mover.run (project_id, id),
    check ((state = 'running') = (ended_at is null))
);
alter table mover.run_hook enable row level security;
alter table mover.run_hook force row level security;
create policy by_project on mover.run_hook using (project_id = (select mover.current_project()))
    with check (project_id = (select mover.current_project()));
grant select, insert, update on mover.run_hook to mover_daemon;

reset role;

-- === damaged content: a name may be taken again when what had it is gone; who was told is answered ===================

grant update (size_bytes, at) on mover.damaged to mover_daemon;
grant select on mover.run_event to mover_dispatch;

-- === alarms: needs that stand, and who was told ====================================================================

set role mover_owner;

create table mover.alarm (
    project_id  text not null references mover.project,
    id          text primary key,
    key         text not null,                      -- what makes it the same at the next look
    code        text not null,
    severity    text not null check (severity in ('now', 'soon', 'know')),
    noun        text not null,
    subject     text,
    words       text not null,
    hint        text not null,
    count       bigint not null,
    opened_at   timestamptz not null default now(),
    closed_at   timestamptz,
    told_at     timestamptz,
    told_count  bigint not null default 0,
    unique (project_id, id)
);
create unique index alarm_standing on mover.alarm (project_id, key) where closed_at is null;
create index alarm_newest on mover.alarm (project_id, opened_at desc, id desc);

-- The outbox: one row for each receiver and each thing that is said; it stays as the record of who was told.
create table mover.alarm_telling (
    project_id  text not null,
    alarm_id    text not null,
    seq         bigint generated always as identity,
    receiver    text not null,
    event       text not null check (event in ('opened', 'grew', 'reminded', 'closed')),
    at          timestamptz not null default now(),
    words       text not null,
    count       bigint not null,
    not_before  timestamptz not null default now(),
    attempts    integer not null default 0,
    told_at     timestamptz,
    given_up_at timestamptz,
    primary key (alarm_id, seq),
    foreign key (project_id, alarm_id) references mover.alarm (project_id, id)
);
create index alarm_telling_due on mover.alarm_telling (project_id, not_before)
    where told_at is null and given_up_at is null;

do $$
declare t text;
begin
    foreach t in array array['alarm', 'alarm_telling'] loop
        execute format('alter table mover.%I enable row level security', t);
        execute format('alter table mover.%I force row level security', t);
        execute format('create policy by_project on mover.%I using (project_id = (select mover.current_project()))'
                       ' with check (project_id = (select mover.current_project()))', t);
        execute format('grant select, insert, update on mover.%I to mover_daemon', t);
    end loop;
end $$;

reset role;

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

-- === slides that no run takes =====================================================================================

set role mover_owner;

create index pack_withheld on mover.pack (project_id, number)
 where state in ('quarantined', 'excluded') and number is not null;

-- Withdrawn at this site, or every pack of it in this project waits in quarantine or stays out: whether a list names
-- such a slide or an expression selects it.
create view mover.slide_withheld with (security_invoker = true) as
    select number from mover.slide_withdrawal
     union
    select p.number from mover.pack p
     where p.state in ('quarantined', 'excluded') and p.number is not null
       and not exists (select from mover.pack o where o.number = p.number and o.state not in ('quarantined', 'excluded'));
grant select on mover.slide_withheld to mover_daemon;

reset role;

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

-- === streams that stay open =======================================================================================

grant create on schema mover to mover_dispatch;
set role mover_dispatch;

-- Who of these still may, in which role: of tokens and sessions by their digests, each in its project. Asked for streams
-- that stay open, so it sees nobody: an open page keeps no session alive.
create function mover.still_in(in_proofs bytea[], in_projects text[])
    returns table (proof bytea, project_id text, role text, scopes text[])
    language sql stable security definer set search_path = mover, pg_temp as $$
    with asked as (select distinct a.proof, a.project from unnest(in_proofs, in_projects) a (proof, project))
    select a.proof, a.project, t.role, t.scopes
      from asked a join mover.token t on t.hash = a.proof and t.project_id = a.project
     where mover.token_live(t)
    union all
    select a.proof, a.project, t.role, t.scopes
      from asked a join mover.session s on s.hash = a.proof
      join mover.token t on t.id = s.token_id and t.project_id = a.project
     where mover.session_live(s) and mover.token_live(t)
    union all
    select a.proof, a.project, g.role, null::text[]
      from asked a join mover.session s on s.hash = a.proof
      join mover.account o on o.id = s.account_id and o.disabled_at is null and (o.expires_at is null or o.expires_at > now())
      join mover.account_grant g on g.account_id = o.id and g.project_id = a.project and g.role is not null
     where mover.session_live(s)
$$;

reset role;
revoke create on schema mover from mover_dispatch;
revoke execute on function mover.still_in(bytea[], text[]) from public;
grant execute on function mover.still_in(bytea[], text[]) to mover_daemon;

-- === tags on slides, and when a slide was last looked at ==========================================================

set role mover_owner;

-- One change: a tag put on some slides, or taken off them; or the taking back of an earlier one. What was chosen, and
-- not who: an expression or a place on a tier, never a list of what is in it.
create table mover.tag_change (
    project_id  text not null references mover.project,
    id          text primary key,
    tag         text not null check (tag ~ '^[a-z][a-z0-9:._-]{0,39}$'),
    action      text not null check (action in ('add', 'remove')),
    chosen      text not null,
    count       bigint not null check (count >= 0), -- slides that it changed
    bytes       bigint not null check (bytes >= 0),
    reason      text not null,
    undoes      text,
    created_by  text not null,
    created_at  timestamptz not null default now(),
    unique (project_id, id),
    foreign key (project_id, undoes) references mover.tag_change (project_id, id)
);
create unique index tag_change_undone on mover.tag_change (undoes) where undoes is not null;
create index tag_change_newest on mover.tag_change (project_id, id desc);

-- A slide and a tag that it ever had, with the change that said so last: taking a change back touches what still
-- carries its id, and nothing that somebody changed since.
create table mover.slide_tag (
    project_id  text not null references mover.project,
    tag         text not null,
    number      text not null,
    present     boolean not null,
    change_id   text not null,
    primary key (project_id, tag, number),
    foreign key (project_id, number) references mover.slide_grant (project_id, number),
    foreign key (project_id, change_id) references mover.tag_change (project_id, id)
);
create index slide_tag_number on mover.slide_tag (project_id, number) where present;
create index slide_tag_change on mover.slide_tag (project_id, change_id);

-- When somebody last looked at a slide, to the hour; who it was stands in the audit.
create table mover.slide_view (
    project_id  text not null references mover.project,
    number      text not null,
    at          timestamptz not null default now(),
    primary key (project_id, number),
    foreign key (project_id, number) references mover.slide_grant (project_id, number)
);

do $$
declare t text;
begin
    foreach t in array array['tag_change', 'slide_tag', 'slide_view'] loop
        execute format('alter table mover.%I enable row level security', t);
        execute format('alter table mover.%I force row level security', t);
        execute format('create policy by_project on mover.%I using (project_id = (select mover.current_project()))'
                       ' with check (project_id = (select mover.current_project()))', t);
    end loop;
end $$;
grant select, insert on mover.tag_change to mover_daemon;
grant select, insert, update on mover.slide_tag, mover.slide_view to mover_daemon;

-- When a slide was last staged for a run (a run that is not over uses it now), of the thousand lists that were used last,
-- and when somebody last looked at it. Most slides have neither.
create view mover.slide_used with (security_invoker = true) as
    with staged as materialized (
        select s.root, max(case when r.state in ('ready', 'finishing') then now() else coalesce(r.finished_at, r.ready_at) end) as at
          from mover.run r join mover.selection s on s.project_id = r.project_id and s.id = r.selection_id
         where r.ready_at is not null group by s.root order by at desc limit 1000)
    select number, max(staged_at) as staged_at, max(viewed_at) as viewed_at
      from (select p.number, u.at as staged_at, null::timestamptz as viewed_at
              from staged u join mover.selection_list l on l.root = u.root cross join lateral unnest(l.offsets) as o (at)
              join mover.slide_place p on p.project_id = l.project_id and p.place = l.block * 32768 + o.at
             union all
            select number, null, at from mover.slide_view) one
     group by number;

-- When a run whose files stand gave its last sign: it was ready, it was kept alive, it finished.
create view mover.run_used with (security_invoker = true) as
    select id, tier, selection_id, greatest(ready_at, finished_at, lease_until - lease_s * interval '1 second') as at
      from mover.run where ready_at is not null and cleaned_at is null;
grant select on mover.slide_used, mover.run_used to mover_daemon;

reset role;
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

-- === what people look for in long lists, each question from its index =============================================

set role mover_owner;

-- slides of a family or of a time, page by page in the order of their numbers
create index slide_family on mover.slide (family, number);
create index slide_created on mover.slide (created_at, number);
-- what stands more than once, and where
create index entry_digest on mover.entry (project_id, tier, digest) include (size_bytes)
 where gone_at is null and kind = 'file' and digest is not null and size_bytes > 0;

reset role;

-- === a session that nobody sits at ================================================================================

grant create on schema mover to mover_dispatch;
set role mover_dispatch;

-- Somebody sits at this session: it is not idle.
create function mover.session_seen(in_hash bytea) returns void
    language sql security definer set search_path = mover, pg_temp as $$
    update mover.session set seen_at = now() where id = (
        select s.id from mover.session s where s.hash = in_hash and mover.session_live(s)
           and s.seen_at < now() - least(interval '1 minute', make_interval(secs => s.idle_s / 4)) for update skip locked)
$$;

-- A live session, and who is in it: in the project that is asked for, else in the one chosen, else at home. Without a role
-- there the project is null. A page that asks by itself, with nobody before it, is told the same and keeps nothing alive.
create function mover.session_of(in_hash bytea, in_project text, in_home text)
    returns table (id text, kind text, account_id text, actor text, role text, project_id text, posix_uid integer,
                   posix_gid integer, scopes text[], created_at timestamptz, ends_at timestamptz)
    language sql stable security definer set search_path = mover, pg_temp as $$
    select s.id, s.kind, a.id, a.name, g.role, g.project_id, a.posix_uid, a.posix_gid, null::text[], s.created_at, s.ends_at
      from mover.session s join mover.account a on a.id = s.account_id
      left join lateral (
           select o.role, o.project_id from mover.account_grant o
            where o.account_id = a.id and o.role is not null and o.project_id = coalesce(in_project, o.project_id)
            order by coalesce(o.project_id = s.chosen, false) desc, o.project_id = in_home desc, o.project_id limit 1) g on true
     where s.hash = in_hash and mover.session_live(s) and a.disabled_at is null and (a.expires_at is null or a.expires_at > now())
    union all
    select s.id, s.kind, null, t.actor, t.role, case when t.project_id = coalesce(in_project, t.project_id) then t.project_id end,
           t.posix_uid, t.posix_gid, t.scopes, s.created_at, s.ends_at
      from mover.session s join mover.token t on t.id = s.token_id
     where s.hash = in_hash and mover.session_live(s) and mover.token_live(t)
$$;

-- Both at once: what somebody at the session asks.
create or replace function mover.session_by_hash(in_hash bytea, in_project text, in_home text)
    returns table (id text, kind text, account_id text, actor text, role text, project_id text, posix_uid integer,
                   posix_gid integer, scopes text[], created_at timestamptz, ends_at timestamptz)
    language sql security definer set search_path = mover, pg_temp as $$
    select mover.session_seen(in_hash);
    select * from mover.session_of(in_hash, in_project, in_home);
$$;

reset role;
revoke create on schema mover from mover_dispatch;
revoke execute on function mover.session_seen(bytea), mover.session_of(bytea, text, text) from public;
grant execute on function mover.session_of(bytea, text, text) to mover_daemon;

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

-- === what ended long ago goes ======================================================================================

set role mover_owner;

create index shard_ended on mover.shard (finished_at) where finished_at is not null;

-- The daemon removes old ones by itself; of what is still to be done the database lets none go.
create policy ended_only on mover.shard as restrictive for delete using (state in ('done', 'failed', 'cancelled'));
grant delete on mover.shard to mover_daemon;

reset role;

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

-- === the oldest records of the audit leave for a pack ===============================================================

set role mover_owner;

-- What two people said of the oldest records of some chains: that a signed pack holds them on `tiers`, and that they leave
-- the catalog. `chains`: of each node the record `after` which they begin, the last one and its hash. `carried` are the
-- statements of restores and retirements whose own records are among them. `n` is the checkpoint that says all of it.
create table mover.audit_retirement (
    project_id  text not null references mover.project,
    id          text primary key,
    before      timestamptz not null,
    chains      jsonb not null,
    carried     text[] not null default '{}',
    digest      text not null check (digest ~ '^[0-9a-f]{64}$'),
    bytes       bigint not null check (bytes > 0),
    tiers       text[] not null check (cardinality(tiers) > 0),
    n           bigint,
    reason      text not null,
    asked_by    text not null,
    asked_person text not null,
    asked_at    timestamptz not null default now(),
    lapses_at   timestamptz not null default now() + interval '30 days',
    approved_by text,
    approved_person text check (approved_person <> asked_person),
    approved_at timestamptz,
    check ((n is null) = (approved_at is null))
);
create unique index audit_retirement_once on mover.audit_retirement (project_id, n) where approved_at is not null;
alter table mover.audit_retirement enable row level security;
alter table mover.audit_retirement force row level security;
create policy by_project on mover.audit_retirement using (project_id = (select mover.current_project()))
    with check (project_id = (select mover.current_project()));

create function mover.retired_chains(in_chains jsonb) returns table (node text, "after" bigint, upto bigint, hash text)
    language sql immutable as $$
    select c.node, c."after", c.upto, c.hash
      from jsonb_to_recordset(in_chains) as c(node text, "after" bigint, upto bigint, hash text) order by c.node
$$;

-- How many of them still stand.
create function mover.audit_still_standing(in_chains jsonb) returns bigint language sql stable as $$
    select coalesce(sum(greatest(0, g.upto + 1 - s.first)), 0)::bigint
      from mover.retired_chains(in_chains) g cross join lateral (
           select min(a.seq) as first from mover.audit_record a
            where a.project_id = mover.current_project() and a.node = g.node) s
     where s.first is not null
$$;

-- Whoever has the daemon's own login can speak for the machine; with one stolen token besides that would be two.
create function mover.audit_by_person(in_proof bytea) returns void language plpgsql as $$
begin
    if in_proof is null then
        raise exception 'the machine lets no record go: a person does, by a token or a session' using errcode = 'MV103';
    end if;
end $$;

-- What the database can know by itself, asked before each of the three steps. Six years by its own clock and by the
-- stamps that it wrote itself, whatever anybody asks for.
create function mover.audit_may_retire(in_before timestamptz) returns void language plpgsql stable as $$
begin
    if in_before is null or in_before > clock_timestamp() - interval '6 years' then
        raise exception 'records younger than six years stay' using errcode = 'MV102';
    end if;
    if exists (select from mover.audit_restore r where r.approved_at is null and r.lapses_at > now()) then
        raise exception 'what a restored catalog lost is still to be decided' using errcode = 'MV102';
    end if;
end $$;

-- Whether these are the oldest records of their chains, each older than `in_before`, and covered by a signed checkpoint on
-- every one of the tiers; and whether nothing that is still open speaks of what they tell.
create function mover.audit_check_retired(in_before timestamptz, in_chains jsonb, in_tiers text[]) returns void
    language plpgsql stable as $$
declare c record; its record; here text := mover.current_project();
begin
    perform mover.audit_may_retire(in_before);
    if (select count(*) = 0 or count(*) <> count(distinct node) from mover.retired_chains(in_chains)) then
        raise exception 'a retirement names records of chains, each chain once' using errcode = 'MV102';
    end if;
    if exists (select from mover.audit_retirement r
                where r.approved_at is not null and mover.audit_still_standing(r.chains) > 0) then
        raise exception 'records of an earlier retirement are still leaving' using errcode = 'MV102';
    end if;
    for c in select * from mover.retired_chains(in_chains) loop
        select count(*) as records, min(a.seq) as first, max(a.at) as youngest into its from mover.audit_record a
         where a.project_id = here and a.node = c.node and a.seq <= c.upto;
        if c."after" is null or its.records = 0 or its.first <> c."after" + 1 or its.records <> c.upto - c."after" then
            raise exception 'only the oldest records of a chain leave, all of them up to the last' using errcode = 'MV102';
        end if;
        if its.youngest >= in_before then
            raise exception 'a record among them is younger than that day' using errcode = 'MV102';
        end if;
        if not exists (select from mover.audit_record a where a.project_id = here and a.node = c.node and a.seq = c.upto
                          and encode(a.hash, 'hex') = c.hash)
            or not exists (select from mover.audit_head h where h.project_id = here and h.node = c.node and h.seq >= c.upto) then
            raise exception 'the chain does not say this of its record' using errcode = 'MV102';
        end if;
        if exists (select from unnest(in_tiers) t(name) where not coalesce((
                select bool_or((e ->> 'seq')::bigint >= c.upto) from jsonb_array_elements((
                    select p.body::jsonb #> '{checkpoint,heads}' from mover.checkpoint p join mover.checkpoint_copy k
                        on (k.project_id, k.n) = (p.project_id, p.n)
                     where p.project_id = here and k.tier = t.name order by p.n desc limit 1)) e
                 where e ->> 'node' = c.node), false)) then
            raise exception 'no signed checkpoint on one of the tiers covers these records' using errcode = 'MV102';
        end if;
    end loop;
    if exists (select from mover.retired_chains(in_chains) g join mover.audit_record a
                   on a.project_id = here and a.node = g.node and a.seq <= g.upto
                where a.body::jsonb ->> 'subject' in (
                      select s.subject_id from mover.shard s where s.state in ('waiting', 'running')
                      union all
                      select unnest(array[h.id, h.snapshot_id, n.run_id]) from mover.hold h
                        join mover.snapshot n on (n.project_id, n.id) = (h.project_id, h.snapshot_id)
                       where h.released_at is null and (h.until is null or h.until > now()))) then
        raise exception 'work that is not done, or a hold, is about what these records tell' using errcode = 'MV102';
    end if;
end $$;

-- Asked before a pack is written, and again with the word itself: one request of a project at a time, since each leaves a
-- pack on every tier, which nothing removes.
create function mover.audit_retire_may_ask(in_proof bytea, in_actor text) returns void
    language plpgsql security definer set search_path = mover, pg_temp as $$
declare who mover.asker := mover.asker_of(in_proof, in_actor);
begin
    if who.role not in ('admin', 'custodian') then
        raise exception 'this role answers for no audit' using errcode = 'MV103';
    end if;
    perform mover.audit_by_person(in_proof);
    perform pg_advisory_xact_lock(hashtext('mover retirement'), hashtext(mover.current_project()));
    if exists (select from mover.audit_retirement r where r.project_id = mover.current_project() and r.approved_at is null
                  and r.lapses_at > now()) then
        raise exception 'a request waits already: approve it, or let it lapse' using errcode = 'MV102';
    end if;
    if exists (select from mover.audit_retirement r where r.project_id = mover.current_project()
                  and r.approved_at is not null and mover.audit_still_standing(r.chains) > 0) then
        raise exception 'records of an earlier retirement are still leaving' using errcode = 'MV102';
    end if;
end $$;

-- The first person's word. `in_years` is what the site's settings keep, null for ever; nothing makes it less than six.
create function mover.audit_retire_ask(in_id text, in_before timestamptz, in_years integer, in_chains jsonb, in_digest text,
                                       in_bytes bigint, in_tiers text[], in_reason text, in_proof bytea, in_actor text,
                                       in_node text) returns void
    language plpgsql security definer set search_path = mover, pg_temp as $$
declare who mover.asker := mover.asker_of(in_proof, in_actor); along text[];
begin
    perform mover.audit_retire_may_ask(in_proof, in_actor);
    perform mover.audit_may_retire(in_before);
    if in_years is null then raise exception 'this site keeps its records for ever' using errcode = 'MV102'; end if;
    if in_before > clock_timestamp() - make_interval(years => in_years) then
        raise exception 'this site keeps its records for longer' using errcode = 'MV102';
    end if;
    perform mover.audit_check_retired(in_before, in_chains, in_tiers);
    select coalesce(array_agg(distinct a.body::jsonb ->> 'subject'), '{}') into along
      from mover.retired_chains(in_chains) g join mover.audit_record a
        on a.project_id = mover.current_project() and a.node = g.node and a.seq <= g.upto
     where a.body::jsonb ->> 'action' in ('audit restore accepted', 'audit retirement approved');
    insert into mover.audit_retirement (project_id, id, before, chains, carried, digest, bytes, tiers, reason, asked_by,
                                        asked_person)
    values (mover.current_project(), in_id, in_before, in_chains, along, in_digest, in_bytes, in_tiers, in_reason, who.actor,
            who.person);
    perform mover.protect_record(in_node, who.actor, 'audit retirement asked', in_id, in_reason, jsonb_build_object(
        'before', in_before, 'chains', in_chains, 'pack', in_digest));
end $$;

-- The second person's. The caller signs checkpoint `n`, which says the same, in the same transaction.
create function mover.audit_retire_approve(in_id text, in_proof bytea, in_actor text, in_node text) returns bigint
    language plpgsql security definer set search_path = mover, pg_temp as $$
declare who mover.asker := mover.asker_of(in_proof, in_actor); r mover.audit_retirement; next_n bigint;
begin
    select * into r from mover.audit_retirement where id = in_id for update;
    if r.id is null then raise exception 'no such retirement' using errcode = 'MV101'; end if;
    if who.role not in ('admin', 'custodian') then
        raise exception 'this role answers for no audit' using errcode = 'MV103';
    end if;
    if r.approved_at is not null then raise exception 'it is approved already' using errcode = 'MV102'; end if;
    if r.lapses_at <= now() then raise exception 'the request has lapsed' using errcode = 'MV102'; end if;
    if who.person = r.asked_person then
        raise exception 'who asked does not approve; tokens that one person made are one person' using errcode = 'MV103';
    end if;
    perform mover.audit_by_person(in_proof);
    perform mover.second_person(who, r.asked_person, r.asked_by, r.asked_at);
    perform mover.audit_check_retired(r.before, r.chains, r.tiers);
    select coalesce(max(n), 0) + 1 into next_n from mover.checkpoint where project_id = mover.current_project();
    update mover.audit_retirement set approved_by = who.actor, approved_person = who.person, approved_at = now(), n = next_n
     where id = in_id;
    perform mover.protect_record(in_node, who.actor, 'audit retirement approved', in_id, r.reason, jsonb_build_object(
        'checkpoint', next_n, 'before', r.before, 'chains', r.chains, 'pack', r.digest, 'asked by', r.asked_by));
    return next_n;
end $$;

-- What `audit_append` made of a record.
create function mover.audit_hash_of(in_prev bytea, in_seq bigint, in_at timestamptz, in_project text, in_node text, in_body text)
    returns bytea language sql stable as $$
    select sha256(in_prev || convert_to(
        in_seq::text || '|' || to_char(in_at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')
        || '|' || in_project || '|' || in_node || '|' || in_body, 'UTF8'))
$$;

-- The next records of a retirement leave, oldest first, and their record comes; the number of them, 0 when none is left.
-- Only after every tier has the checkpoint that says so. A kill between two calls leaves a chain that verifies.
create function mover.audit_retire(in_id text, in_limit integer, in_node text) returns bigint
    language plpgsql security definer set search_path = mover, pg_temp as $$
declare r mover.audit_retirement; c record; first_seq bigint; last_seq bigint; gone bigint; here text := mover.current_project();
begin
    select * into r from mover.audit_retirement where id = in_id for update;
    if r.id is null then raise exception 'no such retirement' using errcode = 'MV101'; end if;
    if r.approved_at is null then
        raise exception 'no second person approved that these records leave' using errcode = 'MV103';
    end if;
    perform mover.audit_may_retire(r.before);
    if exists (select from unnest(r.tiers) t(name) where not exists (
            select from mover.checkpoint p join mover.checkpoint_copy k on (k.project_id, k.n) = (p.project_id, p.n)
             where p.project_id = here and p.n = r.n and k.tier = t.name
               and p.body::jsonb #>> '{checkpoint,retired,id}' = in_id)) then
        raise exception 'a tier has no checkpoint yet that tells of it' using errcode = 'MV102';
    end if;
    for c in select * from mover.retired_chains(r.chains) loop
        select min(a.seq) into first_seq from mover.audit_record a where a.project_id = here and a.node = c.node;
        continue when first_seq is null or first_seq > c.upto;
        last_seq := least(c.upto, first_seq + greatest(1, least(in_limit, 20000)) - 1);
        if not exists (select from mover.audit_record a where a.project_id = here and a.node = c.node and a.seq = c.upto
                          and encode(a.hash, 'hex') = c.hash) then
            raise exception 'the chain is not as it was when two people agreed' using errcode = 'MV102';
        end if;
        if exists (select from (
                select a.*, lead(a.prev) over (order by a.seq) as follows from mover.audit_record a
                 where a.project_id = here and a.node = c.node and a.seq between first_seq and last_seq + 1) p
                where p.seq <= last_seq and (p.hash is distinct from mover.audit_hash_of(p.prev, p.seq, p.at, here, c.node, p.body)
                      or (p.seq = c.upto and encode(p.hash, 'hex') <> c.hash)
                      or (p.seq < c.upto and p.follows is distinct from p.hash))) then
            raise exception 'the chain is not as it was when two people agreed' using errcode = 'MV102';
        end if;
        delete from mover.audit_record a
         where a.project_id = here and a.node = c.node and a.seq between first_seq and last_seq and a.at < r.before;
        get diagnostics gone = row_count;
        if first_seq <= c."after" or gone <> last_seq - first_seq + 1 then
            raise exception 'the chain is not as it was when two people agreed' using errcode = 'MV102';
        end if;
        perform mover.protect_record(in_node, 'daemon', 'audit records retired', in_id, '', jsonb_build_object(
            'node', c.node, 'from', first_seq, 'upto', last_seq, 'pack', r.digest));
        return gone;
    end loop;
    return 0;
end $$;

grant select on mover.audit_retirement to mover_daemon;

reset role;

revoke execute on function mover.retired_chains(jsonb), mover.audit_hash_of(bytea, bigint, timestamptz, text, text, text),
    mover.audit_still_standing(jsonb), mover.audit_by_person(bytea),
    mover.audit_may_retire(timestamptz),
    mover.audit_check_retired(timestamptz, jsonb, text[]),
    mover.audit_retire_may_ask(bytea, text),
    mover.audit_retire_ask(text, timestamptz, integer, jsonb, text, bigint, text[], text, bytea, text, text),
    mover.audit_retire_approve(text, bytea, text, text), mover.audit_retire(text, integer, text) from public;
grant execute on function mover.retired_chains(jsonb), mover.audit_still_standing(jsonb),
    mover.audit_retire_may_ask(bytea, text),
    mover.audit_retire_ask(text, timestamptz, integer, jsonb, text, bigint, text[], text, bytea, text, text),
    mover.audit_retire_approve(text, bytea, text, text), mover.audit_retire(text, integer, text) to mover_daemon;
