-- name: get
-- A run as it stands, without its manifest, which may have 250 MB.
select id, project_id, selection_id, tier, policy, state::text, reason, explanation, offenders, requested_by, posix_uid,
       posix_gid, layout, layout_label, shard_bytes, like_id, manifest_root, identity, finish, clean_after, created_at,
       admitted_at, ready_at, finished_at, ready_proof, protected_proof
  from mover.run where id = %(id)s

-- name: lock
-- The run is held for a change of state.
select id from mover.run where id = %(id)s for update

-- name: manifest
-- A piece of the sealed manifest, and how long it is. Nothing of it is there before `ready`.
select state::text, manifest_root is not null as sealed, length(manifest) as length,
       substr(manifest, %(first)s, %(most)s) as piece
  from mover.run where id = %(run)s

-- name: set_state
-- Move along the lifecycle table; the caller has checked the step.
update mover.run set state = %(state)s::mover.run_state, reason = %(reason)s, explanation = %(explanation)s
 where id = %(id)s

-- name: entries
-- Every entry of a run, in the manifest's order.
select * from mover.run_entry where run_id = %(run)s order by path collate "C"

-- name: tars
-- The tars of a run, in the manifest's order.
select * from mover.run_tar where run_id = %(run)s order by path collate "C"

-- name: expression
-- The expression a selection was frozen from.
select expression from mover.selection where id = %(selection)s

-- name: hold_staging
-- A run that is staged, and stays so until the commit.
select id from mover.run where id = %(id)s and state = 'staging' for share

-- name: withdrawn
-- Slides of a run, or of some of its entries or tars, that were withdrawn since it was asked for.
select distinct e.number from mover.run_entry e join mover.slide_withdrawal w using (number)
 where e.run_id = %(run)s and (%(paths)s::text[] is null or e.path = any (%(paths)s) or e.shard = any (%(paths)s))
 order by e.number
