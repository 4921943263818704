-- name: remember
-- Bind a key to its transfer, in the transaction that makes the transfer.
insert into mover.idempotency (project_id, key, route, body_digest, subject_id)
values (%(project)s, %(key)s, 'POST /v1/transfers', %(body_digest)s, %(subject)s)
on conflict (project_id, key) do nothing
returning subject_id

-- name: remembered
-- The transfer an idempotency key already stands for.
select subject_id, body_digest from mover.idempotency where project_id = %(project)s and key = %(key)s

-- name: insert
-- A transfer begins by planning.
insert into mover.transfer (id, project_id, verb, sources, target, policy, request, created_by, asked_person)
values (%(id)s, %(project)s, %(verb)s, %(sources)s, %(target)s, %(policy)s, %(request)s, %(actor)s, %(person)s)

-- name: person
-- Whose word this is, by the proof of it.
select mover.person_of(%(proof)s, %(actor)s) as person

-- name: page
-- Newest first.
select * from mover.transfer where (%(after)s::text is null or id < %(after)s) order by id desc limit %(limit)s

-- name: codes
-- What failed or was refused, by kind.
select code, count(*) as count from mover.transfer_entry
 where transfer_id = %(id)s and state in ('failed', 'refused') group by code order by code

-- name: trouble
-- Why the work waits, if it waits for something to come back.
select s.error_code as code, s.error from mover.shard s
 where s.state in ('waiting', 'running') and s.error is not null
   and (s.subject_id = %(id)s or s.subject_id in (select id from mover.release where transfer_id = %(id)s))
 order by s.created_at limit 1

-- name: busy
-- Seconds in which something moved.
select busy_s + coalesce(extract(epoch from clock_timestamp() - busy_since), 0)::float8 as seconds
  from mover.transfer where id = %(id)s

-- name: again
-- What failed is tried again, with its tries counted anew.
with again as (update mover.transfer_entry set state = 'waiting', tries = 0, finished_at = null
                where transfer_id = %(id)s and state = 'failed' and code not in ('not-a-file', 'target-twice') returning 1)
select count(*) as entries from again

-- name: uncount_failed
-- Their counts with them.
update mover.transfer set failed_count = failed_count - %(count)s where id = %(id)s

-- name: report
-- One slice of the report, with what became of the source.
select e.id, e.at, e.source, e.target, e.kind, e.size_bytes, e.mtime_ns, e.state, e.digest, e.verified_at, e.shared,
       e.trusted_since, e.tries, coalesce(e.code, r.code) as code, coalesce(e.what, r.what) as what,
       r.state as release, r.trash
  from mover.transfer_entry e
  left join lateral (select x.state, x.trash, x.code, x.what from mover.release_entry x join mover.release y on y.id = x.release_id
                      where y.transfer_id = e.transfer_id and x.entry_id = e.id order by x.id desc limit 1) r on true
 where e.transfer_id = %(id)s and e.id > %(after)s order by e.id limit %(limit)s

-- name: last_of
-- The newest transfer of a policy.
select id, state, created_at from mover.transfer where policy = %(policy)s order by created_at desc limit 1
