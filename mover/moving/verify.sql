-- name: insert
-- A verification begins by planning.
insert into mover.verification (id, project_id, tier, scope, prefix, run_id, policy, strangers, repair_from, limit_bytes,
                                created_by)
values (%(id)s, %(project)s, %(tier)s, %(scope)s, %(prefix)s, %(run)s, %(policy)s, %(strangers)s, %(repair_from)s,
        %(limit_bytes)s, %(actor)s)

-- name: insert_keys
-- The keys of a list, as they were asked for; the plan says what the catalog knows of them.
insert into mover.verification_entry (project_id, verification_id, key, source)
select %(project)s, %(id)s, k, 'list' from unnest(%(keys)s::bytea[]) with ordinality as u (k, n) order by n
on conflict (verification_id, key) do nothing

-- name: remember
-- Bind a key to its verification, in the transaction that makes it.
insert into mover.idempotency (project_id, key, route, body_digest, subject_id)
values (%(project)s, %(key)s, 'POST /v1/verifications', %(body_digest)s, %(subject)s)
on conflict (project_id, key) do nothing
returning subject_id

-- name: remembered
-- The verification an idempotency key already stands for.
select subject_id, body_digest from mover.idempotency where project_id = %(project)s and key = %(key)s

-- name: get
-- A verification as it stands.
select * from mover.verification where id = %(id)s

-- name: lock
-- A verification, held for a change of state or counts.
select * from mover.verification where id = %(id)s for no key update

-- name: page
-- Newest first.
select * from mover.verification where (%(after)s::text is null or id < %(after)s) order by id desc limit %(limit)s

-- name: run
-- Where a run's root stands, and how far the run has come.
select id, tier, state::text as state from mover.run where id = %(id)s

-- name: freeze_known
-- The work list of a tier, oldest proof first; of a share, up to so many bytes (always at least one entry).
with ranked as (
    select k.*, sum(k.size_bytes) over (order by k.verified_at nulls first, k.key) - k.size_bytes as before
      from mover.vouched(%(tier)s, %(prefix)s) k)
insert into mover.verification_entry (project_id, verification_id, key, source, subject, digest, size_bytes, mtime_ns, mark)
select %(project)s, %(id)s, key, source, subject, digest, size_bytes, mtime_ns, mark from ranked
 where %(limit_bytes)s::numeric is null or before < %(limit_bytes)s::numeric
 order by verified_at nulls first, key
on conflict (verification_id, key) do nothing

-- name: freeze_run
-- The work list of a run root: what its manifest says. Of files in tars the tars are read, whose digest was taken when
-- each file's own was proved.
insert into mover.verification_entry (project_id, verification_id, key, source, subject, digest, size_bytes)
select %(project)s, %(id)s, convert_to('runs/' || e.run_id || '/' || e.path, 'UTF8'), 'run', e.run_id, e.digest,
       e.size_bytes
  from (select run_id, path, digest, size_bytes from mover.run_entry where shard is null
         union all
        select run_id, path, digest, size_bytes from mover.run_tar) e where e.run_id = %(run)s order by e.path
on conflict (verification_id, key) do nothing

-- name: freeze_list
-- What the catalog knows of the keys of a list.
update mover.verification_entry v
   set digest = k.digest, size_bytes = k.size_bytes, mtime_ns = k.mtime_ns, mark = k.mark, subject = k.subject
  from mover.vouched(%(tier)s, ''::bytea) k
 where v.verification_id = %(id)s and v.key = k.key

-- name: measured
-- How much the plan found.
select count(*) as entries, coalesce(sum(size_bytes), 0)::bigint as bytes from mover.verification_entry
 where verification_id = %(id)s

-- name: total
-- How much the catalog vouches for.
select count(*) as entries, coalesce(sum(size_bytes), 0)::bigint as bytes from mover.vouched(%(tier)s, %(prefix)s)

-- name: planned
-- The work list stands.
update mover.verification set state = 'reading', entries = %(entries)s, bytes = %(bytes)s, started_at = now()
 where id = %(id)s

