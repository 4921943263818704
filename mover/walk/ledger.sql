-- name: scan
-- A scan as it stands.
select id, project_id, tier, number, prefix, method, options, state, started_at, findings, entries, folders_left
  from mover.scan where id = %(scan)s

-- name: begin
-- The walk begins or goes on; what an earlier attempt held in memory is to be taken up again.
with held as (update mover.scan_folder set spilled = true where scan_id = %(scan)s)
update mover.scan set state = 'walking', started_at = coalesce(started_at, now()) where id = %(scan)s

-- name: enter
-- The first folder of the frontier.
insert into mover.scan_folder (project_id, scan_id, key, spilled)
values ((select mover.current_project()), %(scan)s, %(key)s, true) on conflict do nothing

-- name: left
-- Folders that are known and not read to their end, and those of them that may be walked.
select count(*) as count, count(*) filter (where parent is null) as free from mover.scan_folder where scan_id = %(scan)s

-- name: is_fresh
-- Nothing is known of this tier yet: no digest need be asked for, no row compared.
select not exists (select from mover.entry where tier = %(tier)s)
   and not exists (select from mover.listing where tier = %(tier)s) as fresh

-- name: load
-- Folders of the frontier that no walk holds in memory.
update mover.scan_folder set spilled = false
 where scan_id = %(scan)s and key in
       (select key from mover.scan_folder where scan_id = %(scan)s and spilled and parent is null order by key desc limit %(limit)s)
returning key

-- name: known
-- The digests of folders, part by part.
select folder, digest from mover.listing
 where tier = %(tier)s and folder = any (%(folders)s) order by folder, part

-- name: done
-- Folders that were read to their end.
delete from mover.scan_folder where scan_id = %(scan)s and key = any (%(keys)s)

-- name: found
-- Folders that were found and not yet read to their end.
insert into mover.scan_folder (project_id, scan_id, key)
select (select mover.current_project()), %(scan)s, key from unnest(%(keys)s::bytea[]) as key on conflict do nothing

-- name: parked
-- Folders found in a folder that is not read to its end: they wait for it, so that none is walked before a kill and
-- found again after it.
insert into mover.scan_folder (project_id, scan_id, key, spilled, parent)
select (select mover.current_project()), %(scan)s, key, true, %(parent)s from unnest(%(keys)s::bytea[]) as key
on conflict do nothing

-- name: reopened
-- Folders that others wait for.
select distinct parent from mover.scan_folder where scan_id = %(scan)s and parent is not null

-- name: released
-- Their folder was read to its end.
update mover.scan_folder set parent = null where scan_id = %(scan)s and parent = any (%(keys)s)

-- name: spilled
-- Folders that the walk forgets for now.
update mover.scan_folder set spilled = true where scan_id = %(scan)s and key = any (%(keys)s)

-- name: note
-- What could not be seen, or drifted.
insert into mover.scan_finding (project_id, scan_id, code, key)
select (select mover.current_project()), %(scan)s, code, key
  from unnest(%(codes)s::text[], %(keys)s::bytea[]) as t (code, key)
 limit greatest(0, %(limit)s - (select count(*) from mover.scan_finding where scan_id = %(scan)s))

-- name: count
-- How far the walk is.
update mover.scan
   set folders = folders + %(folders)s, entries = entries + %(entries)s, bytes = bytes + %(size_bytes)s,
       listings = listings + %(listings)s, listings_same = listings_same + %(listings_same)s,
       vanished = vanished + %(vanished)s, findings = findings + %(findings)s,
       folders_left = (select count(*) from mover.scan_folder where scan_id = %(scan)s),
       walk_s = walk_s + %(seconds)s
 where id = %(scan)s

-- name: merging
-- Everything was seen; what was staged is merged now.
update mover.scan set state = 'merging', folders_left = 0 where id = %(scan)s

-- name: slice
-- How far one transaction of the merge goes: a bounded number of entries, whole parts.
select max(id) as last from (
    select id, sum(case when names is null then 1 else entries end) over (order by id) as upto, entries, names is null as same
      from (select id, entries, names from mover.staged where scan_id = %(scan)s order by id limit %(parts)s) as first
) as counted where upto - case when same then 1 else entries end < %(entries)s

