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
-- A batch that ended is walked again: what is published stays, what one person may release is looked at anew.
update mover.batch set state = 'declared', expected_count = %(expected_count)s, expected_list = %(expected_list)s,
       explanation = null
 where id = %(id)s

-- name: reopen_packs
-- Quarantined packs of a batch that is declared again; not those about which two persons decide, or begun to.
update mover.pack k set state = 'found', reason = null, explanation = null, cause = null, updated_at = now()
 where batch_id = %(batch)s and state = 'quarantined' and reason <> all(%(kept)s::text[])
   and not exists (select from mover.quarantine_proposal p
                    where p.project_id = k.project_id and p.cause = k.cause and p.state = 'open' and p.lapses_at > now())

-- name: held_for
-- What packs of a batch wait for.
select distinct reason from mover.pack where batch_id = %(batch)s and state = 'quarantined'

-- name: get
-- A batch as it stands.
select * from mover.batch where id = %(id)s

-- name: seen
-- Batches as they stand, the newest first.
select * from mover.batch where id = any (%(ids)s) order by id desc

-- name: lock
-- A batch, held for a change of state.
select * from mover.batch where id = %(id)s for update

-- name: trouble
-- Why the work on batches waits, where it waits for something to come back.
select distinct on (subject_id) subject_id as batch, error_code as code, error from mover.shard
 where subject_id = any (%(ids)s) and state in ('waiting', 'running') and error is not null
 order by subject_id, created_at

-- name: page
-- Newest batches first.
select id from mover.batch where (%(after)s::text is null or id < %(after)s) order by id desc limit %(limit)s

-- name: counts
-- Packs of batches by state and reason.
select batch_id as batch, state, reason, count(*) as count, coalesce(sum(size_bytes), 0)::bigint as bytes
  from mover.pack where batch_id = any (%(ids)s) group by batch_id, state, reason

-- name: walked
-- The walk is over; shards of packs follow.
update mover.batch set state = 'working', found_count = %(found)s, missing_count = %(missing)s where id = %(id)s

-- name: walking
-- A walk begins, or begins again after a crash; a batch that has got further is not taken back.
update mover.batch set state = 'walking' where id = %(id)s and state in ('declared', 'walking')
returning *

-- name: insert_pack
-- A pack found again is the same pack; one that waits in quarantine for a reason found by the walk stays so.
insert into mover.pack (id, project_id, batch_id, barcode, entry, state, reason, explanation, size_bytes, cause, kind,
                        judged_by, rule_id)
values (%(id)s, %(project)s, %(batch)s, %(barcode)s, %(entry)s, %(state)s, %(reason)s, %(explanation)s, %(size_bytes)s,
        %(cause)s, %(kind)s, %(judged_by)s, %(rule)s)
on conflict (batch_id, barcode) do update
   set entry = excluded.entry, state = excluded.state, reason = excluded.reason, explanation = excluded.explanation,
       size_bytes = excluded.size_bytes, cause = excluded.cause, kind = excluded.kind, judged_by = excluded.judged_by,
       rule_id = excluded.rule_id, updated_at = now()
 where mover.pack.state = 'found'

-- name: unseen
-- Packs that want work and were not found by the walk: nothing is done by names that nobody has judged now.
update mover.pack set state = 'quarantined', reason = %(reason)s, explanation = %(explanation)s, cause = %(cause)s,
       kind = '', judged_by = %(judged_by)s, updated_at = now()
 where batch_id = %(batch)s and state = 'found' and barcode <> all(%(seen)s::text[])

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
-- A pack waits for a person, with a reason; or somebody has decided already that packs of its cause stay out.
update mover.pack p
   set state = case when r.id is null then 'quarantined' else 'excluded' end, rule_id = r.id, reason = %(reason)s,
       explanation = %(explanation)s, family = %(family)s, seconds = %(seconds)s, cause = %(cause)s, kind = %(kind)s,
       judged_by = %(judged_by)s, updated_at = now()
  from (select max(id) as id from mover.quarantine_rule
         where cause = %(cause)s and action = 'exclude' and standing and revoked_at is null) r
 where p.id = %(id)s and p.state = 'found'
