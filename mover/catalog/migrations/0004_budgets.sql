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