-- name: same_listings
-- Parts that are as they were known; each is looked up by itself (`limit` keeps it so: planned as a join while the
-- statistics lag behind, it is quadratic).
select known.id, s.entries from mover.staged s
 cross join lateral (select l.id from mover.listing l
                      where l.tier = %(tier)s and l.folder = s.folder and l.part = s.part limit 1) as known
 where s.scan_id = %(scan)s and s.id <= %(last)s and s.names is null

-- name: merge_same
-- One row for each, whatever it holds.
update mover.listing set seen = greatest(seen, %(number)s) where id = any (%(ids)s)

-- name: merge_listings
-- Parts that are new or changed. Of a part that was read twice, because the walk was killed, the later reading holds.
insert into mover.listing (project_id, tier, folder, part, digest, entries, seen, sent)
select distinct on (folder, part) (select mover.current_project()), %(tier)s, folder, part, digest, entries,
       %(number)s::bigint, %(number)s::bigint
  from mover.staged where scan_id = %(scan)s and id <= %(last)s and names is not null
 order by folder, part, id desc
on conflict (project_id, tier, folder, part) do update
   set digest = excluded.digest, entries = excluded.entries, seen = excluded.seen, sent = excluded.sent
 where listing.seen <= excluded.seen

-- name: merge_fresh
-- Entries of a tier of which nothing was known. A key that is taken after all is left to the comparing way.
insert into mover.entry (project_id, tier, key, kind, size_bytes, mtime_ns, mark, listing_id, scan_id, seen)
select l.project_id, %(tier)s, case when s.whole or s.folder = '' then e.name else s.folder || '\x2f' || e.name end,
       case coalesce(e.mode, 8) when 8 then 'file' when 10 then 'symlink' else 'other' end,
       e.size_bytes, e.mtime_ns, coalesce(e.mark, to_hex(e.inode) || ':' || to_hex(e.ctime)), l.id, %(scan)s, %(number)s
  from mover.staged s
 cross join lateral (select k.id, k.project_id from mover.listing k
                      where k.tier = %(tier)s and k.folder = s.folder and k.part = s.part limit 1) as l
 cross join unnest(s.names, s.modes, s.sizes, s.mtimes, s.inodes, s.ctimes, s.marks)
       as e (name, mode, size_bytes, mtime_ns, inode, ctime, mark)
 where s.scan_id = %(scan)s and s.id <= %(last)s and s.names is not null
on conflict do nothing

-- name: staged_entries
-- How many entries a slice holds.
select coalesce(sum(entries), 0)::bigint as count
  from mover.staged where scan_id = %(scan)s and id <= %(last)s and names is not null

-- name: steer
-- Entries and listings are found by their keys, one by one. The statistics of a table that grew by a million rows a moment ago say
-- it is small, and a plan made for that took 27 s where this one takes 0.1 s.
select set_config(name, 'off', true)
  from unnest(array['enable_bitmapscan', 'enable_hashjoin', 'enable_mergejoin', 'enable_seqscan']) as name

-- name: slice_table
-- Where a slice is laid out to be compared.
create temp table if not exists walk_slice (
    key bytea, kind text, size_bytes bigint, mtime_ns bigint, mark text, listing_id bigint
) on commit delete rows

-- name: fill_slice
-- One row per key; of a key that was seen twice the later sight holds.
insert into walk_slice
select distinct on (key) key, kind, size_bytes, mtime_ns, mark, listing_id from (
    select case when s.whole or s.folder = '' then e.name else s.folder || '\x2f' || e.name end as key, s.id,
           case coalesce(e.mode, 8) when 8 then 'file' when 10 then 'symlink' else 'other' end as kind,
           e.size_bytes, e.mtime_ns, coalesce(e.mark, to_hex(e.inode) || ':' || to_hex(e.ctime)) as mark,
           l.id as listing_id
      from mover.staged s
      cross join lateral (select k.id, k.project_id from mover.listing k
                          where k.tier = %(tier)s and k.folder = s.folder and k.part = s.part limit 1) as l
     cross join unnest(s.names, s.modes, s.sizes, s.mtimes, s.inodes, s.ctimes, s.marks)
           as e (name, mode, size_bytes, mtime_ns, inode, ctime, mark)
     where s.scan_id = %(scan)s and s.id <= %(last)s and s.names is not null
) as sight order by key, id desc

