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

-- name: insert_run
-- A run begins as requested.
insert into mover.run (id, project_id, selection_id, tier, policy, state, reason, explanation, offenders,
                       requested_by, posix_uid, posix_gid, layout, layout_label, shard_bytes, lease_s, priority, deadline,
                       like_id, wanted_files, wanted_bytes)
values (%(id)s, %(project)s, %(selection)s, %(tier)s, %(policy)s, %(state)s, %(reason)s, %(explanation)s,
        %(offenders)s, %(actor)s, %(uid)s, %(gid)s, %(layout)s, %(label)s, %(shard_bytes)s, %(lease_s)s, %(priority)s,
        %(deadline)s, %(like)s, %(files)s, %(bytes)s)

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

-- name: split
-- Did an earlier run have splits?
select 1 from mover.run_entry where run_id = %(run)s and split is not null limit 1

-- name: standing
-- Which of these digests stand on a tier.
select digest from mover.content where tier = %(tier)s and digest = any (%(digests)s)

-- name: tars
-- The tars of an earlier run.
select path, made_of, count, size_bytes from mover.run_tar where run_id = %(run)s order by path
