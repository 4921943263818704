-- name: remember
-- Bind a key to its run, in the transaction that makes the run.
insert into mover.idempotency (project_id, key, route, body_digest, subject_id)
values (%(project)s, %(key)s, %(route)s, %(body_digest)s, %(subject)s)
on conflict (project_id, key) do nothing
returning subject_id

-- name: remembered
-- The run an idempotency key already stands for.
select subject_id, body_digest from mover.idempotency where project_id = %(project)s and key = %(key)s

-- name: cohort
-- A cohort by id, name@version, or name (its newest version).
select id, expression from mover.cohort
 where id = %(ref)s or (name = %(name)s and (%(version)s::integer is null or version = %(version)s))
 order by version desc limit 1

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