-- name: analyze_slice
-- Ten rows or a hundred thousand: the planner must know which.
analyze walk_slice

-- name: note_drift
-- The first entries whose verified digest is void now.
insert into mover.scan_finding (project_id, scan_id, code, key)
select e.project_id, %(scan)s, 'changed-verified', e.key
  from walk_slice s
 cross join lateral (select k.* from mover.entry k
                      where k.project_id = (select mover.current_project()) and k.tier = %(tier)s and k.key = s.key
                      limit 1) as e
 where e.verified_at is not null and e.seen <= %(number)s
   and (%(as_of)s::timestamptz is null or e.recorded_at < %(as_of)s)
   and (e.kind, e.size_bytes, e.mtime_ns, e.mark) is distinct from (s.kind, s.size_bytes, s.mtime_ns, s.mark)
 limit greatest(0, %(limit)s - (select count(*) from mover.scan_finding where scan_id = %(scan)s))

-- name: merge_changed
-- Another fingerprint: what was known of the content holds no more. A later scan's sight is never overwritten.
update mover.entry e
   set kind = s.kind, size_bytes = s.size_bytes, mtime_ns = s.mtime_ns, mark = s.mark, digest = null,
       verified_at = null, listing_id = s.listing_id, scan_id = %(scan)s, seen = %(number)s, recorded_at = now(),
       gone_at = null
  from walk_slice s
 cross join lateral (select k.* from mover.entry k
                      where k.project_id = (select mover.current_project()) and k.tier = %(tier)s and k.key = s.key
                      limit 1) as old
 where e.id = old.id and old.seen <= %(number)s
   and (%(as_of)s::timestamptz is null or old.recorded_at < %(as_of)s)
   and (old.kind, old.size_bytes, old.mtime_ns, old.mark) is distinct from (s.kind, s.size_bytes, s.mtime_ns, s.mark)
returning old.verified_at is not null as verified

-- name: merge_unchanged
-- The same fingerprint: only who saw it last. `counted` are those that this very scan did not see before.
with old as (
    select e.id, e.seen, e.gone_at, s.listing_id
      from walk_slice s
     cross join lateral (select k.* from mover.entry k
                          where k.project_id = (select mover.current_project()) and k.tier = %(tier)s and k.key = s.key
                          limit 1) as e
     where e.seen <> %(number)s
), touched as (
    update mover.entry e set seen = greatest(e.seen, %(number)s), listing_id = old.listing_id, gone_at = null
      from old where e.id = old.id
)
select count(*) filter (where gone_at is null) as same, count(*) filter (where gone_at is not null) as back from old

-- name: merge_new
-- What the catalog did not know.
insert into mover.entry (project_id, tier, key, kind, size_bytes, mtime_ns, mark, listing_id, scan_id, seen)
select (select mover.current_project()), %(tier)s, s.key, s.kind, s.size_bytes, s.mtime_ns, s.mark, s.listing_id,
       %(scan)s, %(number)s
  from walk_slice s
  left join lateral (select k.id from mover.entry k
                      where k.project_id = (select mover.current_project()) and k.tier = %(tier)s and k.key = s.key
                      limit 1) as known on true
 where known.id is null
on conflict do nothing

-- name: drop_slice
-- What was merged need not wait any more.
delete from mover.staged where scan_id = %(scan)s and id <= %(last)s

-- name: merged
-- The drift that a slice showed.
update mover.scan
   set same = same + %(same)s, new = new + %(new)s, changed = changed + %(changed)s,
       changed_verified = changed_verified + %(changed_verified)s, merge_s = merge_s + %(seconds)s
 where id = %(scan)s

-- name: known_entries
-- What the catalog holds of the place, before anything is judged gone; a bounded count, since one is enough.
select count(*) as count from (
    select from mover.entry where tier = %(tier)s and gone_at is null
       and (%(prefix)s = '' or key = %(prefix)s or (key >= %(first)s and key < %(after)s)) limit 1000
) as bounded

