-- name: ids
-- An id as `model.ids` makes them, of any moment: the same words give the same id.
create or replace function pg_temp.id(kind text, at timestamptz, n bigint) returns text language sql as $$
    select kind || '-' || string_agg(substr('0123456789abcdefghjkmnpqrstvwxyz',
               1 + ((extract(epoch from at) * 1000)::bigint >> shift & 31)::integer, 1), '' order by shift desc)
           || substr(md5(kind || n), 1, 16)
      from generate_series(0, 45, 5) shift
$$

-- name: moments
-- A moment `days` ago, at some second of a working day.
create or replace function pg_temp.ago(days double precision, n bigint) returns timestamptz language sql as $$
    select date_trunc('second', now()) - make_interval(secs => 86400 * greatest(days, 0.001) + abs(hashint8(n) %% 9000))
$$

-- name: made
-- Slides to come: number and time come by COPY, everything else is drawn from what a number hashes to.
create temporary table made (
    i integer primary key, number text not null, mark text not null, at timestamptz not null, h integer not null,
    k integer not null, b integer not null) on commit drop

-- name: site
-- The tiers of another campus, whose node is another: nothing of them is worked on here.
with tier as (
    insert into mover.tier (name, kind, zone, role, identity, traits, capacity_bytes) values
        ('north-flash', 'posix', 'deidentified', 'flash', 'north-flash', '{}', 200000000000000),
        ('north-protect', 'posix', 'deidentified', 'protect', 'north-protect', '{}', 90000000000000)
    on conflict do nothing)
insert into mover.node (id, version) values ('north', '1') on conflict do nothing

-- name: not_due
-- The archive was read again today: what is drawn here has no bytes that could be.
insert into mover.verification (id, project_id, tier, scope, policy, strangers, state, entries, bytes, checked_count,
                                checked_bytes, listed_count, created_by, created_at, started_at, finished_at)
select pg_temp.id('verification', at, n), %(project)s, 'archive', 'tier', 'verify', true, 'complete', 3333, 6e12, 3333,
       6e12, 3333, 'daemon', at, at, at + interval '5 hours'
  from (select n, now() - n * interval '1 day' as at from generate_series(0, %(few)s) n) d

-- name: folders
-- Folders as they were declared ready, the newest last; each is worked on until its packs are decided.
insert into mover.batch (id, project_id, tier, policy, state, folder, expected_count, found_count, missing_count,
                         created_by, created_at)
select pg_temp.id('batch', min(at), b), %(project)s, 'intake', 'images', 'working', pg_temp.id('sealed', min(at), b),
       count(*) + count(*) / 50, count(*) + count(*) / 50, 0, (array['ines', 'olu', 'marta'])[1 + b %% 3], min(at)
  from made group by b

-- name: batches
-- By their places, for everything that hangs on them.
create temporary table made_batch on commit drop as
select b, pg_temp.id('batch', min(at), b) as id, pg_temp.id('records', min(at), b) as records, min(at) as at,
       max(at) + interval '1 hour' as done, count(*) as slides
  from made group by b

-- name: slide_proofs
-- Read back cold, and searched by a second pass: two proofs for each pack.
insert into mover.proof (id, project_id, kind, subject_id, count, bytes, root, verifier, details, at)
select 'proof-' || substr(mark, 1, 10) || substr(md5(kind || number), 1, 16), %(project)s, kind::mover.proof_kind,
       'pack-' || mark, 1, 200000000 + h::bigint * 2, encode(sha256(number::bytea), 'hex'), 'mover 1',
       case kind when 'deidentified' then jsonb_build_object('strings_sought', 6 + h %% 9, 'forms_sought', 240 + h %% 90,
           'tags_checked', 900 + k %% 400, 'levels', 3 + k %% 7, 'tiles_decoded', 64, 'methods', jsonb_build_array('strings'))
           else '{}' end, at
  from made, unnest(array['verified', 'deidentified']) kind

-- name: grants
-- The grant comes before its slide.
insert into mover.slide_grant (project_id, number, granted_at) select %(project)s, number, at from made

