-- name: lock_tier
-- Who holds what of this tier is read and written by one daemon at a time.
select pg_advisory_xact_lock(hashtextextended('mover.tier_use:' || %(tier)s, 0))

-- name: uses
-- What every daemon holds of the tier's budget, and how long ago it said so.
select node, fraction, extract(epoch from clock_timestamp() - seen_at)::float8 as age_s
  from mover.tier_use where tier = %(tier)s

-- name: hold
-- This daemon lives and holds so much.
insert into mover.tier_use (tier, node, fraction) values (%(tier)s, %(node)s, %(fraction)s)
on conflict (tier, node) do update set fraction = excluded.fraction, seen_at = clock_timestamp()

-- name: drop_stale
-- A daemon that died holds nothing any more.
delete from mover.tier_use
 where tier = %(tier)s and node <> %(node)s and seen_at < clock_timestamp() - make_interval(secs => %(stale_s)s)

-- name: leave
-- What this daemon held is free for the others.
delete from mover.tier_use where node = %(node)s and tier = any (%(tiers)s)