-- name: changed_listings
-- Parts that changed since anything was judged here, a page of them.
with judged as (
    select coalesce(max(number), 0) as number from mover.scan
     where tier = %(tier)s and gone is not null and method <> 'changes' and number < %(number)s
       and prefix in ('', %(prefix)s)
)
select l.id from mover.listing l, judged
 where l.tier = %(tier)s and l.seen = %(number)s and l.sent > judged.number and l.id > %(after_id)s
 order by l.id limit %(page)s

-- name: lost_listings
-- Parts and folders that are not there any more, a page of them.
select l.id from mover.listing l
 where l.tier = %(tier)s and l.seen < %(number)s and l.id > %(after_id)s
   and (%(prefix)s = '' or l.folder = %(prefix)s or (l.folder >= %(first)s and l.folder < %(after)s))
 order by l.id limit %(page)s

-- name: settle_changed
-- Of parts that changed: entries that were not seen with them. One that was recorded since the scan began is left to
-- the next scan.
with lost as (
    update mover.entry e set gone_at = now()
      from mover.listing l
     where e.listing_id = any (%(ids)s) and l.id = e.listing_id and e.seen < l.sent and e.gone_at is null
       and e.recorded_at < %(started_at)s
    returning e.key, e.verified_at
), noted as (
    insert into mover.scan_finding (project_id, scan_id, code, key)
    select (select mover.current_project()), %(scan)s, 'gone-verified', key from lost where verified_at is not null
     limit greatest(0, %(limit)s - (select count(*) from mover.scan_finding where scan_id = %(scan)s))
)
select count(*) as gone, count(verified_at) as verified from lost

-- name: settle_lost
-- Of parts and folders that are not there any more: their entries, unless they moved to another part.
with lost as (
    update mover.entry e
       set gone_at = case when e.recorded_at < %(started_at)s then coalesce(e.gone_at, now()) else e.gone_at end,
           listing_id = null
     where e.listing_id = any (%(ids)s)
    returning e.key, e.verified_at, e.gone_at = now() as now
), noted as (
    insert into mover.scan_finding (project_id, scan_id, code, key)
    select (select mover.current_project()), %(scan)s, 'gone-verified', key from lost
     where now and verified_at is not null
     limit greatest(0, %(limit)s - (select count(*) from mover.scan_finding where scan_id = %(scan)s))
)
select count(*) filter (where now) as gone, count(verified_at) filter (where now) as verified from lost

-- name: settle_unseen
-- Entries that a transfer recorded and no walk has seen.
with lost as (
    update mover.entry e set gone_at = now()
     where e.tier = %(tier)s and e.listing_id is null and e.gone_at is null and e.recorded_at < %(started_at)s
       and (%(prefix)s = '' or e.key = %(prefix)s or (e.key >= %(first)s and e.key < %(after)s))
    returning e.key, e.verified_at
), noted as (
    insert into mover.scan_finding (project_id, scan_id, code, key)
    select (select mover.current_project()), %(scan)s, 'gone-verified', key from lost where verified_at is not null
     limit greatest(0, %(limit)s - (select count(*) from mover.scan_finding where scan_id = %(scan)s))
)
select count(*) as gone, count(verified_at) as verified from lost

-- name: drop_listings
-- Parts and folders that are not there any more.
delete from mover.listing
 where tier = %(tier)s and seen < %(number)s
   and (%(prefix)s = '' or folder = %(prefix)s or (folder >= %(first)s and folder < %(after)s))

-- name: drop_gone
-- What has been gone for long enough is forgotten.
delete from mover.entry where tier = %(tier)s and gone_at < now() - make_interval(days => %(days)s)

-- name: settled
-- How the scan ended.
update mover.scan
   set gone = %(gone)s, gone_verified = %(gone_verified)s, explanation = %(explanation)s, merge_s = merge_s + %(seconds)s
 where id = %(scan)s

-- name: renew
-- The fence: nobody else has the shard, and nobody takes it before this transaction ends.
update mover.shard set lease_until = now() + make_interval(secs => %(lease_s)s)
 where id = %(id)s and epoch = %(epoch)s and state = 'running'
returning id
