-- name: put_written
-- What the seal itself writes into the root.
insert into mover.run_entry (project_id, run_id, path, size_bytes, digest, staged_at, staged_how)
values (%(project)s, %(run)s, %(path)s, %(size_bytes)s, %(digest)s, now(), 'written')
on conflict (run_id, path) do update set size_bytes = excluded.size_bytes, digest = excluded.digest, staged_at = now()

-- name: unstage
-- Links that a power cut took back.
update mover.run_entry set staged_at = null, staged_how = null, damaged_at = null
 where run_id = %(run)s and (path = any(%(paths)s) or shard = any(%(paths)s))

-- name: unstage_tars
-- And those of tars.
update mover.run_tar set digest = null, staged_at = null, staged_how = null, damaged_at = null
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
insert into mover.run_records (project_id, digest, body) values (%(project)s, %(digest)s, %(body)s)
on conflict do nothing

-- name: records_of
-- What an earlier attempt decided; or what the run that this one repeats was given, if it came so far and its files
-- have the same names.
select r.body from mover.run n join mover.run l on l.id in (n.id, n.like_id)
  join mover.run_entry e on e.run_id = l.id and e.path = %(path)s and e.number is null
  join mover.run_records r on r.digest = e.digest
 where n.id = %(run)s and not exists (
       select from mover.run_entry o where o.run_id = n.id and o.number is not null
          and not exists (select from mover.run_entry p where p.run_id = l.id and p.path = o.path))
 order by l.id = n.id desc limit 1

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

-- name: decide_manifest
-- What the root will hold, before it is written: kept for ever.
update mover.run set manifest = %(manifest)s where id = %(id)s and state = 'staging'

-- name: seal
-- Promise the manifest's root.
update mover.run set state = 'sealed', manifest_root = %(root)s where id = %(id)s

-- name: ready
-- The proof stands; the lease begins. `explanation` is what the job will miss.
update mover.run set state = 'ready', ready_proof = %(proof)s, ready_at = now(), explanation = %(explanation)s,
       lease_until = now() + make_interval(secs => lease_s)
 where id = %(id)s
