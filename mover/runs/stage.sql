-- name: entries_by_path
-- The entries a shard is to stage.
select * from mover.run_entry where run_id = %(run)s and path = any(%(paths)s) and staged_at is null order by path

-- name: add_offenders
-- Files of which no copy is whole; the run fails with all of them.
update mover.run set offenders = coalesce(offenders, '[]') || %(offenders)s where id = %(run)s

-- name: mark_staged
-- An entry whose flash copy was read back cold.
update mover.run_entry set staged_at = now(), staged_how = %(how)s where run_id = %(run)s and path = %(path)s

-- name: unstage
-- Links that a power cut took back.
update mover.run_entry set staged_at = null, staged_how = null where run_id = %(run)s and path = any(%(paths)s)

-- name: put_written
-- What the seal itself writes into the root.
insert into mover.run_entry (project_id, run_id, path, size_bytes, digest, staged_at, staged_how)
values (%(project)s, %(run)s, %(path)s, %(size_bytes)s, %(digest)s, now(), 'written')
on conflict (run_id, path) do update set size_bytes = excluded.size_bytes, digest = excluded.digest, staged_at = now()

-- name: hold_staging
-- A run that is staged, and stays so until the commit.
select id from mover.run where id = %(id)s and state = 'staging' for share

-- name: share_withdrawals
-- A run becomes ready before a slide is withdrawn, and is then told of, or finds it withdrawn.
select pg_advisory_xact_lock_shared(hashtextextended('mover withdrawals', 0))

-- name: withdrawn
-- Slides of a run, or of some of its entries, that were withdrawn since it was asked for.
select count(distinct e.number) as count from mover.run_entry e join mover.slide_withdrawal w using (number)
 where e.run_id = %(run)s and (%(paths)s::text[] is null or e.path = any (%(paths)s))

-- name: lock_digest
-- Linking, judging and evicting of one digest on one tier happen one after the other.
select pg_advisory_xact_lock(hashtextextended(%(tier)s::text || ' ' || %(digest)s::text, 0))

-- name: content
-- A digest in the flash tier's content store.
select digest, size_bytes, mark from mover.content where tier = %(tier)s and digest = %(digest)s

-- name: put_content
-- A digest stands in the store now, verified.
insert into mover.content (tier, digest, size_bytes, mark, verified_at)
values (%(tier)s, %(digest)s, %(size_bytes)s, %(mark)s, now())
on conflict (tier, digest) do update set mark = excluded.mark, used_at = now()

-- name: evictable
-- Content that no live run of any project holds, least recently used first.
select c.digest, c.size_bytes from mover.content c
 where c.tier = %(tier)s and c.digest not in (select digest from mover.content_held(%(tier)s))
 order by c.used_at limit %(limit)s

-- name: drop_idle
-- A digest that no live run holds loses its row.
delete from mover.content
 where tier = %(tier)s and digest = %(digest)s and digest not in (select digest from mover.content_held(%(tier)s))

-- name: drop_content
-- A digest lost its name in the store.
delete from mover.content where tier = %(tier)s and digest = %(digest)s

-- name: aligned
-- Aligned facts of exactly the run's slides, for records.parquet: one row each, at the path of the main file.
select e.path, s.number, s.family, s.size_bytes + s.files_bytes as size_bytes, s.facts as slide_facts,
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

-- name: columns
-- The typed columns of the project.
select name, type from mover.fact_column order by name

-- name: seal
-- Keep the manifest for ever and promise the root.
update mover.run set state = 'sealed', manifest = %(manifest)s, manifest_root = %(root)s where id = %(id)s

-- name: ready
-- The proof stands; the lease begins.
update mover.run set state = 'ready', ready_proof = %(proof)s, ready_at = now(),
       lease_until = now() + make_interval(secs => lease_s)
 where id = %(id)s

-- name: failed
-- A run that could not be staged.
update mover.run set state = 'failed', reason = %(reason)s, explanation = %(explanation)s
 where id = %(id)s and state in ('admitted', 'staging', 'sealed')
returning id, tier
