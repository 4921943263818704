-- name: state
-- Whether there is a run of the project, and what to prove of it.
select state::text, manifest_root is not null as sealed from mover.run where id = %(run)s;

-- name: run
-- The run and what was asked for.
select r.id, r.state::text, r.policy, r.tier, r.requested_by, r.posix_uid, r.selection_id, c.expression, r.manifest,
       r.manifest_root, r.created_at, r.ready_at, r.finished_at, r.cleaned_at, r.ready_proof, r.protected_proof,
       r.cleaned_proof
  from mover.run r left join mover.selection s on s.id = r.selection_id left join mover.cohort c on c.id = s.cohort_id
 where r.id = %(run)s;

-- name: slides
-- Slides with the digests of their files and the proofs of their packs that this project may see.
select s.number,
       array(select s.digest union select s.thumbnail_digest where s.thumbnail_digest is not null
             union select f.digest from mover.slide_file f where f.number = s.number) as digests,
       array(select p.verified_proof from mover.pack p where p.number = s.number and p.verified_proof is not null
              order by 1) as verified,
       array(select p.deidentified_proof from mover.pack p
              where p.number = s.number and p.deidentified_proof is not null order by 1) as deidentified,
       array(select q.id from mover.proof q where q.subject_id = s.number and q.kind = 'adopted' order by 1) as adopted
  from mover.slide s where s.number = any (%(numbers)s) order by s.number;

-- name: proofs
-- By id, in the order of the ids.
select id, kind::text, subject_id, count, bytes, root, verifier, at, details from mover.proof
 where id = any (%(ids)s) order by id;

-- name: proofs_of
-- Of the run, its snapshots and its slides' searches.
select id, kind::text, subject_id, count, bytes, root, verifier, at, details from mover.proof
 where subject_id = any (%(subjects)s) order by id;

-- name: batches
-- The batches in which these slides were decided, and their policies.
select distinct p.batch_id, b.policy from mover.pack p join mover.batch b on b.id = p.batch_id
 where p.number = any (%(numbers)s);

-- name: certificates
-- As they were issued.
select batch_id, digest, body from mover.certificate where batch_id = %(batch)s order by issued_at, digest;

-- name: policies
-- Every text that was ever loaded under these names, or of the kinds that judge identity: which was in force when, the
-- audit and `loaded_at` tell.
select name, digest, text, loaded_at from mover.policy
 where name = any (%(names)s) or kind in ('deid', 'protect', 'clean') order by name, loaded_at, digest;

-- name: snapshots
-- What was kept of the run.
select id, repository_id, tier, policy, state, files, bytes, recorded_at from mover.snapshot
 where run_id = %(run)s order by sequence;

-- name: checkpoints
-- Bodies as they stand on the tiers, in their order.
select body from mover.checkpoint where project_id = %(project)s and n > %(after)s and n <= %(upto)s
 order by n limit %(limit)s;

-- name: last_checkpoint
-- Its number, or 0.
select coalesce(max(n), 0) as n from mover.checkpoint where project_id = %(project)s;
