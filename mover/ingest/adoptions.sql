-- name: place
-- What the tier is.
select zone, role from mover.tier where name = %(tier)s

-- name: insert
-- A scan begins.
insert into mover.adoption (id, project_id, tier, prefix, trust_names, reason, created_by, register)
values (%(id)s, %(project)s, %(tier)s, %(prefix)s, %(trust_names)s, %(reason)s, %(actor)s, %(register)s)

-- name: standing
-- The same place, while it is being scanned or taken.
select id from mover.adoption
 where tier = %(tier)s and prefix = %(prefix)s and trust_names = %(trust_names)s and state in ('scanning', 'registering')
 limit 1

-- name: get
-- One adoption.
select * from mover.adoption where id = %(id)s

-- name: page
-- The newest adoptions.
select * from mover.adoption where (%(after)s::text is null or id < %(after)s) order by id desc limit %(limit)s

-- name: counts
-- Verdicts so far.
select verdict, count(*) as count, sum(size_bytes)::bigint as bytes from mover.adoption_file
 where adoption_id = %(id)s group by verdict

-- name: outcomes
-- What became of the clean slides so far.
select outcome, count(*) as count from mover.adoption_slide where adoption_id = %(id)s group by outcome

-- name: judged
-- Which of these files have a verdict already.
select key from mover.adoption_file where adoption_id = %(id)s and key = any(%(keys)s)

-- name: vouched
-- Which of these keys are files of slides that stand.
select key from mover.keys_known(%(tier)s, %(keys)s, false)

-- name: add_file
-- A verdict; a scan that begins again after a crash gives it once.
insert into mover.adoption_file (project_id, adoption_id, key, verdict, family, size_bytes, digest, reasons, number)
values (%(project)s, %(id)s, %(key)s, %(verdict)s, %(family)s, %(size_bytes)s, %(digest)s, %(reasons)s, %(number)s)
on conflict do nothing

-- name: add_slide
-- A clean slide with the number it will have; in the transaction of its files' verdicts.
insert into mover.adoption_slide (project_id, adoption_id, number, scan, sidecar, evidence, marks)
values (%(project)s, %(id)s, %(number)s, %(scan)s, %(sidecar)s, %(evidence)s, %(marks)s)
on conflict do nothing

-- name: files
-- One slice of the verdicts, by key.
select f.key, f.verdict, f.family, f.size_bytes, f.digest, f.reasons, f.number, s.outcome, s.reason as why
  from mover.adoption_file f left join mover.adoption_slide s on s.adoption_id = f.adoption_id and s.number = f.number
 where f.adoption_id = %(id)s and f.key > %(after)s order by f.key limit %(limit)s

-- name: scanned
-- Every file has a verdict; what is clean is taken at once, or waits for somebody's word.
update mover.adoption set state = case when register then 'registering' else 'scanned' end, root = %(root)s,
       judged_by = %(judged_by)s, finished_at = now()
 where id = %(id)s and state = 'scanning' returning state

-- name: take
-- Somebody's word.
update mover.adoption set state = 'registering', register = true where id = %(id)s and state = 'scanned' returning id

-- name: open_slides
-- Clean slides that are not registered yet.
select number, scan, sidecar, evidence, marks from mover.adoption_slide
 where adoption_id = %(id)s and outcome = 'judged' order by number limit %(limit)s

-- name: lock_scan
-- Two adoptions of equal files wait for each other here.
select pg_advisory_xact_lock(hashtextextended('mover adopted ' || %(scan)s, 0))

-- name: slide_of
-- The slide that this scan is already.
select number, withdrawn from mover.slide_of(%(scan)s)

-- name: withdrawn_bytes
-- Why a slide with any of these files was withdrawn, whatever else it was made of.
select w.reason from mover.slide_withdrawal w
 where exists (select from mover.slide s where s.number = w.number and s.digest = any(%(digests)s))
    or exists (select from mover.slide_file f where f.number = w.number and f.digest = any(%(digests)s))
 order by w.number limit 1

-- name: settle
-- What became of a clean slide.
update mover.adoption_slide set outcome = %(outcome)s, reason = %(reason)s, adopted_proof = %(proof)s,
       adopted_kind = case when %(proof)s::text is null then null else 'adopted'::mover.proof_kind end
 where adoption_id = %(id)s and number = %(number)s and outcome = 'judged' returning number

-- name: renumber
-- Its files belong to the slide that they were already, or to none.
update mover.adoption_file set number = %(standing)s where adoption_id = %(id)s and number = %(number)s

-- name: complete
-- Every clean slide is registered, or it is said why not.
update mover.adoption set state = 'complete', finished_at = now() where id = %(id)s and state = 'registering'

-- name: fail
-- The place could not be scanned, or what is clean could not be registered.
update mover.adoption set state = 'failed', explanation = %(explanation)s, finished_at = now()
 where id = %(id)s and state in ('scanning', 'registering')
