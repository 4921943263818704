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
-- A scan's number, once per site; nothing comes back when another daemon was first.
insert into vault.number (site, lookup, number, body) values (%(site)s, %(lookup)s, %(number)s, %(body)s)
on conflict (site, lookup) do nothing returning number;

-- name: find_number
-- The number a scan already has.
select number from vault.number where site = %(site)s and lookup = %(lookup)s;

-- name: insert_subject
-- A patient's pseudonym and date offset, once per site.
insert into vault.subject (site, lookup, pseudonym, body) values (%(site)s, %(lookup)s, %(pseudonym)s, %(body)s)
on conflict (site, lookup) do nothing;

-- name: find_subjects
-- Whoever minted, these are the rows.
select lookup, pseudonym, body from vault.subject where site = %(site)s and lookup = any (%(lookups)s);
