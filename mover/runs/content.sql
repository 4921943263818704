-- name: lock_digests
-- Linking, judging, unlinking and evicting of one digest on one tier happen one after the other. In one order for
-- everybody, so that no two wait for each other.
select pg_advisory_xact_lock(key)
  from (select distinct hashtextextended(%(tier)s::text || ' ' || digest, 0) as key
          from unnest(%(digests)s::text[]) digest order by key) ordered

-- name: contents
-- Digests in the flash tier's content store.
select digest, mark from mover.content where tier = %(tier)s and digest = any(%(digests)s)

-- name: put_contents
-- Digests stand in the store now, verified.
insert into mover.content (tier, digest, size_bytes, mark, verified_at)
select %(tier)s, digest, size_bytes, mark, now()
  from unnest(%(digests)s::text[], %(sizes)s::bigint[], %(marks)s::text[]) as one (digest, size_bytes, mark)
on conflict (tier, digest) do update
   set mark = excluded.mark, verified_at = coalesce(mover.content.verified_at, excluded.verified_at), used_at = now()

-- name: unlinked
-- Our own unlinks moved these marks, and nothing else did.
update mover.content c set mark = one.mark
  from unnest(%(digests)s::text[], %(marks)s::text[]) as one (digest, mark)
 where c.tier = %(tier)s and c.digest = one.digest

-- name: adopt
-- Digests stand in the store, and nobody vouches for their bytes: room for others, or read before they are shared.
insert into mover.content (tier, digest, size_bytes, mark, used_at)
select %(tier)s, digest, size_bytes, '', to_timestamp(since)
  from unnest(%(digests)s::text[], %(sizes)s::bigint[], %(since)s::double precision[]) as one (digest, size_bytes, since)
on conflict do nothing

-- name: evictable
-- Content that no live run of any project holds, least recently used first.
select c.digest, c.size_bytes from mover.content c
 where c.tier = %(tier)s and c.digest not in (select digest from mover.content_held(%(tier)s))
 order by c.used_at limit %(limit)s

-- name: drop_idle
-- Digests that no live run holds lose their rows.
delete from mover.content
 where tier = %(tier)s and digest = any(%(digests)s) and digest not in (select digest from mover.content_held(%(tier)s))

-- name: drop_content
-- A digest lost its name in the store.
delete from mover.content where tier = %(tier)s and digest = %(digest)s

-- name: put_damaged
-- Damaged content is kept, under another name, as evidence.
insert into mover.damaged (tier, moved_to, digest, size_bytes)
values (%(tier)s, %(moved_to)s, %(digest)s, %(size_bytes)s)
on conflict (tier, moved_to) do update set size_bytes = excluded.size_bytes, at = now(), purged_at = null

-- name: tell_damaged
-- Every run that holds it is told, whatever its project.
select project, run from mover.content_damaged(%(tier)s, %(digest)s)

-- name: damaged_known
-- Is what was set aside on record?
select at from mover.damaged where tier = %(tier)s and moved_to = %(key)s and purged_at is null

-- name: damaged_due
-- Damaged content that was set aside so long ago.
select moved_to, size_bytes, extract(epoch from now() - at)::float8 as age_s from mover.damaged
 where tier = %(tier)s and purged_at is null and at < now() - make_interval(secs => %(held_s)s) order by at limit %(limit)s

-- name: damaged_purged
-- It is gone.
update mover.damaged set purged_at = now() where tier = %(tier)s and moved_to = %(key)s

-- name: strays_due
-- Runs of every project whose strays were set aside so long ago.
select run_id, project_id, files, bytes, extract(epoch from now() - newest)::float8 as age_s
  from mover.strays_due(%(tier)s, %(held_s)s, %(limit)s)

-- name: strays_purged
-- They are gone.
update mover.stray set purged_at = now() where run_id = %(run)s and purged_at is null
