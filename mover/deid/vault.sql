-- name: insert_sealed
-- Insert-or-get, first half: in the order of lookup, so that two daemons never wait for each other in a circle.
insert into vault.sealed (id, project_id, kind, lookup, body)
select * from unnest(%(ids)s::text[], %(projects)s::text[], %(kinds)s::text[], %(lookups)s::bytea[], %(bodies)s::bytea[])
    as t (id, project_id, kind, lookup, body) order by lookup
on conflict (project_id, kind, lookup) do nothing;

-- name: find_sealed
-- Insert-or-get, second half: whoever inserted, this is the row.
select id, lookup from vault.sealed where project_id = %(project)s and kind = %(kind)s and lookup = any (%(lookups)s);

-- name: read_sealed
-- The sealed rows themselves; only `unseal` opens them, and it leaves an audit record.
select id, kind, lookup, body from vault.sealed where project_id = %(project)s and id = any (%(ids)s);

-- name: insert_number
-- Scans' numbers, once per site; what another daemon minted first does not come back. In the order of lookup, as all
-- below: two daemons never wait for each other in a circle.
insert into vault.number (site, lookup, number, body)
select %(site)s, lookup, drawn, body from unnest(%(lookups)s::bytea[], %(drawn)s::text[], %(bodies)s::bytea[])
    as t (lookup, drawn, body) order by lookup
on conflict (site, lookup) do nothing returning lookup, number as drawn;

-- name: find_number
-- The numbers that scans already have.
select lookup, number as drawn from vault.number where site = %(site)s and lookup = any (%(lookups)s);

-- name: insert_entity
-- What stands for cases, blocks or slides, once per site.
insert into vault.entity (site, kind, lookup, pseudonym, body)
select %(site)s, %(kind)s, lookup, drawn, body from unnest(%(lookups)s::bytea[], %(drawn)s::text[], %(bodies)s::bytea[])
    as t (lookup, drawn, body) order by lookup
on conflict (site, kind, lookup) do nothing returning lookup, pseudonym as drawn;

-- name: find_entity
-- What stands for them already.
select lookup, pseudonym as drawn from vault.entity
 where site = %(site)s and kind = %(kind)s and lookup = any (%(lookups)s);

-- name: insert_uid
-- What stands for UIDs, once per site.
insert into vault.uid (site, lookup, replacement, body)
select %(site)s, lookup, drawn, body from unnest(%(lookups)s::bytea[], %(drawn)s::text[], %(bodies)s::bytea[])
    as t (lookup, drawn, body) order by lookup
on conflict (site, lookup) do nothing returning lookup, replacement as drawn;

-- name: find_uid
-- What stands for them already.
select lookup, replacement as drawn from vault.uid where site = %(site)s and lookup = any (%(lookups)s);

-- name: insert_subject
-- A patient's pseudonym and date offset, once per site.
insert into vault.subject (site, lookup, pseudonym, body) values (%(site)s, %(lookup)s, %(pseudonym)s, %(body)s)
on conflict (site, lookup) do nothing;

-- name: find_subjects
-- Whoever minted, these are the rows.
select lookup, pseudonym, body from vault.subject where site = %(site)s and lookup = any (%(lookups)s);
