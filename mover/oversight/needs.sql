-- name: facts
-- What of this project waits for a person, counted; each from an index, or from rows that are few.
select 'packs-quarantined' as code, count(*) as count, null as subject, min(updated_at) as since, '' as tier
  from mover.pack where state = 'quarantined'
union all
select 'batch-failed', count(*), min(id), min(created_at), '' from mover.batch where state = 'failed'
union all
select 'records-quarantined', count(*), min(id), min(created_at), '' from mover.record_set r
 where state = 'quarantined'
   and not exists (select from mover.record_set n where n.batch_id = r.batch_id and n.version > r.version)
union all
-- slides that a batch published after its newest tables were matched: no row of them was asked for these
select 'facts-missing', count(*), min(r.id), min(b.finished_at), '' from mover.record_set r join mover.batch b on b.id = r.batch_id
 where r.state = 'aligned' and b.state = 'complete' and b.finished_at > r.finished_at
   and not exists (select from mover.record_set n where n.batch_id = r.batch_id and n.version > r.version)
   and exists (select from mover.pack p join mover.slide s using (number)
                where p.batch_id = r.batch_id and p.state = 'published' and s.created_at > r.finished_at)
union all
select 'run-failed', count(*), min(id), min(created_at), '' from mover.run where state = 'failed'
union all
select 'run-unprotected', count(*), min(id), min(ready_at), '' from mover.run where state = 'ready' and reason is not null
union all
select 'lease-ending', count(*), min(id), min(lease_until), '' from mover.run
 where state = 'ready' and lease_until < now() + interval '1 hour'
union all
select 'shortening-asked', count(*), min(id), min(requested_at), '' from mover.protect_request
 where approved_at is null and withdrawn_at is null and lapses_at > now()
union all
select 'policy-asked', count(*), min(id), min(requested_at), '' from mover.policy_change
 where agreed_at is null and withdrawn_at is null and lapses_at > now()
union all
select 'loss-asked', count(*), min(id), min(asked_at), '' from mover.audit_restore
 where approved_at is null and lapses_at > now()
union all
select 'retirement-asked', count(*), min(id), min(asked_at), '' from mover.audit_retirement
 where approved_at is null and lapses_at > now()
union all
select 'quarantine-asked', count(*), min(cause), min(proposed_at), '' from mover.quarantine_proposal
 where state = 'open' and lapses_at > now()
union all
select 'ruling-asked', count(*), min(id), min(asked_at), '' from mover.slide_ruling where state = 'asked'
union all
select 'transfer-waits', count(*), min(id), min(created_at), '' from mover.transfer where state = 'waiting'
union all
select 'damage-found', count(*), min(verification_id), min(at), tier from mover.verification_finding
 where state = 'open' and kind <> 'stranger' group by tier
union all
select 'snapshot-missing', count(*), min(id), min(missing_at), '' from mover.snapshot
 where missing_at is not null and state in ('written', 'checked', 'trashed')
union all
select 'snapshot-doubted', count(*), min(id), min(recorded_at), '' from mover.snapshot
 where doubt is not null and state in ('written', 'checked')
union all
select 'folder-unprotected', count(*), min(id), min(started_at), '' from mover.protected_folder where reason is not null
union all
select 'work-failed', count(*), min(subject_id), min(finished_at), '' from mover.shard
 where state = 'failed' and finished_at > now() - interval '7 days'
union all
select 'work-retried', count(*), min(subject_id), min(created_at), '' from mover.shard
 where state in ('waiting', 'running') and failures >= 3
union all
select 'scan-incomplete', 1, id, finished_at, tier from (
    select distinct on (tier) id, tier, state, finished_at from mover.scan
     where finished_at is not null order by tier, number desc) newest
 where state in ('incomplete', 'failed')
