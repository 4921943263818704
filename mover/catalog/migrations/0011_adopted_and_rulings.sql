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