-- name: slides
-- What stands in the archive.
insert into mover.slide (number, site, family, extension, size_bytes, digest, tier, key, facts, created_at)
select number, 'ward', case when h %% 4 = 0 then 'hamamatsu-ndpi' else 'aperio-svs' end,
       case when h %% 4 = 0 then 'ndpi' else 'svs' end, 200000000 + h::bigint * 2, encode(sha256(number::bytea), 'hex'),
       'archive', 'slides/' || number || '/1/' || number || case when h %% 4 = 0 then '.ndpi' else '.svs' end,
       jsonb_build_object('vendor', case when h %% 4 = 0 then 'hamamatsu' else 'aperio' end,
           'width', 20000 + h %% 90000, 'height', 20000 + k %% 70000, 'levels', 3 + k %% 7, 'compression', 'jpeg',
           'mpp_x', (array[0.2205, 0.2528, 0.5029])[1 + k %% 3], 'objective', (array[20, 40])[1 + k %% 2]), at
  from made

-- name: published
-- A pack for each slide, with what was judged about it.
insert into mover.pack (id, project_id, batch_id, barcode, entry, state, family, size_bytes, number, kind, decisions,
                        seconds, updated_at, verified_proof, deidentified_proof)
select 'pack-' || mark, %(project)s, m.id, 'sealed-' || mark, 'sealed-e-' || mark, 'published',
       case when h %% 4 = 0 then 'hamamatsu-ndpi' else 'aperio-svs' end, 200000000 + h::bigint * 2, number, 'svs',
       '[{"place": "page 3 (label)", "action": "drop", "code": "X", "reason": "a label is identity", "shape": "picture"},
         {"place": "page 4 (macro)", "action": "drop", "code": "X", "reason": "a macro shows the label", "shape": "picture"},
         {"place": "page 0 (level) ImageDescription Filename", "action": "drop", "code": "X", "reason": "not on the allow-list", "shape": "A99-9999"},
         {"place": "page 0 (level) ImageDescription MPP", "action": "keep", "code": "K", "reason": "on the allow-list", "shape": "9.9999", "times": 3}]',
       20 + h %% 40, made.at, 'proof-' || substr(mark, 1, 10) || substr(md5('verified' || number), 1, 16),
       'proof-' || substr(mark, 1, 10) || substr(md5('deidentified' || number), 1, 16)
  from made join made_batch m using (b)

-- name: rules
-- What was decided about a cause, and holds.
insert into mover.quarantine_rule (id, project_id, cause, version, action, standing, code, kind, words, reason, packs,
                                   decided_by, decided_at)
select pg_temp.id('rule', pg_temp.ago(n, n), n), %(project)s, cause, 1, 'exclude', true, code, 'svs', words,
       'test scans of the new scanner, never patients', 0, 'cora', pg_temp.ago(n, n)
  from unnest(%(causes)s::text[], %(codes)s::text[], %(words)s::text[]) with ordinality c (cause, code, words, n)
 where n <= %(few)s

-- name: held_back
-- One pack in fifty waits for a person, or stays out by a decision about its cause.
insert into mover.pack (id, project_id, batch_id, barcode, entry, state, reason, explanation, family, size_bytes, kind,
                        cause, judged_by, rule_id, updated_at)
select pg_temp.id('pack', m.at, -i), %(project)s, m.id, 'sealed-q' || i, 'sealed-qe' || i,
       case when n <= %(few)s then 'excluded' else 'quarantined' end, code, words, 'aperio-svs', 300000000 + h / 4, 'svs',
       cause, 'mover 1', case when n <= %(few)s then pg_temp.id('rule', pg_temp.ago(n, n), n) end, m.at
  from made join made_batch m using (b)
  join unnest(%(causes)s::text[], %(codes)s::text[], %(words)s::text[]) with ordinality c (cause, code, words, n)
    on n = 1 + h %% cardinality(%(causes)s::text[])
 where i %% 50 = 7

-- name: batch_proofs
-- Every pack is in its final state.
insert into mover.proof (id, project_id, kind, subject_id, count, bytes, root, verifier, at)
select pg_temp.id('proof', m.done, -b), %(project)s, 'complete', m.id, p.n, p.bytes, md5(m.id) || md5(m.id), 'mover 1', m.done
  from made_batch m cross join lateral (select count(*) as n, sum(size_bytes) as bytes from mover.pack where batch_id = m.id) p
 where b < (select max(b) from made_batch) - 1

