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
