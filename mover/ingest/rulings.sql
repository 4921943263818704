-- name: withdrawn
-- A slide of this project with its withdrawal, and whether the words came with the project's own records.
select s.number, s.tier, w.reason, w.removed_at, exists (
           select from mover.slide_search d where d.record_set_id = w.found_by and d.number = s.number) as own
  from mover.slide s left join mover.slide_withdrawal w using (number) where s.number = %(number)s

-- name: ask
-- One open question about a slide; not made where somebody asked already.
select mover.ruling_ask(%(id)s, %(number)s, %(action)s, %(reason)s, %(proof)s, %(actor)s, %(node)s, %(request)s) as made

-- name: person
-- Whose word this is, by the proof of it.
select mover.person_of(%(proof)s, %(actor)s) as person

-- name: get
-- One ruling, with how many kept manifests name the slide.
select r.*, coalesce(r.manifests, (select count(*) from mover.slide_pins(r.number))) as named
  from mover.slide_ruling r where id = %(id)s

-- name: page
-- The newest rulings, those that wait for a second person, or those about one slide.
select r.*, coalesce(r.manifests, (select count(*) from mover.slide_pins(r.number))) as named
  from mover.slide_ruling r
 where (%(after)s::text is null or id < %(after)s) and (not %(open)s or state = 'asked')
   and (%(number)s::text is null or number = %(number)s)
 order by id desc limit %(limit)s

-- name: decide
-- The second person's word. With a grant the slide is back, or may be removed.
select mover.ruling_decide(%(id)s, %(grant)s, %(reason)s, %(manifests)s, %(proof)s, %(actor)s, %(node)s, %(request)s)

-- name: end
-- What was granted is done, or failed.
select mover.ruling_end(%(id)s, %(state)s, %(explanation)s)

-- name: explain
-- Why what was granted waits.
update mover.slide_ruling set explanation = %(explanation)s where id = %(id)s and state = 'granted'

-- name: lock_withdrawals
-- As for withdrawals: a run becomes ready before, or after.
select pg_advisory_xact_lock(hashtextextended('mover withdrawals', 0))

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
