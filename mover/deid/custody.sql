-- name: ring
-- Of which generation the vault is, and whether rows of the one before still stand.
select generation, oldest from vault.ring_now();

-- name: by_drawn
-- The rows of numbers, pseudonyms or UIDs that somebody names.
select kind, lookup, drawn, copy, generation from vault.by_drawn(%(table)s, %(site)s, %(drawn)s);

-- name: of_subject
-- Everything that is one patient's.
select kind, drawn from vault.of_subject(%(site)s, %(subject)s);

-- name: tied
-- Scans that named these subjects.
select subject, number from vault.tied(%(site)s, %(subjects)s);

-- name: list_rows
-- A slice of a table's rows, and the record of the look.
select owner, kind, lookup, drawn, body, copy, subject, generation
  from vault.list_rows(%(table)s, %(owner)s, %(kind)s, %(lookup)s, %(limit)s, %(project)s, %(node)s, %(record)s);

-- name: replace_rows
-- Rows of a slice, sealed or found anew.
select vault.replace_rows(%(table)s, %(owners)s::text[], %(kinds)s::text[], %(lookups)s::bytea[], %(was)s::integer[],
                          %(new_lookups)s::bytea[], %(bodies)s::bytea[], %(copies)s::bytea[], %(generation)s) as changed;

-- name: projects
-- Whose names are sealed.
select id from vault.projects();

-- name: begin_rekey
-- From the commit on everybody comes with the next generation.
select vault.begin_rekey(%(generation)s, %(before)s, %(after)s, %(project)s, %(node)s, %(record)s) as ours;

-- name: claim
-- Whether this is the key of the vault.
select vault.claim(%(generation)s, %(check)s) as ours;

-- name: end_rekey
-- Nothing of the generation before is left; or how much is.
select vault.end_rekey(%(generation)s, %(project)s, %(node)s, %(record)s) as behind;

-- name: bury
-- Rows of an erased subject go, their tombstones stay.
select vault.bury(%(site)s, %(kinds)s::text[], %(lookups)s::bytea[], %(generations)s::integer[], %(stood_for)s::text[],
                  %(projects)s::text[]) as gone;

-- name: read_sealed
-- By what sealed names are found.
select id, kind, lookup, body, generation from vault.read_sealed(%(generation)s, %(project)s, %(ids)s);

-- name: granted
-- Those of the numbers that the project may see.
select number from mover.slide_grant where number = any (%(numbers)s);

-- name: aligned_subjects
-- Those of the subjects that tables tied to slides of the project.
select distinct subject from mover.aligned where subject = any (%(subjects)s);

-- name: slides_of_subject
-- The slides that tables tied to a subject.
select number from mover.aligned where subject = %(subject)s;

-- name: packs_of
-- The sealed names of the packs that became these slides.
select entry, barcode from mover.pack where number = any (%(numbers)s);

-- name: published
-- Those of the numbers under which a slide stands.
select number from mover.slide where number = any (%(numbers)s) order by number;

-- name: holders
-- Every project that has one of these slides, with its runs that hold them.
select number, project_id, run_id from mover.slide_holders(%(numbers)s);

-- name: withdraw
-- No selection and no run takes these slides from now on.
insert into mover.slide_withdrawal (number, reason, found_by) select unnest(%(numbers)s::text[]), 'subject-erased', %(by)s
on conflict (number) do nothing;
