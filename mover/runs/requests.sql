-- name: remembered
-- The run an idempotency key already stands for.
select i.subject_id, i.body_digest, r.state::text from mover.idempotency i join mover.run r on r.id = i.subject_id
 where i.project_id = %(project)s and i.key = %(key)s

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

-- name: places
-- Where the slides of a selection stand.
select l.block, l.offsets from mover.selection s join mover.selection_list l on l.project_id = s.project_id and l.root = s.root
 where s.id = %(selection)s order by l.block

-- name: selected
-- Every file of every slide at these places, with what the layout needs; a slide's main file, which has no name, first.
select f.number, s.extension, f.name, s.files_count > 0 as several, f.size_bytes, f.digest, f.tier, f.key, a.facts,
       c.digest is not null as standing
  from mover.slide_place p
  join mover.slide s using (number)
  join lateral (select s.number, null as name, s.size_bytes, s.digest, s.tier, s.key
                union all
                select number, name, size_bytes, digest, tier, key from mover.slide_file where number = s.number) f on true
  left join mover.aligned a on a.number = s.number
  left join mover.content c on c.tier = %(tier)s and c.digest = f.digest
 where p.place = any (%(places)s)
 order by f.number, f.name collate "C" nulls first

-- name: insert_run
-- A run begins as requested.
insert into mover.run (id, project_id, selection_id, tier, policy, state, reason, explanation, offenders,
                       requested_by, posix_uid, posix_gid, layout, layout_label, shard_bytes, lease_s, priority, deadline,
                       like_id, wanted_files, wanted_bytes)
values (%(id)s, %(project)s, %(selection)s, %(tier)s, %(policy)s, %(state)s, %(reason)s, %(explanation)s,
        %(offenders)s, %(actor)s, %(uid)s, %(gid)s, %(layout)s, %(label)s, %(shard_bytes)s, %(lease_s)s, %(priority)s,
        %(deadline)s, %(like)s, %(files)s, %(bytes)s)

-- name: insert_entries
-- Files the run root will hold.
insert into mover.run_entry (project_id, run_id, path, number, split, size_bytes, digest, archive_tier, archive_key,
                             shard, shard_offset)
select (select mover.current_project()), %(run)s, e.* from jsonb_to_recordset(%(rows)s)
    as e (path text, number text, split text, size_bytes bigint, digest text, archive_tier text, archive_key text,
          shard text, shard_offset bigint)

-- name: insert_tars
-- Tars the files will stand in.
insert into mover.run_tar (project_id, run_id, path, made_of, count, size_bytes)
select (select mover.current_project()), %(run)s, t.* from jsonb_to_recordset(%(rows)s)
    as t (path text, made_of text, count integer, size_bytes bigint)

-- name: made
-- Which of these tars stand on a tier.
select made_of from mover.content where tier = %(tier)s and made_of = any (%(made_of)s)

-- name: unstageable
-- Slides of an earlier run that no run may take any more, and why: withdrawn, removed for good, or without a whole copy
-- as far as the last reading of each tier says.
select distinct e.number,
       case when w.number is null then 'archive-lost' when w.removed_at is null then 'quarantined' else 'removed' end as why
  from mover.run_entry e left join mover.slide_withdrawal w using (number)
 where e.run_id = %(run)s and e.number is not null
   and (w.number is not null or not exists (
        select from (select e.archive_tier as tier
                      union all
                     select c.tier from mover.slide_copy c where c.number = e.number and c.state = 'whole') t
         where not exists (select from mover.verification_finding f
                            where f.tier = t.tier and f.key = convert_to(e.archive_key, 'UTF8') and f.state = 'open')))
 order by e.number

-- name: repeated
-- The files of an earlier run, each where it lay.
select path, number, split, size_bytes, digest, archive_tier, archive_key, shard, shard_offset from mover.run_entry
 where run_id = %(run)s and number is not null order by path

-- name: tars
-- And its tars, each made of the same.
select path, made_of, count, size_bytes from mover.run_tar where run_id = %(run)s order by path

-- name: splits
-- Which split each slide of an earlier run was in.
select distinct number, split from mover.run_entry where run_id = %(run)s and split is not null