-- name: batch_ends
-- All but the two newest are complete; of those one was not what was declared.
update mover.batch t set found_count = p.n, expected_count = p.n,
       state = case when m.b < l.b - 1 then 'complete' when m.b = l.b then 'failed' else t.state end,
       finished_at = case when m.b = l.b - 1 then null else m.done end,
       explanation = case when m.b = l.b then 'four packs that were declared are not in the folder' end,
       complete_proof = case when m.b < l.b - 1 then pg_temp.id('proof', m.done, -m.b) end
  from made_batch m cross join (select max(b) as b from made_batch) l
 cross join lateral (select count(*) as n from mover.pack where batch_id = m.id) p
 where t.id = m.id

-- name: record_sets
-- Tables of every complete batch; some of a dozen were refused, and came again.
insert into mover.record_set (id, project_id, batch_id, policy, version, state, reason, explanation, source, content,
                              created_by, created_at, finished_at)
select pg_temp.id('records', m.at, -b), %(project)s, m.id, 'records', 1, 'quarantined', 'column-unknown',
       'a column that the policy does not know', 'sealed-r' || b, md5(m.id), 'dana', m.at, m.at
  from made_batch m where b %% 12 = 5
 union all
select m.records, %(project)s, m.id, 'records', case when b %% 12 = 5 then 2 else 1 end, 'matching', null, null,
       'sealed-r' || b, md5(m.records), 'dana', m.at, null
  from made_batch m

-- name: lines
-- A line for each row of a table, and for each image.
insert into mover.ledger (project_id, record_set_id, table_name, line, state, reason, number)
select %(project)s, m.records, t, row_number() over (partition by b, t order by i), s.state::mover.ledger_state,
       case when s.state <> 'matched' then 'no counterpart' end, case when s.state in ('matched', 'image-without-row') then number end
  from made join made_batch m using (b), unnest(array['images', 'outcomes']) t
 cross join lateral (select case when h %% 97 <> 3 then 'matched' when t = 'images' then 'image-without-row'
                                 else (array['row-without-image', 'duplicate', 'conflict', 'late'])[1 + k %% 4] end as state) s

-- name: columns
-- What a project can ask about; those that the records of a real hospital brought stay as they are.
insert into mover.fact_column (project_id, name, type, table_name, allowed) values
    (%(project)s, 'diagnosis', 'text', 'outcomes', '{PRAD,BRCA,LUAD,COAD,SKCM}'), (%(project)s, 'gleason', 'integer', 'outcomes', null),
    (%(project)s, 'stage', 'text', 'outcomes', '{I,II,IIA,III,IV}'), (%(project)s, 'sex', 'text', 'cases', '{F,M}'),
    (%(project)s, 'age', 'integer', 'cases', null), (%(project)s, 'stain', 'text', 'imagery', '{H&E,PAS,Ki-67}'),
    (%(project)s, 'received_year', 'year', 'cases', null), (%(project)s, 'size_mm', 'number', 'outcomes', null)
on conflict do nothing

-- name: facts
-- What the records say of nine slides in ten.
insert into mover.aligned (project_id, number, subject, facts, record_set_id, aligned_at)
select %(project)s, number, 'S' || substr(number, 1, 16), jsonb_strip_nulls(jsonb_build_object(
           'diagnosis', (array['PRAD', 'BRCA', 'LUAD', 'COAD', 'SKCM'])[1 + h %% 5],
           'gleason', case when h %% 5 = 0 then 6 + k %% 5 end, 'sex', (array['F', 'M'])[1 + k %% 2],
           'stage', (array['I', 'II', 'IIA', 'III', 'IV', null])[1 + h %% 6], 'age', 20 + (h / 7) %% 71,
           'stain', (array['H&E', 'H&E', 'H&E', 'PAS', 'Ki-67'])[1 + (k / 13) %% 5],
           'received_year', 2005 + (k / 17) %% 21, 'size_mm', ((k / 19) %% 2500) / 100.0)), m.records, m.done
  from made join made_batch m using (b) where h %% 97 <> 3

