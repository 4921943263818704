-- name: causes
-- What waits, by cause; the most frequent first.
select p.cause, p.reason as code, p.kind, min(p.explanation) as explanation, count(*) as count,
       coalesce(sum(p.size_bytes), 0)::bigint as bytes, count(distinct p.batch_id) as batches,
       min(p.updated_at) as since, (array_agg(p.id order by p.id))[1:5] as packs,
       array_agg(distinct b.policy) as policies
  from mover.pack p join mover.batch b on b.id = p.batch_id
 where p.state = 'quarantined' and p.cause is not null and (%(batch)s::text is null or p.batch_id = %(batch)s)
   and (%(cause)s::text is null or p.cause = %(cause)s)
 group by p.cause, p.reason, p.kind order by count(*) desc, p.cause

-- name: unlearned
-- Packs that were held back before there were causes, or by something that does not know them.
select id, reason, explanation, kind from mover.pack where state = 'quarantined' and cause is null
 order by id limit %(limit)s for update skip locked

-- name: learn
-- The cause of such a pack.
update mover.pack set cause = %(cause)s where id = %(id)s and state = 'quarantined'

-- name: held_records
-- Sets of tables that wait and that no newer set of their batch took the place of, the newest first.
select r.id, r.policy, r.reason, r.explanation, r.batch_id, r.finished_at, r.created_at, b.tier,
       b.state as batch_state
  from mover.record_set r join mover.batch b on b.id = r.batch_id
 where r.state = 'quarantined'
   and not exists (select from mover.record_set n where n.batch_id = r.batch_id and n.version > r.version)
 order by r.created_at desc limit %(limit)s

-- name: retry_records
-- A set of tables is matched again, or waits for its batch.
update mover.record_set set state = 'waiting-for-images', reason = null, explanation = null, finished_at = null
 where id = any(%(ids)s) and state = 'quarantined'

-- name: page
-- Packs of a cause by id.
select id from mover.pack where state = 'quarantined' and cause = %(cause)s and id > %(after)s order by id limit %(limit)s

-- name: lock_batches
-- The batches that packs of a cause wait in, held in one order.
select id, tier, policy, state, found_count, missing_count from mover.batch
 where id in (select batch_id from mover.pack where state = 'quarantined' and cause = %(cause)s
                 and (%(packs)s::text[] is null or id = any(%(packs)s)))
 order by id for update

-- name: lock_batches_of_rule
-- The batches that packs wait in which a decision keeps out.
select id, tier, policy, state, found_count, missing_count from mover.batch
 where id in (select batch_id from mover.pack where rule_id = %(rule)s and state = 'excluded') order by id for update

-- name: exclude
-- Out by a decision: the packs stay where they are, with their reason.
update mover.pack set state = 'excluded', rule_id = %(rule)s, updated_at = now()
 where state = 'quarantined' and cause = %(cause)s and batch_id = %(batch)s
   and (%(packs)s::text[] is null or id = any(%(packs)s))

-- name: release
-- Back to the walk, which judges anew; `waive` is what it need not ask for any more.
update mover.pack
   set state = 'found', reason = null, explanation = null, cause = null, rule_id = %(rule)s, updated_at = now(),
       waived = case when %(waive)s::text is null or %(waive)s = any(waived) then waived
                     else waived || %(waive)s::text end
 where state = 'quarantined' and cause = %(cause)s and batch_id = %(batch)s
   and (%(packs)s::text[] is null or id = any(%(packs)s))
   and (%(unlike)s::text is null or judged_by is distinct from %(unlike)s)

-- name: readmit
-- A decision is revoked: what it kept out waits for a person again.
update mover.pack set state = 'quarantined', rule_id = null, updated_at = now()
 where state = 'excluded' and rule_id = %(rule)s and batch_id = %(batch)s

-- name: waiting
-- How many packs of a cause wait now.
select count(*) as count from mover.pack where state = 'quarantined' and cause = %(cause)s
   and (%(packs)s::text[] is null or id = any(%(packs)s))

-- name: undecided
-- Packs of a batch that no round has finished.
select count(*) as count from mover.pack where batch_id = %(batch)s and state = 'found'

-- name: walk_again
-- A batch that ended goes on with what was released.
update mover.batch set state = 'declared', explanation = null where id = %(id)s and state in ('complete', 'failed')

-- name: differ
-- Packs that nobody declared are decided about: they make the batch incomplete no more (or again).
update mover.batch set missing_count = greatest(0, missing_count + %(by)s) where id = %(id)s

-- name: supersede
-- A new standing decision takes the place of the one before.
update mover.quarantine_rule set revoked_by = %(actor)s, revoked_at = now(), revoked_reason = 'decided anew'
 where cause = %(cause)s and standing and revoked_at is null

-- name: insert_rule
-- The decision, as the next version for its cause.
insert into mover.quarantine_rule (id, project_id, cause, version, action, standing, code, kind, words, reason, packs,
                                   decided_by, proposal_id)
select %(id)s, %(project)s, %(cause)s,
       1 + coalesce((select max(version) from mover.quarantine_rule where cause = %(cause)s), 0),
       %(action)s, %(standing)s, %(code)s, %(kind)s, %(words)s, %(reason)s, 0, %(actor)s, %(proposal)s

-- name: decided
-- How many packs the decision was about at once.
update mover.quarantine_rule set packs = %(packs)s where id = %(id)s

-- name: revoke
-- From now on the decision holds no more.
update mover.quarantine_rule set revoked_by = %(actor)s, revoked_at = now(), revoked_reason = %(reason)s
 where id = %(id)s and revoked_at is null
returning id

-- name: rule
-- One decision.
select r.*, g.decided_by as confirmed_by,
       (select count(*) from mover.pack p where p.rule_id = r.id and p.state = 'excluded') as excluded
  from mover.quarantine_rule r left join mover.quarantine_proposal g on g.id = r.proposal_id
 where r.id = %(id)s

-- name: rules
-- The decisions, the newest first.
select r.*, g.decided_by as confirmed_by,
       (select count(*) from mover.pack p where p.rule_id = r.id and p.state = 'excluded') as excluded
  from mover.quarantine_rule r left join mover.quarantine_proposal g on g.id = r.proposal_id
 where not %(standing)s or (r.standing and r.revoked_at is null)
 order by r.decided_at desc, r.id desc limit %(limit)s

-- name: propose
-- One person's half of a decision; the same again is the same.
select mover.quarantine_propose(%(id)s, %(cause)s, %(action)s, %(standing)s, %(packs)s::text[], %(code)s, %(kind)s,
                                %(words)s, %(waiting)s, %(reason)s, %(proof)s, %(actor)s, %(node)s) as id

-- name: review
-- The other's word.
select mover.quarantine_review(%(id)s, %(confirm)s, %(reason)s, %(proof)s, %(actor)s, %(node)s)

-- name: proposal
-- One proposal, and what it became.
select g.*, now() as now, r.id as rule from mover.quarantine_proposal g
  left join mover.quarantine_rule r on r.proposal_id = g.id where g.id = %(id)s

-- name: proposals
-- Newest first; with `open` only those that wait for a second person.
select g.*, now() as now, r.id as rule from mover.quarantine_proposal g
  left join mover.quarantine_rule r on r.proposal_id = g.id
 where not %(open)s or (g.state = 'open' and g.lapses_at > now())
 order by g.proposed_at desc, g.id desc limit %(limit)s