returning p.state, p.rule_id

-- name: standing_rules
-- Decisions that hold for packs that come now.
select id, cause, action, kind, code, words from mover.quarantine_rule where standing and revoked_at is null

-- name: waived_packs
-- Packs of a batch about which people decided something that the walk must know; names are sealed.
select barcode, waived, state, reason from mover.pack
 where batch_id = %(batch)s and (waived <> '{}' or (state = 'excluded' and reason = 'not-declared')) order by id

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
select mover.slide_rules(%(number)s) as rules, mover.slide_withdrawn(%(number)s) as withdrawn

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
select s.number, s.family, s.size_bytes + s.files_bytes as size_bytes, coalesce(s.root, s.digest) as digest, s.facts, a.facts as aligned,
       w.reason as withdrawn, w.removed_at,
       array(select tag from mover.slide_tag t where t.number = s.number and t.present order by tag) as tags
  from mover.slide s left join mover.aligned a using (number) left join mover.slide_withdrawal w using (number)
 where s.number > %(after)s and (%(family)s::text is null or s.family = %(family)s)
   and (%(since)s::timestamptz is null or s.created_at >= %(since)s)
   and (%(until)s::timestamptz is null or s.created_at < %(until)s)
   and (%(state)s::text is null or w.number is null and (a.number is not null) = (%(state)s = 'aligned'))
   and (%(tag)s::text is null or s.number in (select number from mover.slide_tag where tag = %(tag)s and present))
 order by s.number limit %(limit)s

-- name: slides_of_batch
-- The same of what packs of one batch became: from those, which are few.
select s.number, s.family, s.size_bytes + s.files_bytes as size_bytes, coalesce(s.root, s.digest) as digest, s.facts, a.facts as aligned,
       w.reason as withdrawn, w.removed_at,
       array(select tag from mover.slide_tag t where t.number = s.number and t.present order by tag) as tags
  from (select distinct number from mover.pack where batch_id = %(batch)s and number > %(after)s) p
  join mover.slide s using (number)
  left join mover.aligned a using (number) left join mover.slide_withdrawal w using (number)
 where (%(family)s::text is null or s.family = %(family)s)
   and (%(since)s::timestamptz is null or s.created_at >= %(since)s)
   and (%(until)s::timestamptz is null or s.created_at < %(until)s)
   and (%(state)s::text is null or %(state)s = case when w.removed_at is not null then 'removed'
        when w.number is not null then 'withdrawn' when a.number is not null then 'aligned' else 'published' end)
   and (%(tag)s::text is null or s.number in (select number from mover.slide_tag where tag = %(tag)s and present))
 order by s.number limit %(limit)s

-- name: slides_withdrawn
-- The same of what was withdrawn, or is gone for good: from those, which are few.
select s.number, s.family, s.size_bytes + s.files_bytes as size_bytes, coalesce(s.root, s.digest) as digest, s.facts, a.facts as aligned,
       w.reason as withdrawn, w.removed_at,
       array(select tag from mover.slide_tag t where t.number = s.number and t.present order by tag) as tags
  from mover.slide_withdrawal w join mover.slide s using (number) left join mover.aligned a using (number)
 where s.number > %(after)s and (w.removed_at is not null) = (%(state)s = 'removed')
   and (%(family)s::text is null or s.family = %(family)s)
   and (%(since)s::timestamptz is null or s.created_at >= %(since)s)
   and (%(until)s::timestamptz is null or s.created_at < %(until)s)
   and (%(tag)s::text is null or s.number in (select number from mover.slide_tag where tag = %(tag)s and present))
 order by s.number limit %(limit)s

-- name: slide
-- One slide.
select s.number, s.family, s.size_bytes + s.files_bytes as size_bytes, coalesce(s.root, s.digest) as digest, s.facts, a.facts as aligned,
       w.reason as withdrawn, w.removed_at,
       array(select tag from mover.slide_tag t where t.number = s.number and t.present order by tag) as tags
  from mover.slide s left join mover.aligned a using (number) left join mover.slide_withdrawal w using (number)
 where s.number = %(number)s
