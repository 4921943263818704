-- name: put_sealed
-- Insert-or-get, first half: in the order of lookup, so that two daemons never wait for each other in a circle.
select vault.put_sealed(%(generation)s, %(project)s, %(kind)s, %(ids)s, %(lookups)s, %(bodies)s);

-- name: find_sealed
-- Insert-or-get, second half: whoever inserted, this is the row.
select id, lookup from vault.find_sealed(%(generation)s, %(project)s, %(kind)s, %(lookups)s);

-- name: read_sealed
-- The sealed rows themselves; only `unseal` opens them, and it leaves an audit record.
select id, kind, lookup, body, generation from vault.read_sealed(%(generation)s, %(project)s, %(ids)s);

-- name: find
-- What stands for scans, patients, keys or UIDs already, by lookup.
select lookup, drawn, body, generation
  from vault.find(%(generation)s, %(table)s, %(site)s, %(kind)s, %(lookups)s);

-- name: mint
-- New rows, once per site; what another daemon minted first does not come back.
select lookup, drawn
  from vault.mint(%(generation)s, %(table)s, %(site)s, %(kind)s, %(lookups)s::bytea[], %(before)s::bytea[], %(drawn)s::text[],
                  %(bodies)s::bytea[], %(copies)s::bytea[], %(subjects)s::text[]);

-- name: homes
-- Whose each of these numbers is where nobody says it: the issuer that came first.
select patient, issuer from vault.homes(%(site)s, %(patients)s, %(issuers)s);

-- name: tie
-- Whose scan a number is, as the scan itself said.
select vault.tie_number(%(site)s, %(number)s, %(subjects)s);