-- name: set_state
-- One step further, or the end.
update mover.verification
   set state = %(state)s, reason = %(reason)s, explanation = %(explanation)s,
       finished_at = case when %(state)s in ('complete', 'failed', 'aborted') then now() end
 where id = %(id)s

-- name: waiting
-- What is read next.
select id, key, source, subject, digest, size_bytes, mtime_ns, mark from mover.verification_entry
 where verification_id = %(id)s and state = 'waiting' order by id limit %(limit)s

-- name: settle
-- What was looked at, in order.
update mover.verification_entry e set state = o.state, finished_at = now()
  from unnest(%(ids)s::bigint[], %(states)s::text[]) as o (id, state)
 where e.id = o.id and e.state = 'waiting'

-- name: put_whole
-- What was read whole stands with its fingerprint and the time of this proof. In order of keys, so that nobody waits
-- for another in a circle.
insert into mover.entry (project_id, tier, key, kind, size_bytes, mtime_ns, mark, digest, verified_at)
select %(project)s, %(tier)s, o.key, 'file', o.size_bytes, o.mtime_ns, o.mark, o.digest, now()
  from unnest(%(keys)s::bytea[], %(digests)s::text[], %(sizes)s::bigint[], %(mtimes)s::bigint[], %(marks)s::text[])
       as o (key, digest, size_bytes, mtime_ns, mark)
 order by o.key
on conflict (project_id, tier, key) do update
   set kind = excluded.kind, size_bytes = excluded.size_bytes, mtime_ns = excluded.mtime_ns, mark = excluded.mark,
       digest = excluded.digest, verified_at = excluded.verified_at, gone_at = null

-- name: close_findings
-- What earlier readings found of these keys is over: whole again, or found again by this one.
update mover.verification_finding f set state = %(state)s
 where f.tier = %(tier)s and f.key = any (%(keys)s::bytea[]) and f.state = 'open' and f.verification_id <> %(id)s

-- name: find
-- One thing that is not as the catalog says.
insert into mover.verification_finding (id, project_id, verification_id, tier, key, kind, source, subject, expected, found,
                                        size_bytes, found_bytes, code, explanation)
values (%(finding)s, %(project)s, %(id)s, %(tier)s, %(key)s, %(kind)s, %(source)s, %(subject)s, %(expected)s, %(found)s,
        %(size_bytes)s, %(found_bytes)s, %(code)s, %(explanation)s)
on conflict (verification_id, key) do nothing

-- name: count
-- The verification's own counts, changed with its entries.
update mover.verification
   set checked_count = checked_count + %(checked)s, checked_bytes = checked_bytes + %(bytes)s,
       listed_count = listed_count + %(listed)s
 where id = %(id)s

-- name: known_keys
-- Which of these the catalog vouches for, whatever the project.
select key from mover.keys_known(%(tier)s, %(keys)s::bytea[], %(seen)s)

-- name: insert_strangers
-- Candidates of a listing; a restarted listing names them again.
insert into mover.verification_entry (project_id, verification_id, key, source, size_bytes)
select %(project)s, %(id)s, o.key, 'listing', o.size_bytes
  from unnest(%(keys)s::bytea[], %(sizes)s::bigint[]) as o (key, size_bytes)
on conflict (verification_id, key) do nothing

-- name: restart_listing
-- A listing that was cut begins again, and so does its count.
update mover.verification set listed_count = 0 where id = %(id)s

-- name: unrepaired
-- Findings that nobody has judged for repair yet, or whose repair was cut.
select * from mover.verification_finding
 where verification_id = %(id)s and state = 'open' and explanation is null order by id limit %(limit)s

-- name: unrepairable
-- Why it stays as it is.
update mover.verification_finding set explanation = %(explanation)s where id = %(finding)s and state = 'open'

-- name: quarantine
-- Where the damaged bytes will be: known before they are moved.
update mover.verification_finding set quarantine = %(quarantine)s where id = %(finding)s and state = 'open'

