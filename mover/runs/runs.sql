-- name: cleaning_left
-- Cleanup of this run that is still under way, and hooks behind it that did not succeed.
select (select count(*) from mover.shard
         where subject_id = %(run)s and kind in ('run-clean', 'run-after-clean') and state in ('waiting', 'running')) as open,
       (select count(*) from mover.run_hook
         where run_id = %(run)s and phase = 'after-clean' and state <> 'succeeded') as hooks

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
select id, project_id, tier, state::text from mover.run
 where id = %(id)s and state = 'ready' and lease_until < now() for update

-- name: clean_after
-- Nobody wants the run any more: it is cleaned as soon as it is protected.
update mover.run set clean_after = true where id = %(id)s
