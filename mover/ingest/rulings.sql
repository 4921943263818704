-- name: withdrawn
-- A slide of this project with its withdrawal, and whether the words came with the project's own records.
select s.number, s.tier, w.reason, w.removed_at, exists (
           select from mover.slide_search d where d.record_set_id = w.found_by and d.number = s.number) as own
  from mover.slide s left join mover.slide_withdrawal w using (number) where s.number = %(number)s

-- name: ask
-- One open question about a slide; none where somebody asked already.
insert into mover.slide_ruling (id, project_id, number, action, reason, asked_by, asked_person)
values (%(id)s, %(project)s, %(number)s, %(action)s, %(reason)s, %(actor)s, %(person)s)
on conflict do nothing returning id

-- name: person
-- Whose word this is, by the proof of it.
select mover.person_of(%(proof)s, %(actor)s) as person

-- name: get
-- One ruling, with how many kept manifests name the slide.
select r.*, coalesce(r.manifests, (select count(*) from mover.slide_pins(r.number))) as named
  from mover.slide_ruling r where id = %(id)s

-- name: lock
-- One ruling, for who decides it now.
select * from mover.slide_ruling where id = %(id)s for update

-- name: page
-- The newest rulings, or those that wait for a second person.
select r.*, coalesce(r.manifests, (select count(*) from mover.slide_pins(r.number))) as named
  from mover.slide_ruling r
 where (%(after)s::text is null or id < %(after)s) and (not %(open)s or state = 'asked')
 order by id desc limit %(limit)s

-- name: decide
-- The second person's word.
update mover.slide_ruling set state = %(state)s, decided_by = %(actor)s, decided_at = now(), decision = %(reason)s,
       manifests = %(manifests)s
 where id = %(id)s and state = 'asked'

-- name: end
-- What was granted is done, or failed.
update mover.slide_ruling set state = %(state)s, explanation = %(explanation)s where id = %(id)s and state = 'granted'

-- name: explain
-- Why what was granted waits.
update mover.slide_ruling set explanation = %(explanation)s where id = %(id)s and state = 'granted'

-- name: lock_withdrawals
-- As for withdrawals: a run becomes ready before, or after.
select pg_advisory_xact_lock(hashtextextended('mover withdrawals', 0))

-- name: reinstate
-- The database lets nobody do this without what two people granted.
delete from mover.slide_withdrawal where number = %(number)s returning number

-- name: release_packs
-- Its packs are what they were before.
update mover.pack set state = case when verified_proof is null then 'duplicate' else 'published' end, reason = null,
       explanation = null, cause = null, updated_at = now()
 where number = %(number)s and state = 'quarantined' and reason = 'identifier-found-later'
returning id

-- name: holders
-- Every project that has the slide, with its runs that hold it.
select project_id, run_id from mover.slide_holders(array[%(number)s]) order by project_id, run_id

-- name: files
-- Every file of a slide as the catalog knows it, beside its sidecar: where it was published, and wherever a copy of it
-- was begun; and what a repair moved aside.
with places as (
    select tier, 0 as at from mover.slide where number = %(number)s
     union all select tier, 1 from mover.slide_copy where number = %(number)s),
known as (
    select s.key, s.digest, s.size_bytes from mover.slide s where s.number = %(number)s
     union all
    select f.key, f.digest, f.size_bytes from mover.slide_file f where f.number = %(number)s
     union all
    select s.thumbnail_key, s.thumbnail_digest, s.thumbnail_bytes from mover.slide s
     where s.number = %(number)s and s.thumbnail_key is not null)
select p.tier, k.key, k.digest, k.size_bytes, p.at from places p cross join known k
 union all
select f.tier, f.quarantine, f.found, f.found_bytes, 2 from mover.verification_finding f
 where f.subject = %(number)s and starts_with(f.quarantine, '.mover/quarantine/') and f.found is not null
 order by at, tier, key

-- name: copying
-- A copy of the slide that is being made, or was cut off: its end comes first.
select tier from mover.slide_copy where number = %(number)s and state = 'writing'

-- name: manifests
-- Kept manifests that name a slide, whatever the project.
select project_id, run_id from mover.slide_pins(%(number)s)

-- name: intend
-- Written down before anything goes.
insert into mover.slide_removal (project_id, ruling_id, place, tier, key, digest, size_bytes, mark)
values (%(project)s, %(ruling)s, %(place)s, %(tier)s, %(key)s, %(digest)s, %(size_bytes)s, %(mark)s)

-- name: intended
-- What is to go, the sidecar first.
select * from mover.slide_removal where ruling_id = %(id)s order by place

-- name: removed
-- It is gone.
update mover.slide_removal set state = 'removed' where ruling_id = %(ruling)s and place = %(place)s

-- name: gone
-- Nothing vouches for the slide's bytes any more.
update mover.slide_withdrawal set removed_at = now() where number = %(number)s
