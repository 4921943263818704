-- name: epoch
-- Which catalog this is: another one, or one that was restored and went on from there, answers differently.
select (select system_identifier from pg_catalog.pg_control_system())::text || '/'
       || (select timeline_id from pg_catalog.pg_control_checkpoint())::text as epoch

-- name: fit
-- The server's clock, the newest time anybody wrote down, and the catalog's epoch.
select now() as now,
       greatest((select max(seen_at) from mover.node), (select max(created_at) from mover.release),
                (select max(hold_until - make_interval(secs => hold_s)) from mover.release)) as newest,
       (select system_identifier from pg_catalog.pg_control_system())::text || '/'
       || (select timeline_id from pg_catalog.pg_control_checkpoint())::text as epoch

-- name: releasable
-- Files of some sources whose copies stand and which nothing has released yet.
select count(*) as entries, coalesce(sum(e.size_bytes), 0) as bytes from mover.transfer_entry e
 where e.transfer_id = %(transfer)s and e.at = any (%(ats)s::smallint[]) and e.state in ('moved', 'present') and e.kind = 'file'
   and not exists (select from mover.release_entry r where r.entry_id = e.id and r.state not in ('kept', 'restored'))

-- name: tier_entries
-- How large the tier is, as far as walks know.
select count(*) as entries from mover.entry where tier = %(tier)s and gone_at is null

-- name: insert
-- A release with its entries, in one statement.
with made as (
    insert into mover.release (id, project_id, transfer_id, tier, reason, entries, bytes, hold_s, epoch, requested_by)
    values (%(id)s, %(project)s, %(transfer)s, %(tier)s, %(reason)s, %(entries)s, %(bytes)s, %(hold_s)s, %(epoch)s, %(actor)s)
    returning *),
rows as (
    insert into mover.release_entry (project_id, release_id, entry_id, source, size_bytes, digest)
    select e.project_id, m.id, e.id, e.source, e.size_bytes, e.digest
      from made m, mover.transfer_entry e
     where e.transfer_id = %(transfer)s and e.at = any (%(ats)s::smallint[]) and e.state in ('moved', 'present') and e.kind = 'file'
       and not exists (select from mover.release_entry r where r.entry_id = e.id and r.state not in ('kept', 'restored'))
     order by e.id)
select * from made

-- name: get
-- A release as it stands.
select * from mover.release where id = %(id)s

-- name: lock
-- A release, held for a change of state.
select * from mover.release where id = %(id)s for no key update

-- name: of_transfer
-- The releases of a transfer, in order, held.
select * from mover.release where transfer_id = %(transfer)s order by id for no key update

-- name: seen_of_transfer
-- The same for whoever only looks: a page of transfers must not hold up the workers of all of them.
select * from mover.release where transfer_id = %(transfer)s order by id

-- name: set_state
-- One step.
update mover.release set state = %(state)s, explanation = %(explanation)s,
       finished_at = case when %(state)s in ('restored', 'purged', 'dropped', 'failed') then now() end,
       hold_until = case when %(state)s = 'failed' then coalesce(hold_until, now() + make_interval(secs => hold_s)) else hold_until end
 where id = %(id)s

-- name: approved
-- The second person.
update mover.release set approved_by = %(actor)s where id = %(id)s returning id

-- name: drop
-- Sources stay.
update mover.release set state = 'dropped', finished_at = now() where transfer_id = %(transfer)s and state = 'waiting'

-- name: parts
-- Ranges of entries in some states.
select min(id) as first, max(id) as last
  from (select id, (row_number() over (order by id) - 1) / %(entries)s::bigint as part from mover.release_entry
         where release_id = %(release)s and state = any (%(states)s)) x
 group by part order by 1

-- name: slice
-- The next entries of a shard, with what the transfer knows of them.
select r.id, r.state, r.source, r.digest, r.trash, r.device, r.inode, r.size_bytes, e.target, e.mtime_ns, e.verified_at
  from mover.release_entry r join mover.transfer_entry e on e.id = r.entry_id
 where r.release_id = %(release)s and r.id > %(after)s and r.id <= %(last)s and r.state = any (%(states)s)
 order by r.id limit %(limit)s

-- name: keys_held
-- Keys that rows of other workflows point to, of whatever project.
select key from mover.keys_held(%(tier)s, %(keys)s) where key is not null