-- name: record_proofs
-- Every row and image is in exactly one state.
insert into mover.proof (id, project_id, kind, subject_id, count, bytes, root, verifier, at)
select pg_temp.id('proof', m.done, -1000000 - b), %(project)s, 'aligned', m.records, 2 * m.slides, 0,
       md5(m.records) || md5(m.records), 'mover 1', m.done from made_batch m

-- name: record_ends
-- So they are aligned.
update mover.record_set r set state = 'aligned', finished_at = m.done, aligned_proof = pg_temp.id('proof', m.done, -1000000 - b),
       report = c.report
  from made_batch m cross join lateral (
       select jsonb_build_object('tables', jsonb_object_agg(t, states), 'groups', '{}'::jsonb) as report from (
           select table_name as t, jsonb_object_agg(state, n) as states from (
               select table_name, state, count(*) as n from mover.ledger where record_set_id = m.records group by 1, 2) s
            group by table_name) x) c
 where r.id = m.records

-- name: withdrawn
-- A few in which something was found later, and what two people said of half of them.
insert into mover.slide_withdrawal (number, reason, found_by, at)
select number, 'identifier-found-later', m.records, m.done from made join made_batch m using (b) where i %% 400 = 11

-- name: rulings
-- Half of them were asked about.
insert into mover.slide_ruling (id, project_id, number, action, state, reason, asked_by, asked_person, asked_at, decided_by,
                                decided_person, decided_at, decision)
select pg_temp.id('ruling', now(), i), %(project)s, number, 'reinstate', case when i %% 3 = 0 then 'asked' else 'declined' end,
       'it is a maker''s name', 'olu', 'olu', now() - interval '1 day', case when i %% 3 <> 0 then 'cora' end,
       case when i %% 3 <> 0 then 'cora' end, case when i %% 3 <> 0 then now() end, case when i %% 3 <> 0 then 'it is a patient''s' end
  from made where i %% 4000 = 11

-- name: places
-- Where each slide stands in the columns of facts.
insert into mover.slide_place (project_id, place, number)
select %(project)s, coalesce((select max(place) + 1 from mover.slide_place where project_id = %(project)s), 0)
       + row_number() over (order by i) - 1, number from made

-- name: marks
-- Their columns are to be made anew.
insert into mover.fact_mark (project_id, number) select %(project)s, number from made

