-- name: declare
-- A folder is one batch per project and tier, however often it is declared.
insert into mover.batch (id, project_id, tier, policy, folder, expected_count, expected_list, created_by)
values (%(id)s, %(project)s, %(tier)s, %(policy)s, %(folder)s, %(expected_count)s, %(expected_list)s, %(actor)s)
on conflict (project_id, tier, folder) do nothing
returning id

-- name: by_folder
-- The batch a folder already is, held for a change of state.
select * from mover.batch where tier = %(tier)s and folder = %(folder)s for update

-- name: declare_again
-- A batch that ended is walked again: what is published stays, what was quarantined is looked at anew.
update mover.batch set state = 'declared', expected_count = %(expected_count)s, expected_list = %(expected_list)s,
       explanation = null
 where id = %(id)s

-- name: reopen_packs
-- Quarantined packs of a batch that is declared again.
update mover.pack set state = 'found', reason = null, explanation = null, updated_at = now()
 where batch_id = %(batch)s and state = 'quarantined'

-- name: get
-- A batch as it stands.
select * from mover.batch where id = %(id)s

-- name: lock
-- A batch, held for a change of state.
select * from mover.batch where id = %(id)s for update

-- name: trouble
-- Why the work on a batch waits, if it waits for something to come back.
select error_code as code, error from mover.shard
 where subject_id = %(id)s and state in ('waiting', 'running') and error is not null order by created_at limit 1

-- name: page
-- Newest batches first.
select id from mover.batch where (%(after)s::text is null or id < %(after)s) order by id desc limit %(limit)s

-- name: counts
-- Packs by state and reason.
select state, reason, count(*) as count, coalesce(sum(size_bytes), 0)::bigint as bytes
  from mover.pack where batch_id = %(batch)s group by state, reason

-- name: walked
-- The walk is over; shards of packs follow.
update mover.batch set state = 'working', found_count = %(found)s, missing_count = %(missing)s where id = %(id)s

-- name: walking
-- A walk begins, or begins again after a crash; a batch that has got further is not taken back.
update mover.batch set state = 'walking' where id = %(id)s and state in ('declared', 'walking')
returning *

-- name: insert_pack
-- A pack found again is the same pack; one that waits in quarantine for a reason found by the walk stays so.
insert into mover.pack (id, project_id, batch_id, barcode, entry, state, reason, explanation, size_bytes)
values (%(id)s, %(project)s, %(batch)s, %(barcode)s, %(entry)s, %(state)s, %(reason)s, %(explanation)s, %(size_bytes)s)
on conflict (batch_id, barcode) do update
   set entry = excluded.entry, state = excluded.state, reason = excluded.reason, explanation = excluded.explanation,
       size_bytes = excluded.size_bytes, updated_at = now()
 where mover.pack.state = 'found'

-- name: found_packs
-- Packs that want work.
select id, size_bytes from mover.pack where batch_id = %(batch)s and state = 'found' order by size_bytes desc, id

-- name: members
-- The packs of a shard that want work.
select id, entry, size_bytes from mover.pack where id = any(%(ids)s) and state = 'found' order by id

-- name: all_packs
-- Every pack of a batch with its outcome, for the proof of completeness.
select id, state, reason, number, size_bytes from mover.pack where batch_id = %(batch)s order by id

-- name: lock_undecided
-- A pack that has no outcome yet, held until it has one.
select id from mover.pack where id = %(id)s and state = 'found' for update

-- name: quarantine
-- A pack waits for a person, with a reason.
update mover.pack set state = 'quarantined', reason = %(reason)s, explanation = %(explanation)s, family = %(family)s,
       seconds = %(seconds)s, updated_at = now()
 where id = %(id)s and state = 'found'

-- name: publish
-- Both proofs stand: the pack is a slide.
update mover.pack set state = 'published', number = %(number)s, family = %(family)s, decisions = %(decisions)s,
       seconds = %(seconds)s, verified_proof = %(verified)s, deidentified_proof = %(deidentified)s, updated_at = now()
 where id = %(id)s and state = 'found'

-- name: duplicate
-- The same scan again: one number, one slide.
update mover.pack set state = 'duplicate', number = %(number)s, family = %(family)s, seconds = %(seconds)s,
       updated_at = now()
 where id = %(id)s and state = 'found'

-- name: insert_slide
-- A slide stands in the archive; the same number never twice.
insert into mover.slide (number, site, family, extension, size_bytes, digest, segments, tier, key,
                         thumbnail_key, thumbnail_bytes, thumbnail_digest, facts, files_count, files_bytes, root, rules)
values (%(number)s, %(site)s, %(family)s, %(extension)s, %(size_bytes)s, %(digest)s, %(segments)s, %(tier)s, %(key)s,
        %(thumbnail_key)s, %(thumbnail_bytes)s, %(thumbnail_digest)s, %(facts)s, %(files_count)s, %(files_bytes)s,
        %(root)s, %(rules)s)
on conflict (number) do nothing
returning number

-- name: insert_file
-- A file that belongs to a slide, beside its main one.
insert into mover.slide_file (number, name, size_bytes, digest, segments, tier, key)
values (%(number)s, %(name)s, %(size_bytes)s, %(digest)s, %(segments)s, %(tier)s, %(key)s)

-- name: grant_slide
-- A project sees a slide through its grant.
insert into mover.slide_grant (project_id, number) values (%(project)s, %(number)s) on conflict do nothing

-- name: slide_rules
-- Under which rules was this number published already, for whatever project? Null where it was not.
select mover.slide_rules(%(number)s) as rules

-- name: complete
-- Every pack has its final state and the proof stands.
update mover.batch set state = 'complete', finished_at = now(), complete_proof = %(proof)s, explanation = null
 where id = %(id)s

-- name: fail
-- The batch is not what was declared, or could not be walked.
update mover.batch set state = 'failed', finished_at = now(), explanation = %(explanation)s
 where id = %(id)s and state <> 'complete'

-- name: waiting_records
-- Record sets that wait for this batch's images.
select id from mover.record_set where batch_id = %(batch)s and state = 'waiting-for-images' order by version

-- name: packs
-- One page of packs.
select id, state, reason, explanation, family, number, size_bytes, seconds from mover.pack
 where batch_id = %(batch)s and (%(state)s::text is null or state = %(state)s) and id > %(after)s
 order by id limit %(limit)s

-- name: reveal
-- The sealed ids of packs somebody with a purpose asks about.
select id, entry from mover.pack where id = any(%(ids)s)

-- name: slides
-- One page of the project's slides with what is aligned to them.
select s.number, s.family, s.size_bytes + s.files_bytes as size_bytes, coalesce(s.root, s.digest) as digest, s.facts, a.facts as aligned
  from mover.slide s left join mover.aligned a using (number)
 where s.number > %(after)s order by s.number limit %(limit)s

-- name: slide
-- One slide.
select s.number, s.family, s.size_bytes + s.files_bytes as size_bytes, coalesce(s.root, s.digest) as digest, s.facts, a.facts as aligned
  from mover.slide s left join mover.aligned a using (number) where s.number = %(number)s
