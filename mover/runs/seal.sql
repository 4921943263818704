-- name: put_written
-- What the seal itself writes into the root.
insert into mover.run_entry (project_id, run_id, path, size_bytes, digest, staged_at, staged_how)
values (%(project)s, %(run)s, %(path)s, %(size_bytes)s, %(digest)s, now(), 'written')
on conflict (run_id, path) do update set size_bytes = excluded.size_bytes, digest = excluded.digest, staged_at = now()

-- name: unstage
-- Links that a power cut took back.
update mover.run_entry set staged_at = null, staged_how = null, damaged_at = null
 where run_id = %(run)s and path = any(%(paths)s)

-- name: share_withdrawals
-- A run becomes ready before a slide is withdrawn, and is then told of, or finds it withdrawn.
select pg_advisory_xact_lock_shared(hashtextextended('mover withdrawals', 0))

-- name: aligned
-- Aligned facts of exactly the run's slides, for records.parquet: one row each, at the path of the main file.
select e.path, e.split, s.number, s.family, s.size_bytes + s.files_bytes as size_bytes, s.facts as slide_facts,
       coalesce(a.subject, s.facts ->> 'subject') as subject, a.facts
  from mover.run_entry e join mover.slide s using (number) left join mover.aligned a on a.number = s.number
 where e.run_id = %(run)s and e.archive_key = s.key order by e.path collate "C"

-- name: keep_records
-- Facts change; what a run was given stays known.
insert into mover.run_records (project_id, digest, body) values (%(project)s, %(digest)s, %(body)s) on conflict do nothing

-- name: records_of
-- What the run that this one repeats was given, if it came so far, and the files have the same names here.
select r.body from mover.run n join mover.run l on l.id = n.like_id
  join mover.run_entry e on e.run_id = l.id and e.path = %(path)s and e.number is null
  join mover.run_records r on r.digest = e.digest
 where n.id = %(run)s and (n.layout, coalesce(n.layout_label, '')) = (l.layout, coalesce(l.layout_label, ''))

-- name: decide_identity
-- RUN.json, before it is written.
update mover.run set identity = %(identity)s where id = %(id)s and state = 'staging'

-- name: mark_entries
-- Fingerprints of inodes that are the root's own.
update mover.run_entry e set mark = one.mark from unnest(%(paths)s::text[], %(marks)s::text[]) as one (path, mark)
 where e.run_id = %(run)s and e.path = one.path

-- name: mark_tars
-- And those of tars.
update mover.run_tar t set mark = one.mark from unnest(%(paths)s::text[], %(marks)s::text[]) as one (path, mark)
 where t.run_id = %(run)s and t.path = one.path

-- name: damaged
-- Was content of a run found damaged since it was linked?
select exists (select from mover.run_entry where run_id = %(run)s and damaged_at is not null)
       or exists (select from mover.run_tar where run_id = %(run)s and damaged_at is not null) as found

-- name: columns
-- The typed columns of the project.
select name, type from mover.fact_column order by name

-- name: seal
-- Keep the manifest for ever and promise the root.
update mover.run set state = 'sealed', manifest = %(manifest)s, manifest_root = %(root)s where id = %(id)s

-- name: ready
-- The proof stands; the lease begins. `explanation` is what the job will miss.
update mover.run set state = 'ready', ready_proof = %(proof)s, ready_at = now(), explanation = %(explanation)s,
       lease_until = now() + make_interval(secs => lease_s)
 where id = %(id)s
