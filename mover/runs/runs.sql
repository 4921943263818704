-- name: remembered
-- The run an idempotency key already stands for.
select subject_id, body_digest from mover.idempotency where project_id = %(project)s and key = %(key)s

-- name: remember
-- Bind a key to its run, in the transaction that makes the run.
insert into mover.idempotency (project_id, key, route, body_digest, subject_id)
values (%(project)s, %(key)s, %(route)s, %(body_digest)s, %(subject)s)
on conflict (project_id, key) do nothing
returning subject_id

-- name: cohort
-- A cohort by id, name@version, or name (its newest version).
select id, expression from mover.cohort
 where id = %(ref)s or (name = %(name)s and (%(version)s::integer is null or version = %(version)s))
 order by version desc limit 1

-- name: lock_tier
-- Admission decisions of one tier happen one after the other.
select name, capacity_bytes from mover.tier where name = %(tier)s for update

-- name: reserved
-- Bytes promised to live runs of every project.
select mover.tier_reserved(%(tier)s) as bytes

-- name: outstanding
-- Bytes of those promises that are not on the tier yet.
select mover.tier_outstanding(%(tier)s) as bytes

-- name: selected
-- Every file of every slide of a selection, with what the layout needs; a slide's main file, which has no name, first.
select f.number, s.extension, f.name, s.files_count > 0 as several, f.size_bytes, f.digest, f.tier, f.key, a.facts,
       c.digest is not null as standing
  from mover.selection_slide x
  join mover.slide s using (number)
  join lateral (select s.number, null as name, s.size_bytes, s.digest, s.tier, s.key
                union all
                select number, name, size_bytes, digest, tier, key from mover.slide_file where number = s.number) f on true
  left join mover.aligned a on a.number = s.number
  left join mover.content c on c.tier = %(tier)s and c.digest = f.digest
 where x.selection_id = %(selection)s
 order by f.number, f.name collate "C" nulls first

-- name: insert_run
-- A run begins as requested.
insert into mover.run (id, project_id, selection_id, tier, policy, state, reason, explanation, offenders,
                       requested_by, posix_uid, posix_gid, layout, layout_label, lease_s)
values (%(id)s, %(project)s, %(selection)s, %(tier)s, %(policy)s, %(state)s, %(reason)s, %(explanation)s,
        %(offenders)s, %(actor)s, %(uid)s, %(gid)s, %(layout)s, %(label)s, %(lease_s)s)

-- name: insert_entry
-- One file the run root will hold.
insert into mover.run_entry (project_id, run_id, path, number, size_bytes, digest, archive_tier, archive_key)
values (%(project)s, %(run)s, %(path)s, %(number)s, %(size_bytes)s, %(digest)s, %(archive_tier)s, %(archive_key)s)

-- name: lock
-- The run, held for a change of state.
select * from mover.run where id = %(id)s for update

-- name: get
-- A run as it stands.
select * from mover.run where id = %(id)s

-- name: set_state
-- Move along the lifecycle table; the caller has checked the step.
update mover.run set state = %(state)s::mover.run_state, reason = %(reason)s, explanation = %(explanation)s
 where id = %(id)s

-- name: explain
-- Why a run does not move on.
update mover.run set explanation = %(explanation)s where id = %(id)s

-- name: cleaning_shards
-- Cleanup of this run that is still under way.
select count(*) as open from mover.shard
 where subject_id = %(run)s and kind = 'run-clean' and state in ('waiting', 'running')

-- name: reserve
-- Promise the run its bytes on the tier.
update mover.run set reserved_bytes = %(bytes)s where id = %(id)s

-- name: waiting
-- Runs that wait for space on a tier, of every project, oldest first.
select run_id, project_id from mover.runs_waiting(%(tier)s, %(limit)s)

-- name: lock_waiting
-- A run that still waits, held for the verdict, with the bytes it asks for.
select r.*, coalesce(s.bytes, 0) as bytes from mover.run r left join mover.selection s on s.id = r.selection_id
 where r.id = %(id)s and r.state = 'requested' for update of r

-- name: to_copy
-- Bytes of a run whose digests do not stand on the tier yet.
select coalesce(sum(size_bytes), 0)::bigint as bytes from (
    select distinct e.digest, e.size_bytes from mover.run_entry e
     where e.run_id = %(run)s
       and not exists (select from mover.content c where c.tier = %(tier)s and c.digest = e.digest)) missing