-- name: leaving
-- The intent, before the rename: which file, and where it will be found.
update mover.release_entry r set state = 'leaving', trash = o.trash, device = o.device, inode = o.inode, code = null, what = null
  from unnest(%(ids)s::bigint[], %(trash)s::bytea[], %(devices)s::bigint[], %(inodes)s::bigint[]) as o (id, trash, device, inode)
 where r.id = o.id and r.state in ('waiting', 'leaving')

-- name: keep
-- The source stays, or what is in the trash does, for a reason.
update mover.release_entry r set state = 'kept', code = o.code, what = o.what, ended_at = now()
  from unnest(%(ids)s::bigint[], %(codes)s::text[], %(whats)s::text[]) as o (id, code, what)
 where r.id = o.id and r.state in ('waiting', 'leaving', 'purging')

-- name: released
-- In the trash.
update mover.release_entry set state = 'released', released_at = now() where id = any (%(ids)s) and state = 'leaving'

-- name: entries_gone
-- The catalog knows that they left.
update mover.entry n set gone_at = now()
  from (select source from mover.release_entry where id = any (%(ids)s) order by source) r
 where n.tier = %(tier)s and n.key = r.source

-- name: entries_back
-- The catalog knows that they are back; the next walk looks at them as new.
update mover.entry n set gone_at = null
  from (select source from mover.release_entry where id = any (%(ids)s) order by source) r
 where n.tier = %(tier)s and n.key = r.source

-- name: held
-- All of it left or was kept: the hold begins, by the server's clock.
update mover.release set state = 'held', hold_until = now() + make_interval(secs => hold_s) where id = %(id)s

-- name: restored
-- Back under their names.
update mover.release_entry set state = 'restored', ended_at = now(), code = null, what = null
 where id = any (%(ids)s) and state in ('leaving', 'released', 'purging')

-- name: noted
-- What could not be brought back says why, and stays held.
update mover.release_entry r set code = o.code, what = o.what
  from unnest(%(ids)s::bigint[], %(codes)s::text[], %(whats)s::text[]) as o (id, code, what) where r.id = o.id

-- name: restored_or_held
-- The end of a restore.
update mover.release r
   set state = case when left_.entries = 0 then 'restored' else 'held' end,
       hold_until = coalesce(hold_until, now() + make_interval(secs => hold_s)),
       explanation = case when left_.entries > 0 then left_.entries || ' could not be brought back' end,
       finished_at = case when left_.entries = 0 then now() end
  from (select count(*) as entries from mover.release_entry
         where release_id = %(id)s and state in ('leaving', 'released', 'purging')) left_
 where r.id = %(id)s

-- name: stands_elsewhere
-- Of these digests those that were verified somewhere and are not known to be gone from there.
select distinct digest from mover.entry where digest = any (%(digests)s) and verified_at is not null and gone_at is null

-- name: purging
-- No row counts on these bytes any more.
update mover.release_entry set state = 'purging' where id = any (%(ids)s) and release_id = %(release)s and state = 'released'

-- name: purged
-- Gone for ever.
update mover.release_entry set state = 'purged', ended_at = now() where id = any (%(ids)s) and state = 'purging'

-- name: purged_or_held
-- The end of a purge.
update mover.release r
   set state = case when left_.entries = 0 then 'purged' else 'held' end,
       explanation = case when left_.entries > 0 then left_.entries || ' could not be purged' end,
       finished_at = case when left_.entries = 0 then now() end
  from (select count(*) as entries from mover.release_entry where release_id = %(id)s and state in ('released', 'purging')) left_
 where r.id = %(id)s

-- name: over
-- Releases of every project whose hold is over.
select release_id, project_id, tier from mover.releases_over()

-- name: counts
-- Entries by state.
select state, count(*) as count from mover.release_entry where release_id = %(release)s group by state

-- name: kept
-- What was kept, by reason.
select code, count(*) as count from mover.release_entry
 where release_id = %(release)s and state = 'kept' group by code order by code

-- name: kept_of
-- Sources of a transfer that were not released.
select count(*) as entries from mover.release_entry e join mover.release r on r.id = e.release_id
 where r.transfer_id = %(transfer)s and e.state = 'kept'
