-- name: add
-- New shards wait; the notification wakes feeders when the transaction commits.
insert into mover.shard (id, project_id, queue, kind, subject_id, members, priority)
select s.id, %(project)s, s.queue, s.kind, s.subject_id,
       array(select m.member from jsonb_array_elements_text(s.members) with ordinality m (member, at) order by m.at),
       s.priority
  from jsonb_to_recordset(%(shards)s)
    as s (id text, queue text, kind text, subject_id text, members jsonb, priority integer)

-- name: wake
-- Tell every feeder that something may be due.
select pg_notify('mover_shards', '')

-- name: claim
-- Take a due shard: the epoch rises, so whoever held it before can no longer finish it.
update mover.shard
   set state = 'running', epoch = epoch + 1, claims = claims + 1, holder = %(holder)s,
       lease_until = now() + make_interval(secs => %(lease_s)s)
 where id = %(id)s
   and ((state = 'waiting' and not_before <= now()) or (state = 'running' and lease_until < now()))
returning id, project_id, queue, kind, subject_id, members, epoch, claims, failures

-- name: renew
-- Hold on to a shard while it is worked on; no row means somebody else has it now.
update mover.shard set lease_until = now() + make_interval(secs => %(lease_s)s)
 where id = %(id)s and epoch = %(epoch)s and state = 'running'
returning id

-- name: hold
-- A sign of life between two transactions; the row says whether it is still needed.
update mover.shard
   set lease_until = case state when 'running' then now() + make_interval(secs => %(lease_s)s) end
 where id = %(id)s and epoch = %(epoch)s and state in ('running', 'done')
returning state = 'running' as held

-- name: finish
-- Done, if this worker still holds the shard.
update mover.shard set state = 'done', lease_until = null, finished_at = now(), error = null, error_code = null
 where id = %(id)s and epoch = %(epoch)s and state = 'running'
returning id

-- name: put_back
-- Try again later, keeping what went wrong.
update mover.shard
   set state = 'waiting', lease_until = null, failures = failures + 1, error_code = %(code)s, error = %(error)s,
       not_before = now() + make_interval(secs => %(delay_s)s)
 where id = %(id)s and epoch = %(epoch)s and state = 'running'
returning id

-- name: postpone
-- Nothing was tried: the same claim comes again later.
update mover.shard
   set state = 'waiting', lease_until = null, claims = claims - 1, not_before = now() + make_interval(secs => %(delay_s)s),
       error_code = coalesce(%(code)s::text, error_code), error = coalesce(%(error)s::text, error)
 where id = %(id)s and epoch = %(epoch)s and state = 'running'
returning id

-- name: fail
-- Give up; the workflow's own failure follows in the same transaction.
update mover.shard
   set state = 'failed', lease_until = null, failures = failures + 1, error_code = %(code)s, error = %(error)s,
       finished_at = now()
 where id = %(id)s and epoch = %(epoch)s and state = 'running'
returning id

-- name: siblings_open
-- Shards of the same subject and kind that are not finished, this one left out.
select count(*) as open from mover.shard
 where subject_id = %(subject)s and kind = %(kind)s and id <> %(id)s and state in ('waiting', 'running')

-- name: others_running
-- Shards of the same subject that a worker holds, or held when it died.
select count(*) as running from mover.shard
 where subject_id = %(subject)s and id <> %(id)s and state = 'running'

-- name: cancel
-- What has not begun need not begin.
update mover.shard set state = 'cancelled', finished_at = now()
 where subject_id = %(subject)s and state = 'waiting'

-- name: due
-- Shards that want a worker on these queues, most urgent first, whatever their project.
select shard_id, project_id, queue, priority from mover.shards_due(%(queues)s, %(limit)s)

-- name: void_leases
-- An earlier process of this node is dead (we hold its lock): what it held is due now.
select mover.void_leases(%(node)s, %(holder)s) as voided
