-- name: to_stage
-- Tars a shard is to stage.
select t.path, t.made_of, t.size_bytes, coalesce(c.digest, t.made_of) as digest
  from mover.run_tar t
  left join lateral (select digest from mover.content where tier = %(tier)s and made_of = t.made_of
                      order by digest limit 1) c on true
 where t.run_id = %(run)s and t.path = any(%(paths)s) and t.staged_at is null order by t.path

-- name: members
-- The files of a tar.
select path, number, split, size_bytes, digest, archive_tier, archive_key from mover.run_entry
 where run_id = %(run)s and shard = %(tar)s

-- name: standing
-- Of these digests what stands on the tier: as itself, or in a tar of a run of this project.
select d.digest, n.holder, n.at as offset from unnest(%(digests)s::text[]) as d (digest)
 cross join lateral (
    (select c.digest as holder, 0::bigint as at from mover.content c where c.tier = %(tier)s and c.digest = d.digest)
     union all
    (select c.digest, e.shard_offset from mover.run_entry e
       join mover.run_tar t on t.run_id = e.run_id and t.path = e.shard
       join mover.content c on c.tier = %(tier)s and c.digest = t.digest
      where e.digest = d.digest and e.shard is not null)
     limit 1) n

-- name: copies
-- Other tiers on which slides' files were proved to stand, under the same keys.
select number, tier from mover.slide_copy where number = any(%(numbers)s) and state = 'whole' order by number, tier

-- name: mark_made_of
-- What a tar of the content store is made of.
update mover.content c set made_of = one.made_of
  from unnest(%(digests)s::text[], %(made_of)s::text[]) as one (digest, made_of)
 where c.tier = %(tier)s and c.digest = one.digest

-- name: mark_tars
-- Tars that stand in a root, read back.
update mover.run_tar t set digest = one.digest, staged_at = now(), staged_how = %(how)s
  from unnest(%(paths)s::text[], %(digests)s::text[]) as one (path, digest)
 where t.run_id = %(run)s and t.path = one.path

-- name: mark_members
-- And what stands in them.
update mover.run_entry set staged_at = now(), staged_how = %(how)s where run_id = %(run)s and shard = any(%(paths)s)
