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
