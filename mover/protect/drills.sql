-- name: any_snapshot
-- A kept snapshot, by chance.
select id, run_id, repository_id from mover.snapshot
 where policy = %(policy)s and state = 'checked' and missing_at is null order by random() limit 1

-- name: any_files
-- A few of its files, by chance; links hold no content.
select path, digest from mover.artifact
 where snapshot_id = %(snapshot)s and size_bytes <= %(most)s and digest ~ '^[0-9a-f]{64}$'
 order by random() limit %(limit)s

-- name: recovery
-- Point: the age of the oldest change that is in no whole snapshot: of a folder, and of a run that waits to be
-- protected. Time: what the newest snapshot of the largest series would take, as the newest restores of its tier did, or
-- as the drill did where nobody restored yet.
with newest as (
    select distinct on (series) tier, bytes from mover.snapshot
     where policy = %(policy)s and state = 'checked' order by series, sequence desc
), largest as (
    select tier, bytes from newest order by bytes desc limit 1
), restored as (
    select sum(bytes) as bytes, sum(seconds) as seconds from (
        select r.bytes, r.seconds from mover.restore r join largest l on l.tier = r.tier
         where r.state = 'complete' and r.seconds > 0 order by r.finished_at desc limit 20) as r
), drilled as (
    select (counts ->> 'bytes')::numeric as bytes, (counts ->> 'milliseconds')::numeric / 1000 as seconds
      from mover.protect_turn where policy = %(policy)s and kind = 'drill' and state = 'done'
), pace as (
    select coalesce(r.bytes, d.bytes) as bytes, coalesce(r.seconds::numeric, d.seconds) as seconds
      from restored r left join drilled d on true
)
select (select extract(epoch from now() - min(since))::double precision from (
            select seen_since as since from mover.protected_folder
             where policy = %(policy)s and seen_mark <> '' and seen_mark <> protected_mark
            union all
            select coalesce(finished_at, ready_at) from mover.run where state in ('finishing', 'protecting')) as waits
       ) as point_s,
       (select (l.bytes / nullif(p.bytes, 0) * p.seconds)::double precision from largest l, pace p) as time_s

-- name: moved
-- A snapshot's file came back under another id.
select mover.snapshot_moved(%(tier)s, %(was)s, %(now)s, %(node)s) as moved
