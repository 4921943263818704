-- name: entries_table
-- What the plan sees, until the transaction ends.
create temporary table plan_entry (
    seq bigint generated always as identity, at smallint not null, source bytea not null, target bytea not null,
    kind text not null, size_bytes bigint not null, mtime_ns bigint not null, mark text not null, code text, what text,
    known text, known_since timestamptz, present boolean not null default false
) on commit drop

-- name: targets_table
-- What stands at the target, as far as it matters.
create temporary table plan_target (key bytea not null, kind text not null, size_bytes bigint not null, mark text not null)
    on commit drop

-- name: copy_entries
-- Entries of one source, in slices.
copy plan_entry (at, source, target, kind, size_bytes, mtime_ns, mark, code, what) from stdin

-- name: copy_targets
-- Names at the target, in slices.
copy plan_target (key, kind, size_bytes, mark) from stdin

-- name: known
-- What the catalog knows below a folder of a tier, in order of keys.
select key, kind, size_bytes, mtime_ns, mark, digest, extract(epoch from verified_at)::float8 as verified_s
  from mover.entry
 where tier = %(tier)s and gone_at is null and key > %(after)s
   and (length(%(prefix)s::bytea) = 0 or key = %(prefix)s
        or substring(key for length(%(prefix)s::bytea) + 1) = %(prefix)s::bytea || '/'::bytea)
 order by key limit %(limit)s

-- name: index_entries
-- For the joins that follow.
create index on plan_entry (target)

-- name: refuse_twice
-- Two entries that would get one name.
update plan_entry p set code = 'target-twice', what = 'another entry of this transfer would get the same name'
  from (select target from plan_entry where code is null group by target having count(*) > 1) d
 where p.target = d.target and p.code is null

-- name: recognise
-- Digests that the catalog verified under exactly this fingerprint.
update plan_entry p set known = e.digest, known_since = e.verified_at
  from mover.entry e
 where p.at = %(at)s and p.code is null and e.tier = %(tier)s and e.key = p.source and e.gone_at is null
   and (e.size_bytes, e.mtime_ns, e.mark) = (p.size_bytes, p.mtime_ns, p.mark) and e.verified_at is not null

-- name: count_waiting
-- How many names have to be looked up at the target.
select count(*) as entries from plan_entry where code is null

-- name: targets
-- Those names.
select target from plan_entry where code is null

-- name: refuse_taken
-- Names taken by other bytes, as far as sizes or known digests tell; equal sizes are read when they are met.
update plan_entry p set code = 'target-taken', what = 'other bytes stand there; nothing is ever overwritten'
  from plan_target t left join mover.entry e on e.tier = %(tier)s and e.key = t.key and e.mark = t.mark and e.gone_at is null
 where t.key = p.target and p.code is null
   and (t.kind <> p.kind or (p.kind = 'file' and (t.size_bytes <> p.size_bytes or e.digest <> p.known)))

-- name: mark_present
-- What is likely to stand there already: it is read and compared, not written.
update plan_entry p set present = true from plan_target t where t.key = p.target and p.code is null

-- name: sums
-- The plan in numbers; skipped and refused entries move nothing.
select count(*) filter (where code is null) as entries,
       coalesce(sum(size_bytes) filter (where code is null), 0) as bytes,
       coalesce(sum(size_bytes) filter (where code is null and not present), 0) as to_write,
       count(*) filter (where present and code is null) as present,
       count(*) filter (where code = 'left-out') as skipped,
       count(*) filter (where code <> 'left-out') as refused
  from plan_entry

-- name: codes
-- Offences by kind.
select code, count(*) as count from plan_entry where code is not null group by code order by code

-- name: offenders
-- The first offenders, for the answer; the report has them all.
select at, source, code, what from plan_entry where code is not null and code <> 'left-out' order by seq limit %(limit)s

-- name: steps
-- The first entries that would be moved, for a plan that people look at.
select at, source, target, size_bytes, present, code, what from plan_entry order by seq limit %(limit)s

-- name: freeze
-- From now on the transfer is these entries and no others.
insert into mover.transfer_entry (project_id, transfer_id, at, source, target, kind, size_bytes, mtime_ns, mark, known,
                                  known_since, state, code, what, finished_at)
select %(project)s, %(transfer)s, at, source, target, kind, size_bytes, mtime_ns, mark, known, known_since,
       case when code is null then 'waiting' when code = 'left-out' then 'skipped' else %(refused)s end, code, what,
       case when code is not null then now() end
  from plan_entry order by seq

-- name: paces
-- What earlier transfers between the same tiers did.
select moved_count + present_count as entries, moved_bytes + present_bytes as bytes, busy_s as seconds
  from mover.transfer
 where target = %(target)s and sources <@ %(sources)s::text[] and state in ('done', 'incomplete', 'releasing')
   and moved_count > 0 and busy_s > 0
 order by finished_at desc nulls last limit %(limit)s

-- name: tagged
-- Slides with one of these tags, each with those of them that it has, by number.
select number, array_agg(tag) as tags from mover.slide_tag
 where present and (%(any)s or tag = any (%(tags)s)) and number > %(after)s
 group by number order by number limit %(limit)s