-- name: repaired
-- The bytes of the catalog stand there again, read back cold.
update mover.verification_finding
   set state = 'repaired', repaired_at = now(), repaired_from = %(copy_tier)s, explanation = %(explanation)s
 where id = %(finding)s and state = 'open'
returning id

-- name: unlocked
-- What was brought over is a new object, which no lock of the old one holds.
delete from mover.object_lock where tier = %(tier)s and key = %(key)s

-- name: second_copies
-- Keys of another tier under which the same bytes were verified.
select key from (
    select e.key, e.verified_at from mover.entry e
     where e.tier = %(tier)s and e.digest = %(digest)s and e.kind = 'file' and e.gone_at is null
    union all
    select convert_to(s.key, 'UTF8'), null from mover.slide s where s.tier = %(tier)s and s.digest = %(digest)s
    union all
    select convert_to(f.key, 'UTF8'), null from mover.slide_file f where f.tier = %(tier)s and f.digest = %(digest)s
    union all
    select %(key)s::bytea, null  -- both copies of a slide stand under the same keys
     where exists (select from mover.slide s where s.number = %(subject)s and s.tier = %(tier)s)
        or exists (select from mover.slide_copy y
                    where y.number = %(subject)s and y.tier = %(tier)s and y.state = 'whole')) c
 order by verified_at desc nulls last limit %(limit)s

-- name: counts
-- Findings of a verification by kind and state.
select kind, state, count(*) as count from mover.verification_finding where verification_id = %(id)s group by kind, state

-- name: open
-- The damage that stands, by tier and kind.
select tier, kind, count(*) as count from mover.verification_finding where state = 'open' group by tier, kind

-- name: findings
-- In the order in which they were found.
select f.* from mover.verification_finding f
 where f.verification_id = %(id)s and (%(after)s::text is null or f.id > %(after)s) order by f.id limit %(limit)s

-- name: report
-- One slice of the report: every entry that was looked at, with what was found of it.
select e.id, e.key, e.source, e.subject, e.digest, e.size_bytes, e.state, e.finished_at,
       f.kind, f.state as finding, f.found, f.found_bytes, f.code, f.explanation, f.quarantine, f.repaired_from
  from mover.verification_entry e
  left join mover.verification_finding f on f.verification_id = e.verification_id and f.key = e.key
 where e.verification_id = %(id)s and e.id > %(after)s order by e.id limit %(limit)s

-- name: trouble
-- Why the work waits, if it waits for something to come back.
select error_code as code, error from mover.shard
 where subject_id = %(id)s and state in ('waiting', 'running') and error is not null order by created_at limit 1

-- name: last_of
-- The newest verification of a policy, and since when its policy is known.
select (select extract(epoch from now() - max(created_at))::float8 from mover.verification where policy = %(policy)s) as age_s,
       (select count(*) from mover.verification
         where policy = %(policy)s and state not in ('complete', 'failed', 'aborted')) as running,
       (select extract(epoch from now() - min(loaded_at))::float8 from mover.policy where name = %(declared)s) as known_s

-- name: prune
-- Lines of old reports about what was whole; findings stay for ever.
delete from mover.verification_entry
 where id in (select e.id from mover.verification_entry e join mover.verification v on v.id = e.verification_id
               where v.finished_at < now() - make_interval(days => %(days)s) and e.state in ('whole', 'known')
               order by e.verification_id, e.id limit %(limit)s)

-- name: lock_policy
-- Of many daemons that look at one policy, one begins.
select pg_advisory_xact_lock(hashtextextended('mover.verification:' || %(project)s || ':' || %(policy)s, 0))

-- name: run_total
-- How much a run root holds.
select count(*) as entries, coalesce(sum(size_bytes), 0)::bigint as bytes
  from (select run_id, size_bytes from mover.run_entry where shard is null
         union all
        select run_id, size_bytes from mover.run_tar) e where run_id = %(run)s
