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