-- name: entries_by_path
-- The entries a shard is to stage.
select * from mover.run_entry where run_id = %(run)s and path = any(%(paths)s) and staged_at is null order by path

-- name: entries
-- Every entry of a run, in the manifest's order.
select * from mover.run_entry where run_id = %(run)s order by path collate "C"

-- name: paths
-- Entries that are not staged yet, for cutting into shards.
select path from mover.run_entry where run_id = %(run)s and staged_at is null order by path

-- name: staged
-- Entries usable as they come, in order of path.
select path, number, size_bytes, digest from mover.run_entry
 where run_id = %(run)s and staged_at is not null and path > %(after)s order by path limit %(limit)s

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

-- name: evictable_bytes
-- What eviction could give back to a run that does not want it itself.
select coalesce(sum(c.size_bytes), 0)::bigint as bytes from mover.content c
 where c.tier = %(tier)s and c.digest not in (select digest from mover.content_held(%(tier)s))
   and c.digest not in (select digest from mover.run_entry where run_id = %(run)s)

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

-- name: renew_lease
-- A heartbeat.
update mover.run set lease_until = now() + make_interval(secs => lease_s) where id = %(id)s and state = 'ready'
returning lease_until

-- name: finishing
-- Training is over: what it left is named.
update mover.run set state = 'finishing', finish = %(finish)s, finished_at = now(), clean_after = %(clean_after)s,
       reason = %(reason)s, explanation = null
 where id = %(id)s

-- name: lapsed
-- Runs whose lease has lapsed, of every project.
select run_id, project_id from mover.runs_lapsed()

-- name: lock_lapsed
-- A run whose lease has lapsed by the server's clock, held for its end.
select * from mover.run where id = %(id)s and state = 'ready' and lease_until < now() for update

-- name: snapshots
-- Snapshots that hold this run.
select id from mover.snapshot where run_id = %(run)s and state <> 'forgotten' order by sequence

-- name: artifacts
-- What checked snapshots of this run hold, by path below the run root; one whose file vanished holds nothing.
select a.path, a.digest, a.size_bytes from mover.artifact a join mover.snapshot s on s.id = a.snapshot_id
 where s.run_id = %(run)s and s.state = 'checked' and s.missing_at is null order by s.sequence

-- name: put_stray
-- A stray is recorded before it is moved, so that a crash between leaves it findable.
insert into mover.stray (project_id, run_id, path, size_bytes, why, moved_to)
values (%(project)s, %(run)s, %(path)s, %(size_bytes)s, %(why)s, %(moved_to)s)
on conflict (run_id, path) do nothing

-- name: strays
-- What cleanup moved aside.
select path, size_bytes, why, moved_to from mover.stray where run_id = %(run)s order by path

-- name: cleaned
-- The proof of emptiness stands.
update mover.run set state = 'cleaned', cleaned_proof = %(proof)s, cleaned_at = now(), reserved_bytes = 0
 where id = %(id)s

-- name: progress
-- How far staging is.
select count(*) as count, coalesce(sum(size_bytes), 0)::bigint as bytes,
       count(*) filter (where staged_at is not null) as staged_count,
       coalesce(sum(size_bytes) filter (where staged_at is not null), 0)::bigint as staged_bytes,
       count(*) filter (where staged_how = 'linked') as linked_count
  from mover.run_entry where run_id = %(run)s

-- name: trouble
-- Why the work on a run waits, if it waits for something to come back.
select error_code as code, error from mover.shard
 where subject_id = %(id)s and state in ('waiting', 'running') and error is not null order by created_at limit 1

-- name: expression
-- The expression a selection was frozen from.
select expression from mover.selection where id = %(selection)s

-- name: page
-- Newest runs first.
select id from mover.run where (%(after)s::text is null or id < %(after)s) order by id desc limit %(limit)s

-- name: rate
-- Bytes a second this tier was staged at, from the newest runs: the estimate learns from history.
select sum(bytes) / nullif(sum(seconds), 0) as bytes_s from (
    select s.bytes, extract(epoch from r.ready_at - r.created_at) as seconds
      from mover.run r join mover.selection s on s.id = r.selection_id
     where r.tier = %(tier)s and r.ready_at is not null order by r.ready_at desc limit 20) newest

-- name: failed
-- A run that could not be staged.
update mover.run set state = 'failed', reason = %(reason)s, explanation = %(explanation)s
 where id = %(id)s and state in ('admitted', 'staging', 'sealed')
returning id, tier
