-- name: follow
-- The terms that hold for a policy, after its file was read: longer ones at once, shorter ones only by request.
select mover.terms_follow(%(policy)s, %(wanted)s::jsonb, %(node)s) as terms

-- name: terms
-- What holds for each protect policy, and what its file says.
select policy, terms, wanted, since, large_until, mover.terms_shorter(terms, wanted) as shorter
  from mover.protect_terms order by policy

-- name: series
-- The next series of a policy, by name.
select series from mover.snapshot_series where policy = %(policy)s and series > %(after)s order by series limit %(limit)s

-- name: standing
-- What stands of these series, newest first of each.
select s.id, s.series, s.sequence, s.recorded_at, s.tags, s.bytes,
       case when s.missing_at is not null then 'missing' else s.doubt end as doubt,
       exists (select from mover.hold h where h.snapshot_id = s.id and h.released_at is null
                  and (h.until is null or h.until > now())) as held
  from mover.snapshot s
 where s.policy = %(policy)s and s.series = any (%(series)s) and s.state = 'checked'
 order by s.series, s.sequence desc limit %(limit)s

-- name: files
-- Which file each row says it has.
select repository_id, series from mover.snapshot
 where policy = %(policy)s and state in ('written', 'checked', 'trashed')

-- name: beside
-- What counts for the rules of these series, newest first of each, and what is forgotten with its file perhaps there.
select s.id, s.series, s.sequence, s.recorded_at, s.tags, s.bytes, s.repository_id, s.doubt,
       exists (select from mover.hold h where h.snapshot_id = s.id and h.released_at is null
                  and (h.until is null or h.until > now())) as held
  from mover.snapshot s
 where s.policy = %(policy)s and s.series = any (%(series)s) and s.trashed_for is null
   and (s.state in ('checked', 'trashed') or s.state = 'forgotten' and s.purged_at is null)
 order by s.series, s.sequence desc limit %(limit)s

-- name: back
-- Forgotten ones that the rules keep after all.
select mover.snapshots_back(%(ids)s, %(node)s)

-- name: history
-- Every record of a policy or of one series, forgotten ones too; attempts that were cut off are none.
select s.id, s.series, s.sequence, s.recorded_at, s.tags, s.bytes, s.state,
       case when s.missing_at is not null then 'missing' else s.doubt end as doubt,
       exists (select from mover.hold h where h.snapshot_id = s.id and h.released_at is null
                  and (h.until is null or h.until > now())) as held
  from mover.snapshot s
 where s.policy = %(policy)s and (%(series)s::text is null or s.series = %(series)s) and s.state <> 'written'
   and s.trashed_for is distinct from 'cut-off'
 order by s.sequence desc limit %(limit)s

-- name: reasons
-- Why each is kept or goes; rows that say so already are left alone.
update mover.snapshot s set reasons = n.reasons
  from (select i as id, array(select jsonb_array_elements_text(r::jsonb)) as reasons
          from unnest(%(ids)s::text[], %(reasons)s::text[]) as t (i, r)) n
 where s.id = n.id and s.reasons is distinct from n.reasons

-- name: trash
-- What no rule keeps goes to the trash, as far as the database agrees and the breaker lets it.
select snapshot from mover.snapshots_trash(%(policy)s, %(series)s, %(ids)s, %(node)s)

-- name: over
-- What was in the trash for long enough is forgotten; what the rules keep again comes back.
select snapshot, repository, comes_back from mover.trash_over(%(policy)s, %(limit)s, %(node)s)

-- name: unpurged
-- Forgotten ones whose file may still be there.
select id, repository_id, series, trashed_for from mover.snapshot
 where policy = %(policy)s and state = 'forgotten' and purged_at is null order by sequence limit %(limit)s

-- name: purged
-- Their files are gone from the repository.
select mover.snapshots_purged(%(ids)s)

-- name: present
-- What the repository holds; the answer is what vanished without us.
select snapshot from mover.snapshots_present(%(policy)s, %(present)s, %(listed_at)s, %(node)s)
