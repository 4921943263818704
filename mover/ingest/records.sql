-- name: lock_batch
-- Declaring, completing and aligning of one batch happen one after the other.
select id, tier, state, finished_at from mover.batch where id = %(id)s for update;

-- name: get
-- One record set.
select r.id, r.batch_id, r.policy, r.version, r.state, r.reason, r.source, r.content, r.created_by, r.created_at,
       r.finished_at, r.report,
       coalesce(r.explanation, case when r.state = 'waiting-for-images' and b.state = 'failed'
                                    then 'its batch failed; declare the batch again' end) as explanation
  from mover.record_set r join mover.batch b on b.id = r.batch_id where r.id = %(id)s;

-- name: page
-- The newest record sets of the project, or of one batch, from where the page before ended.
select r.id, r.batch_id, r.policy, r.version, r.state, r.reason, r.created_at, r.finished_at, r.report,
       coalesce(r.explanation, case when r.state = 'waiting-for-images' and b.state = 'failed'
                                    then 'its batch failed; declare the batch again' end) as explanation
  from mover.record_set r join mover.batch b on b.id = r.batch_id
 where (%(batch)s::text is null or r.batch_id = %(batch)s) and (%(after)s::text is null or r.id < %(after)s)
 order by r.id desc limit %(limit)s;

-- name: newest_of_content
-- The newest set of this batch that was made from the same bytes under the same policy.
select id, state, reason, finished_at from mover.record_set
 where batch_id = %(batch)s and content = %(content)s order by version desc limit 1;

-- name: declare
-- The next version of the batch's tables; they wait for its images.
insert into mover.record_set (id, project_id, batch_id, policy, version, source, content, created_by)
select %(id)s, %(project)s, %(batch)s, %(policy)s,
       1 + coalesce((select max(version) from mover.record_set where batch_id = %(batch)s), 0),
       %(source)s, %(content)s, %(actor)s;

-- name: begin
-- Matching begins, or begins again after a crash.
update mover.record_set set state = 'matching' where id = %(id)s and state in ('waiting-for-images', 'matching');

-- name: wait
-- The batch was opened again meanwhile: the tables wait for its new images.
update mover.record_set set state = 'waiting-for-images' where id = %(id)s and state = 'matching';

-- name: images
-- The images of a batch in their lasting order; the name of each is sealed. A slide that was withdrawn has no number
-- here: its pack waits in quarantine, and rows that speak of it are late.
select id, entry,
       case when exists (select from mover.slide_withdrawal w where w.number = pack.number) then null else number end
         as number from mover.pack where batch_id = %(batch)s order by id limit %(limit)s;

-- name: newer_aligned
-- Was a newer version of this batch's tables aligned already?
select exists (select from mover.record_set
                where batch_id = %(batch)s and version > %(version)s and state = 'aligned') as newer;

-- name: align
-- The proof stands, so the state may.
update mover.record_set set state = 'aligned', aligned_proof = %(proof)s, report = %(report)s, finished_at = now(),
       reason = null, explanation = null
 where id = %(id)s and state = 'matching';

-- name: quarantine
-- A table may not pass: nothing of the set was used.
update mover.record_set set state = 'quarantined', reason = %(reason)s, explanation = %(explanation)s,
       finished_at = now()
 where id = %(id)s and state in ('waiting-for-images', 'matching');

-- name: waiting_of_policy
-- Sets that wait and that no newer set of their batch took the place of, the newest first.
select r.id, r.batch_id, r.source from mover.record_set r
 where r.state = 'quarantined' and r.policy = %(policy)s
   and not exists (select from mover.record_set n where n.batch_id = r.batch_id and n.version > r.version)
 order by r.created_at desc limit %(limit)s;

-- name: due_again
-- Such sets that a column was refused of, before their policy became another on this node; of policies `here`.
select r.id, r.batch_id, r.source, r.policy from mover.record_set r
 where r.state = 'quarantined' and r.reason = 'place-unknown'
   and not exists (select from mover.record_set n where n.batch_id = r.batch_id and n.version > r.version)
   and exists (select from mover.policy_stand s where s.node = %(node)s and s.name = r.policy and s.digest is not null
                  and s.at > r.finished_at)
   and r.policy = any(%(here)s) and r.id > %(after)s
 order by r.id limit %(limit)s;

-- name: seen_again
-- Nothing came of its policy's change.
update mover.record_set set finished_at = now() where id = %(id)s and state = 'quarantined';
