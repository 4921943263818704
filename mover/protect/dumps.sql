-- name: lock_policy
-- One daemon at a time decides whether a dump is due; released at the commit.
select pg_advisory_xact_lock(hashtextextended('mover dump ' || %(policy)s, 0))

-- name: newest
-- The newest dump of a policy, whatever became of it, and the server's clock.
select d.*, now() as now from (select now()) as t
  left join lateral (select * from mover.dump where policy = %(policy)s and state <> 'gone'
                      order by sequence desc limit 1) as d on true

-- name: insert
-- A dump is to be made.
insert into mover.dump (id, project_id, policy, why, created_by)
values (%(id)s, %(project)s, %(policy)s, %(why)s, %(by)s)
on conflict (project_id, policy) where state = 'making' do nothing
returning id

-- name: making
-- The one of a policy that is being made.
select id from mover.dump where policy = %(policy)s and state = 'making'

-- name: get
-- One dump.
select * from mover.dump where id = %(id)s

-- name: lock
-- One dump, held for a change of state.
select * from mover.dump where id = %(id)s for update

-- name: page
-- Newest first.
select * from mover.dump order by sequence desc limit %(limit)s

-- name: copies
-- Where dumps stand.
select * from mover.dump_copy where dump_id = any (%(ids)s) order by dump_id, tier

-- name: drills
-- Newest drills of dumps first.
select * from mover.dump_drill where dump_id = any (%(ids)s) order by started_at desc limit %(limit)s

-- name: trouble
-- What keeps the work on a dump waiting, if something does.
select error_code as code, error from mover.shard
 where subject_id = %(id)s and state in ('waiting', 'running') and error is not null order by created_at limit 1

-- name: taken
-- What the first copy holds and under which digest; the second is made from it.
update mover.dump set taken_at = %(taken_at)s, pair = %(pair)s, digest = %(digest)s, size_bytes = %(size_bytes)s,
       newest_migration = %(schema)s, facts = %(facts)s where id = %(id)s and state = 'making'

-- name: copied
-- A copy was read back cold and is whole.
insert into mover.dump_copy (project_id, dump_id, tier, key) values (%(project)s, %(dump)s, %(tier)s, %(key)s)
on conflict (dump_id, tier) do update set key = excluded.key, state = 'whole', read_at = now()

-- name: read
-- A copy was read again: whole, or not.
update mover.dump_copy set state = %(state)s, read_at = case when %(state)s = 'whole' then now() else read_at end
 where dump_id = %(dump)s and tier = %(tier)s

-- name: verified
-- Two whole copies and a proof.
update mover.dump set state = 'verified', proof = %(proof)s, verified_at = now(), reason = null, explanation = null
 where id = %(id)s and state = 'making'

-- name: fail
-- It could not be made.
update mover.dump set state = 'failed', reason = %(reason)s, explanation = %(explanation)s
 where id = %(id)s and state = 'making'

-- name: damaged
-- A copy is not what was written.
update mover.dump set state = 'damaged', reason = 'digest-mismatch', explanation = %(explanation)s
 where id = %(id)s and state in ('verified', 'damaged')

-- name: standing
-- Dumps of a policy that stand, oldest record last.
select id, sequence, state, started_at, taken_at from mover.dump
 where policy = %(policy)s and state in ('verified', 'damaged') order by sequence desc

-- name: reasons
-- Why a dump stays or goes.
update mover.dump set reasons = %(reasons)s where id = %(id)s

-- name: gone
-- No copy of it stands any more.
update mover.dump set state = 'gone', gone_at = now() where id = %(id)s

-- name: copy_gone
-- A copy was removed.
update mover.dump_copy set state = 'gone' where dump_id = %(dump)s and tier = %(tier)s

-- name: drill_due
-- The newest verified dump of a policy that no drill has looked at for so long.
select d.id from mover.dump d
 where d.policy = %(policy)s and d.state = 'verified'
   and not exists (select from mover.dump_drill r where r.passed is null and r.dump_id = d.id)
   and not exists (select from mover.dump_drill r join mover.dump o on o.id = r.dump_id
                    where o.policy = %(policy)s and r.started_at > now() - make_interval(secs => %(every_s)s))
   and d.verified_at < now() - least(make_interval(secs => %(every_s)s), interval '1 hour')
 order by d.sequence desc limit 1

-- name: begin_drill
-- A drill begins.
insert into mover.dump_drill (id, project_id, dump_id, kind, created_by)
values (%(id)s, %(project)s, %(dump)s, %(kind)s, %(by)s)

-- name: drill
-- One drill.
select * from mover.dump_drill where id = %(id)s

-- name: end_drill
-- What the drill found.
update mover.dump_drill
   set passed = %(passed)s, kind = %(kind)s, explanation = %(explanation)s, tables = %(tables)s,
       row_count = %(rows)s, seconds = %(seconds)s, finished_at = now()
 where id = %(id)s and passed is null

-- name: drilled
-- The dump was drilled.
update mover.dump set drilled_at = now() where id = %(id)s
