-- name: entries_by_path
-- The entries a shard is to stage.
select * from mover.run_entry where run_id = %(run)s and path = any(%(paths)s) and staged_at is null order by path

-- name: add_offenders
-- Files of which no copy is whole; the run fails with all of them.
update mover.run set offenders = coalesce(offenders, '[]') || %(offenders)s where id = %(run)s

-- name: mark_staged
-- Entries whose flash copy was read back cold.
update mover.run_entry set staged_at = now(), staged_how = %(how)s where run_id = %(run)s and path = any(%(paths)s)

-- name: lock_digests
-- Linking, judging and evicting of one digest on one tier happen one after the other. In one order for everybody, so
-- that no two wait for each other.
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
on conflict (tier, digest) do update set mark = excluded.mark, used_at = now()

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

-- name: failed
-- A run that could not be staged.
update mover.run set state = 'failed', reason = %(reason)s, explanation = %(explanation)s
 where id = %(id)s and state in ('admitted', 'staging', 'sealed')
returning id, tier
