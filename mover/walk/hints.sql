-- name: projects
-- Whose catalogs know the tiers.
select id from mover.project order by id

-- name: now
-- The one clock that `since`, `heard_at` and a scan's beginning are told by.
select clock_timestamp() as now

-- name: watch
-- The watch goes on until `heard_at`; after a gap, or where there was none, it begins only now.
insert into mover.folder_watch (project_id, tier, since, heard_at, reason)
values ((select mover.current_project()), %(tier)s, clock_timestamp(), %(heard_at)s, coalesce(%(gap)s, 'started'))
on conflict (project_id, tier) do update
   set since = case when %(gap)s::text is null then folder_watch.since else excluded.since end,
       reason = case when %(gap)s::text is null then folder_watch.reason else excluded.reason end,
       heard_at = greatest(folder_watch.heard_at, excluded.heard_at)

-- name: hint
-- Folders that changed; what a scan reads already is a row of its own.
insert into mover.folder_hint (project_id, tier, folder, deep)
select (select mover.current_project()), %(tier)s, folder, deep
  from unnest(%(folders)s::bytea[], %(deep)s::boolean[]) as h (folder, deep)
on conflict (project_id, tier, scan_id, folder) do update
   set deep = folder_hint.deep or excluded.deep, seen_at = excluded.seen_at

-- name: listen
-- Scans that wait for a watcher's word ask for it.
listen mover_watch

-- name: ask
-- A watcher need not wait for its next turn.
notify mover_watch

-- name: is_wanted
-- Whether a full scan of the tier was asked for: what happened before that, it sees.
select exists (select from mover.scan where tier = %(tier)s and prefix = '' and method = 'walk') as wanted

-- name: count
-- How many wait, up to one more than may.
select count(*) as count from (select from mover.folder_hint where tier = %(tier)s and scan_id = '' limit %(limit)s) as bounded

-- name: forget
-- There are too many to be worth more than a full scan.
delete from mover.folder_hint where tier = %(tier)s and scan_id = ''

-- name: state
-- Whether the watch reaches from before the last complete scan until now; the last scan that stayed on its mount.
select w.since, w.heard_at, w.reason, b.number, b.started_at, clock_timestamp() as now,
       coalesce(w.since <= b.started_at and not b.cross_mounts, false) as unbroken
  from (select 1) as one
  left join mover.folder_watch w on w.tier = %(tier)s
  left join lateral (select number, started_at, coalesce((options->>'cross_mounts')::boolean, false) as cross_mounts
                       from mover.scan
                      where tier = %(tier)s and prefix = '' and method = 'walk' and state = 'complete'
                      order by number desc limit 1) as b on true

-- name: take
-- All hints of the tier become this scan's, also those of a scan that ended before it could read them.
with taken as (
    delete from mover.folder_hint where tier = %(tier)s and scan_id <> %(scan)s returning folder, deep, seen_at
)
insert into mover.folder_hint (project_id, tier, scan_id, folder, deep, seen_at)
select (select mover.current_project()), %(tier)s, %(scan)s, folder, bool_or(deep), min(seen_at) from taken group by folder
on conflict (project_id, tier, scan_id, folder) do update set deep = folder_hint.deep or excluded.deep

-- name: taken
-- What a scan was pointed to.
select folder, deep from mover.folder_hint where tier = %(tier)s and scan_id = %(scan)s order by folder

-- name: drop_taken
-- They were read, and what was found is merged.
delete from mover.folder_hint where tier = %(tier)s and scan_id = %(scan)s

-- name: enter
-- The frontier begins with them.
insert into mover.scan_folder (project_id, scan_id, key, spilled)
select (select mover.current_project()), %(scan)s, key, true from unnest(%(keys)s::bytea[]) as key on conflict do nothing

-- name: hinted_listings
-- Parts of hinted folders: those that are not there any more, and those that changed since anything was judged.
with judged as (
    select coalesce(max(number), 0) as number from mover.scan
     where tier = %(tier)s and gone is not null and method <> 'changes' and number < %(number)s and prefix = ''
), found as (
    select l.id, l.seen, l.sent from mover.folder_hint h
     cross join lateral (select k.id, k.seen, k.sent from mover.listing k
                          where k.tier = %(tier)s and k.folder = h.folder) as l
     where h.tier = %(tier)s and h.scan_id = %(scan)s
    union
    select l.id, l.seen, l.sent from mover.folder_hint h
     cross join lateral (select k.id, k.seen, k.sent from mover.listing k
                          where k.tier = %(tier)s and k.folder > h.folder || '\x2f' and k.folder < h.folder || '\x30') as l
     where h.tier = %(tier)s and h.scan_id = %(scan)s and h.folder <> ''
       and (h.deep or not exists (select from mover.listing k where k.tier = %(tier)s and k.folder = h.folder
                                     and k.seen = %(number)s))
)
select f.id, f.seen < %(number)s as lost from found f, judged
 where f.id > %(after_id)s and (f.seen < %(number)s or (f.seen = %(number)s and f.sent > judged.number))
 order by f.id limit %(page)s

-- name: drop_listings
-- Parts and folders that are not there any more.
delete from mover.listing where id = any (%(ids)s)

-- name: unseen
-- Entries that a transfer recorded and no walk has seen, a page of them.
select id, key from mover.entry
 where tier = %(tier)s and listing_id is null and gone_at is null and recorded_at < %(started_at)s and id > %(after_id)s
 order by id limit %(page)s

-- name: settle_unseen
-- Of these, the ones whose folder was read without them.
with lost as (
    update mover.entry e set gone_at = now() where e.id = any (%(ids)s) and e.listing_id is null
    returning e.key, e.verified_at
), noted as (
    insert into mover.scan_finding (project_id, scan_id, code, key)
    select (select mover.current_project()), %(scan)s, 'gone-verified', key from lost where verified_at is not null
     limit greatest(0, %(limit)s - (select count(*) from mover.scan_finding where scan_id = %(scan)s))
)
select count(*) as gone, count(verified_at) as verified from lost