-- name: cohorts
-- Saved expressions, some of them in several versions.
insert into mover.cohort (id, project_id, name, version, expression, created_by, created_at)
select pg_temp.id('cohort', pg_temp.ago(60 - n %% 60, n), n), %(project)s,
       (array['prostate', 'breast', 'lung', 'colon', 'melanoma'])[1 + n %% 5] || '-' || lpad((n / 5 %% 40)::text, 2, '0'),
       1 + n / 200, 'diagnosis = ''' || (array['PRAD', 'BRCA', 'LUAD', 'COAD', 'SKCM'])[1 + n %% 5] || ''' and age >= ' || 30 + n / 5 %% 40,
       (array['sam', 'noor', 'li'])[1 + n %% 3], pg_temp.ago(60 - n %% 60, n)
  from generate_series(0, %(some)s) n

-- name: lists
-- Frozen lists: five hundred slides from a place of their own.
with l as (
    select n, md5('list ' || n) || md5('tsil ' || n) as root, (select min(place) from mover.slide_place join made using (number))
           + (n * 37::bigint) %% greatest((select count(*) from made) - 500, 1) as first from generate_series(1, %(some)s) n),
listed as (
    insert into mover.selection_list (project_id, root, block, offsets)
    select %(project)s, root, place / 32768, array_agg((place %% 32768)::smallint order by place)
      from l, generate_series(first, first + least(500, (select count(*) from made)) - 1) place group by root, place / 32768)
insert into mover.selection (id, project_id, cohort_id, expression, count, bytes, root, frozen_at)
select pg_temp.id('selection', pg_temp.ago(60 - n %% 60, n), n), %(project)s, c.id, c.expression,
       least(500, (select count(*) from made)), 500 * 2e9::bigint, root, pg_temp.ago(60 - n %% 60, n)
  from l join (select *, row_number() over (order by id) as at from mover.cohort where project_id = %(project)s) c on c.at = l.n

-- name: wanted
-- Runs of two months, and how far each came.
create temporary table made_run on commit drop as
select n, pg_temp.ago((%(some)s - n) / 7.0, n) as at, pg_temp.id('run', pg_temp.ago((%(some)s - n) / 7.0, n), n) as id,
       case when n > %(some)s - 3 then 'requested' when n > %(some)s - 5 then 'staging' when n > %(some)s - 14 then 'ready'
            when n > %(some)s - 17 then 'protecting' when n > %(some)s - 26 then 'protected' when n %% 17 = 0 then 'refused'
            when n %% 23 = 0 then 'cancelled' when n %% 29 = 0 then 'failed' else 'cleaned' end as state,
       case n when %(some)s - 8 then %(many)s else 40 end as files
  from generate_series(1, %(some)s) n

-- name: runs
-- As they were asked for.
insert into mover.run (id, project_id, selection_id, tier, policy, requested_by, wanted_files, wanted_bytes, created_at,
                       manifest_root, copy_bytes)
select r.id, %(project)s, pg_temp.id('selection', pg_temp.ago(60 - n %% 60, n), n), 'north-flash', 'north-stage',
       (array['sam', 'noor', 'li'])[1 + n %% 3], files, files * 2e9::bigint, at,
       case when state in ('ready', 'protecting', 'protected', 'cleaned') then md5(r.id) || md5(r.id) end, files * 2e9::bigint
  from made_run r

-- name: entries_of_runs
-- Their files, staged where the run is ready or was.
insert into mover.run_entry (project_id, run_id, path, number, size_bytes, digest, archive_tier, archive_key, staged_at, staged_how)
select %(project)s, r.id, 'data/' || number || '.' || s.extension, number, s.size_bytes, s.digest, 'archive', s.key,
       case when staged then r.at + interval '30 minutes' end, case when staged then case when i %% 3 = 0 then 'linked' else 'copied' end end
  from made_run r cross join lateral (select r.state in ('ready', 'protecting', 'protected', 'cleaned') or r.state = 'staging' and i %% 2 = 0 as staged, *
       from made where i between r.n * 40 %% (select count(*) from made) and r.n * 40 %% (select count(*) from made) + r.files - 1) m
  join mover.slide s using (number)
 where r.state not in ('requested', 'refused')

-- name: kept
-- What trainings and folders left: two years of days, each kept by some rule.
insert into mover.snapshot (id, project_id, run_id, tier, repository_id, policy, state, files, bytes, added_bytes, series,
                            recorded_at, reasons, tags, trashed_at, trash_until, forgotten_at)
select pg_temp.id('snapshot', at, n), %(project)s, null, 'north-protect', md5('s' || n) || md5('n' || n), 'north-protect', state, 300 + n %% 90,
       4e9::bigint + n::bigint * 1000000, 9e7::bigint + n * 1000, 'folder:plans-' || n %% 9, at,
       case state when 'checked' then array[case when day > 365 then 'monthly 12: the newest of 2025-01' when day > 90 then 'monthly 12: the newest of a month'
            when day > 30 then 'weekly 8: the newest of a week' when day > 2 then 'daily 30: the newest of a day'
            else 'last 20: one of the newest' end] else array['no rule keeps it'] end,
       case when n %% 40 = 0 then array['paper'] else '{}' end, case when state <> 'checked' then at + interval '9 days' end,
       case when state = 'trashed' then now() + interval '9 days' when state = 'forgotten' then at + interval '23 days' end,
       case when state = 'forgotten' then at + interval '23 days' end
  from (select n, pg_temp.ago(day, n) as at, day, case when day < 40 or n %% 5 = 0 then 'checked' when day < 60 then 'trashed' else 'forgotten' end as state
          from (select n, 730.0 * (n::double precision / %(thousands)s) ^ 2 as day from generate_series(1, %(thousands)s) n) d) s
 union all
select pg_temp.id('snapshot', at, -n), %(project)s, id, 'north-protect', md5('r' || n) || md5('u' || n), 'north-protect', 'checked', 12, 9e9::bigint,
       9e9::bigint, 'run:' || id, at + interval '6 hours', array['last 20: one of the newest'], '{}', null, null, null
  from made_run where state in ('protected', 'cleaned')

-- name: ready
-- A root equals its manifest.
insert into mover.proof (id, project_id, kind, subject_id, count, bytes, root, verifier, at)
select pg_temp.id('proof', at, -2000000 - r.n), %(project)s, 'ready', r.id, t.n, t.bytes, md5(r.id) || md5(r.id), 'mover 1', at + interval '31 minutes'
  from made_run r cross join lateral (select count(*) as n, sum(size_bytes) as bytes from mover.run_entry where run_id = r.id) t
 where state in ('ready', 'protecting', 'protected', 'cleaned')

-- name: protected
-- What it left was read back.
insert into mover.proof (id, project_id, kind, subject_id, count, bytes, root, verifier, at)
select pg_temp.id('proof', at, -3000000 - n), %(project)s, 'protected', id, 12, 9e9::bigint, md5(id) || md5(id), 'mover 1', at + interval '7 hours'
  from made_run where state in ('protected', 'cleaned')

-- name: protected_runs
-- So they may be cleaned.
update mover.run r set ready_proof = pg_temp.id('proof', at, -2000000 - n), ready_at = at + interval '31 minutes',
       admitted_at = at, protected_proof = case when m.state in ('protected', 'cleaned') then pg_temp.id('proof', at, -3000000 - n) end
  from made_run m where m.id = r.id and m.state in ('ready', 'protecting', 'protected', 'cleaned')

-- name: cleaned
-- The root is gone.
insert into mover.proof (id, project_id, kind, subject_id, count, bytes, root, verifier, at)
select pg_temp.id('proof', at, -4000000 - n), %(project)s, 'cleaned', id, 0, 0, md5(id) || md5(id), 'mover 1', at + interval '8 hours'
  from made_run where state = 'cleaned'

-- name: run_ends
-- Where each stands now.
update mover.run r set state = m.state::mover.run_state,
       reason = case m.state when 'refused' then 'slides-unknown' when 'failed' then 'digest-mismatch' end,
       explanation = case m.state when 'refused' then '3 of the names are no slides' when 'failed' then 'a file is not what the manifest says' end,
       lease_until = case when m.state = 'ready' then now() + interval '20 hours' end,
       finished_at = case when m.state in ('protecting', 'protected', 'cleaned') then at + interval '6 hours' end,
       cleaned_at = case when m.state = 'cleaned' then at + interval '8 hours' end,
       cleaned_proof = case when m.state = 'cleaned' then pg_temp.id('proof', at, -4000000 - n) end
  from made_run m where m.id = r.id

-- name: work
-- Shards of a fortnight.
insert into mover.shard (id, project_id, queue, kind, subject_id, members, state, holder, claims, failures, lease_until, not_before,
                         error_code, error, created_at, finished_at)
select pg_temp.id('shard', s.at, s.n), %(project)s, 'tier:north-flash', kind, r.id, array[md5(s.n::text), md5('m' || s.n)],
       s.state::mover.shard_state, case when s.state <> 'waiting' then 'north-all/1' end, 1 + s.n %% 3,
       case when s.state = 'failed' then 5 else s.n %% 2 end, case when s.state = 'running' then now() + interval '1 day' end, s.at,
       case when s.state = 'failed' then 'tier-unavailable' end, case when s.state = 'failed' then 'the tier does not answer' end,
       s.at, case when s.state in ('done', 'failed', 'cancelled') then s.at + interval '4 minutes' end
  from (select n, pg_temp.ago(14.0 * (1 - n / %(thousands)s.0), n) as at, (array['run-stage', 'run-seal', 'run-protect', 'run-clean'])[1 + n %% 4] as kind,
               case when n > %(thousands)s - 4 then 'running' when n > %(thousands)s - 12 then 'waiting' when n %% 300 = 1 then 'failed'
                    when n %% 70 = 1 then 'cancelled' else 'done' end as state from generate_series(1, %(thousands)s) n) s
  join made_run r on r.n = 1 + s.n %% %(some)s

-- name: archived
-- What a walk saw in the archive: each slide, and what an older system left there.
insert into mover.entry (project_id, tier, key, kind, size_bytes, mtime_ns, mark, digest, verified_at)
select %(project)s, 'archive', convert_to(s.key, 'UTF8'), 'file', s.size_bytes, extract(epoch from at)::bigint * 1000000000, '"' || md5(number) || '"',
       s.digest, at from made join mover.slide s using (number)
 union all
select %(project)s, 'archive', convert_to('older/' || 2013 + h %% 14 || '/' || (array['gastro', 'derma', 'uro', 'breast', 'lung'])[1 + k %% 5] || '/'
       || (array['batch', 'import'])[1 + h %% 2] || '-' || h %% 30 || '/' || number || '.svs', 'UTF8'), 'file', 100000000 + (h::bigint * (1 + k %% 5)),
       extract(epoch from make_date(2013 + h %% 14, 1 + k %% 11, 1 + k %% 20))::bigint * 1000000000, '"' || md5('o' || number) || '"',
       case when i %% 30 = 0 then encode(sha256((i / 300)::text::bytea), 'hex') end, null from made where i %% 5 = 0

-- name: on_flash
-- And on the flash: roots of runs, and what groups left beside them.
insert into mover.entry (project_id, tier, key, kind, size_bytes, mtime_ns, mark)
select %(project)s, 'flash', convert_to('runs/run-north-' || h %% 19 || '/data/' || number || '.svs', 'UTF8'), 'file', 200000000 + h::bigint * 2,
       extract(epoch from at)::bigint * 1000000000, i || ':1' from made where i %% 9 = 0
 union all
select %(project)s, 'flash', convert_to('scratch/' || (array['tiles', 'embeddings', 'checkpoints', 'logs'])[1 + k %% 4] || '/' || (array['sam', 'noor', 'li', 'old-intern'])[1 + h %% 4]
       || '/part-' || i, 'UTF8'), 'file', 1000000 + h::bigint / (1 + k %% 9), extract(epoch from pg_temp.ago(k %% 400, i))::bigint * 1000000000, i || ':2' from made where i %% 9 = 1

-- name: walks
-- Scans of two tiers, one a day.
insert into mover.scan (id, project_id, tier, method, state, folders, entries, bytes, same, new, changed, gone, walk_s, merge_s, created_by,
                        created_at, started_at, finished_at)
select pg_temp.id('scan', at, n), %(project)s, case when n %% 2 = 0 then 'archive' else 'flash' end, 'walk', 'complete', 900, 200000 - n * 10, 4e14, 199000 - n * 10, 1000, 0, 0,
       40, 3, 'daemon', at, at, at + interval '43 seconds' from (select n, pg_temp.ago(n / 2.0, n) as at from generate_series(1, %(some)s) n) s

-- name: moves
-- Transfers that people and policies asked for.
insert into mover.transfer (id, project_id, verb, state, sources, target, request, entries, bytes, moved_count, moved_bytes, created_by,
                            created_at, started_at, finished_at)
select pg_temp.id('transfer', at, n), %(project)s, 'copy', 'done', array['archive'], 'north-flash', '{}', 400, 8e11, 400, 8e11, 'olu', at, at,
       at + interval '9 minutes' from (select n, pg_temp.ago(n / 3.0, n) as at from generate_series(1, %(some)s) n) s

-- name: restores
-- What scientists brought back.
insert into mover.restore (id, project_id, snapshot_id, tier, node, path, target, state, local, of_files, of_bytes, files, bytes, seconds, created_by,
                           created_at, started_at, finished_at)
select pg_temp.id('restore', at, n), %(project)s, s.id, 'north-protect', 'north', '/', '/home/back-' || n, 'complete', true, 300, 4e9::bigint, 300,
       4e9::bigint, 70, 'li', at, at, at + interval '71 seconds'
  from (select n, pg_temp.ago(n / 2.0, n) as at from generate_series(1, %(some)s / 4) n) r
  join (select id, row_number() over (order by sequence) as place from mover.snapshot where policy = 'north-protect' and project_id = %(project)s) s on s.place = r.n

-- name: alarms
-- What needed somebody in the last months, and was over.
with a as (
    insert into mover.alarm (project_id, id, key, code, severity, noun, subject, words, hint, count, opened_at, closed_at, told_at, told_count)
    select %(project)s, pg_temp.id('alarm', at, n), 'north-' || n, code, 'soon', 'batch', null,
           n %% 40 || ' packs wait in quarantine', 'Look at the causes, the most frequent first.', n %% 40, at, at + interval '3 hours', at, 1
      from (select n, pg_temp.ago(n / 4.0, n) as at, 'packs-quarantined' as code from generate_series(1, %(some)s) n) s returning id, opened_at)
insert into mover.alarm_telling (project_id, alarm_id, receiver, event, at, words, count, attempts, told_at)
select %(project)s, id, 'night', 'opened', opened_at, 'packs wait in quarantine', 4, 1, opened_at from a

-- name: changes
-- Policies that people changed.
insert into mover.policy_change (project_id, id, node, name, kind, base, digest, text, risks, reason, requested_by, requested_person, requested_at,
                                 lapses_at, agreed_at, applied_at)
select %(project)s, pg_temp.id('change', at, n), 'north', 'north-stage', 'stage', md5(n::text), md5((n + 1)::text), 'kind: stage', '{}', 'the flash has more room now',
       'ada', 'ada', at, at + interval '30 days', at, at from (select n, pg_temp.ago(n, n) as at from generate_series(1, %(some)s / 8) n) s

-- name: people
-- Who works here, each with a role.
with a as (
    insert into mover.account (id, name, issuer, subject, person, made_by, created_at)
    select pg_temp.id('account', at, n), 'person-' || lpad(n::text, 3, '0'), 'https://sso.hospital', 'north-' || n, pg_temp.id('account', at, n), 'ada', at
      from (select n, pg_temp.ago(200 - n %% 190, n) as at from generate_series(1, %(some)s / 4) n) s returning id, created_at)
insert into mover.account_grant (project_id, account_id, role, granted_at)
select %(project)s, id, (array['viewer', 'operator', 'viewer', 'viewer'])[1 + hashtext(id) & 3], created_at from a

-- name: tokens
-- And what programs sign in with.
insert into mover.token (id, hash, actor, person, role, project_id, created_at, expires_at, revoked_at)
select pg_temp.id('token', at, n), sha256(('north ' || n)::bytea), 'cluster-' || n, 'ada', 'operator', %(project)s, at, at + interval '1 year', case when n %% 3 = 0 then now() end
  from (select n, pg_temp.ago(n, n) as at from generate_series(1, %(some)s / 4) n) s

-- name: levels
-- How full the tiers were, by the hour of a month.
insert into mover.tier_level (tier, at, capacity_bytes, free_bytes)
select t.name, date_bin('1 hour', now(), 'epoch') - n * interval '1 hour', t.capacity, t.capacity * (0.22 + n / 1800.0 + abs(hashint4(n) %% 100) / 4000.0)
  from (values ('north-flash', 200e12), ('north-protect', 90e12)) t (name, capacity), generate_series(1, 720) n
on conflict do nothing

-- name: paces
-- And how fast bytes went between them in the last hours.
insert into mover.tier_pace (at, node, source, target, bytes)
select date_bin('10 seconds', now(), 'epoch') - n * interval '10 seconds', 'north-all', s, t, 9e9::bigint + abs(hashint4(n) %% 4000) * 1000000::bigint
  from (values ('archive', 'north-flash'), ('north-flash', 'north-protect')) p (s, t), generate_series(1, 720) n
on conflict do nothing

-- name: history
-- A chain of another node, with the times of then: each record's hash as `audit_append` makes it.
do $$
declare n integer; head bytea := '\x'; next bytea; stamp timestamptz; said text; project text := current_setting('bench.project');
    many integer := current_setting('bench.records')::integer;
begin
    for n in 1 .. many loop
        stamp := date_trunc('second', now()) - make_interval(secs => (many - n) * 200);
        said := json_build_object('actor', (array['ines', 'olu', 'sam', 'daemon'])[1 + n % 4], 'action',
            (array['slide read', 'run requested', 'batch declared', 'shard finished'])[1 + n % 4], 'subject', 'subject-' || n % 4000,
            'reason', '', 'request', 'r' || n, 'details', '{}'::json)::text;
        next := sha256(head || convert_to(n::text || '|' || to_char(stamp at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')
            || '|' || project || '|north|' || said, 'UTF8'));
        insert into mover.audit_record values (project, 'north', n, stamp, said, head, next);
        head := next;
    end loop;
    insert into mover.audit_head values (project, 'north', many, head);
end $$
