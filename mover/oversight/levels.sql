-- name: put_level
-- How full a tier was in an interval; asked again, the newest answer.
insert into mover.tier_level (tier, at, capacity_bytes, free_bytes)
values (%(tier)s, date_bin(%(every)s, now(), 'epoch'), %(capacity)s, %(free)s)
on conflict (tier, at) do update set capacity_bytes = excluded.capacity_bytes, free_bytes = excluded.free_bytes

-- name: put_pace
-- What went between two tiers, by this node.
insert into mover.tier_pace (at, node, source, target, bytes)
select date_bin(%(every)s, now(), 'epoch'), %(node)s, %(source)s, %(target)s, %(bytes)s
 where exists (select from mover.tier where name = %(source)s) and exists (select from mover.tier where name = %(target)s)
on conflict (at, node, source, target) do update set bytes = mover.tier_pace.bytes + excluded.bytes

-- name: forget
-- Paces of more than eight days, levels of more than two years.
with paces as (delete from mover.tier_pace where at < now() - interval '8 days'),
     levels as (delete from mover.tier_level where at < now() - interval '2 years')
select 1

-- name: levels
-- The last level of each step, so that a year is as many lines as a day.
select distinct on (tier, step) tier, at, capacity_bytes, free_bytes
  from (select *, date_bin(%(step)s, at, 'epoch') as step from mover.tier_level where at > now() - %(days)s * interval '1 day') l
 order by tier, step, at desc

-- name: paces
-- Bytes by step and pair; a step in which nothing moved has no line.
select date_bin(%(step)s, at, 'epoch') as at, source, target, sum(bytes)::bigint as bytes
  from mover.tier_pace where at >= date_bin(%(step)s, now() - %(minutes)s * interval '1 minute', 'epoch')
 group by 1, 2, 3 order by 1, 2, 3

-- name: clock
-- Begin of the step that runs now.
select date_bin(%(step)s, now(), 'epoch') as now
