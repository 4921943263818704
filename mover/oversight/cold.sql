-- name: slides
-- Slides whose bytes stand on a tier and that nobody used since, the one used longest ago first.
with seen as (
    select s.number as name, 1 as count, s.size_bytes + s.files_bytes as bytes, greatest(s.created_at, u.staged_at, u.viewed_at) as at,
           case greatest(s.created_at, u.staged_at, u.viewed_at) when u.staged_at then 'staged' when u.viewed_at then 'viewed'
                else 'written' end as how
      from mover.slide s left join mover.slide_used u using (number)
     where s.tier = %(tier)s and starts_with(s.key, %(folder)s)
       and not exists (select from mover.slide_withdrawal w where w.number = s.number and w.removed_at is not null))
select * from seen
 where at < now() - make_interval(secs => %(older)s)
   and (%(at)s::timestamptz is null or (at, name) > (%(at)s, %(name)s))
 order by at, name limit %(limit)s

-- name: lists
-- How many lists were used since, as far as `bound`: mover.slide_used knows the thousand that were used last.
select count(*) as count
  from (select from mover.run r join mover.selection s on s.project_id = r.project_id and s.id = r.selection_id
         where r.ready_at is not null and case when r.state in ('ready', 'finishing') then now()
                                               else coalesce(r.finished_at, r.ready_at) end >= now() - make_interval(secs => %(older)s)
         group by s.root limit %(bound)s) used

-- name: runs
-- Runs whose files stand on a tier and that gave no sign since.
select * from (select u.id as name, coalesce(t.files, 0) as count, coalesce(t.bytes, 0) as bytes, u.at, 'staged' as how
                 from mover.run_used u left join mover.run_tally t on t.run_id = u.id where u.tier = %(tier)s) seen
 where at < now() - make_interval(secs => %(older)s)
   and (%(at)s::timestamptz is null or (at, name) > (%(at)s, %(name)s))
 order by at, name limit %(limit)s

-- name: cohorts
-- The same by the cohort that they were asked for with; what was asked for by a list or an expression has none.
select * from (select coalesce(c.name, '') as name, count(*) as count, coalesce(sum(t.bytes), 0)::bigint as bytes,
                      max(u.at) as at, 'staged' as how
                 from mover.run_used u left join mover.run_tally t on t.run_id = u.id
                 left join mover.selection s on s.id = u.selection_id left join mover.cohort c on c.id = s.cohort_id
                where u.tier = %(tier)s group by 1) seen
 where at < now() - make_interval(secs => %(older)s)
   and (%(at)s::timestamptz is null or (at, name) > (%(at)s, %(name)s))
 order by at, name limit %(limit)s

-- name: folders
-- What scans saw below a folder and nobody used since, by child (null: right here). A file was used when it was written,
-- when a transfer brought it, or when its slide or its run was. The first `bound` in the order of keys are looked at, and
-- each row, or one of nothing, says whether that is all.
with owned as materialized (
    select 'slides/' || number as owner, greatest(staged_at, viewed_at) as at from mover.slide_used
     union all
    select 'runs/' || id, at from mover.run_used where tier = %(tier)s),
entries as materialized (
    select key, size_bytes, greatest(to_timestamp(mtime_ns / 1e9), case when scan_id is null then recorded_at end) as written,
           case when substr(key, 1, 7) = 'slides/' then encode(substr(key, 1, 24), 'escape')
                when substr(key, 1, 5) = 'runs/' then encode(substr(key, 1, 35), 'escape') end as owner
      from mover.entry
     where tier = %(tier)s and gone_at is null and kind = 'file' and key >= %(folder)s
       and (%(end)s::bytea is null or key < %(end)s)
     order by key limit %(bound)s),
seen as (
    select substr(key, octet_length(%(folder)s::bytea) + 1) as rest, size_bytes, greatest(written, o.at) as at,
           o.at >= written as used
      from entries left join owned o using (owner)),
folders as (
    select case when position('/'::bytea in rest) > 0 then substr(rest, 1, position('/'::bytea in rest)) end as name,
           count(*) as count, sum(size_bytes)::bigint as bytes, max(at) as at,
           case when bool_or(used) then 'staged' else 'written' end as how
      from seen where at < now() - make_interval(secs => %(older)s) group by 1)
select folders.*, looked.whole
  from (select count(*) < %(bound)s as whole from entries) looked
  left join folders on %(at)s::timestamptz is null or (at, coalesce(name, '')) > (%(at)s, %(name)s::bytea)
 order by at, coalesce(name, '') limit %(limit)s

-- name: ages
-- For each tier, how long ago what stands there was used, whole and by age (`bucket`): of slides where slides stand, of
-- what scans saw elsewhere.
with slides as materialized (
    select s.tier, s.size_bytes + s.files_bytes as bytes, greatest(s.created_at, u.staged_at, u.viewed_at) as at
      from mover.slide s left join mover.slide_used u using (number)
     where not exists (select from mover.slide_withdrawal w where w.number = s.number and w.removed_at is not null)),
seen as (
    select tier, bytes, at from slides
     union all
    select t.name, e.size_bytes,
           greatest(to_timestamp(e.mtime_ns / 1e9), case when e.scan_id is null then e.recorded_at end, u.at)
      from mover.tier t
     cross join lateral (select * from mover.entry n where n.tier = t.name and n.gone_at is null and n.kind = 'file'
                          order by n.key limit %(bound)s) e
      left join mover.run_used u on u.tier = t.name and substr(e.key, 1, 5) = 'runs/'
                                and u.id = encode(substr(e.key, 6, 30), 'escape')
     where not exists (select from slides s where s.tier = t.name)),
aged as (
    select tier, bytes, age_s, width_bucket(age_s, %(ages)s::float8[]) as bucket
      from (select tier, bytes, greatest(extract(epoch from now() - at), 0)::float8 as age_s from seen) s)
select tier, bucket, grouping(bucket) = 1 as whole, count(*) as count, sum(bytes)::bigint as bytes, max(age_s) as oldest_s,
       percentile_disc(0.5) within group (order by age_s) as median_s, not exists (select from slides s where s.tier = aged.tier) as scanned
  from aged group by grouping sets ((tier), (tier, bucket)) order by tier, bucket

-- name: looked_at
-- Now. Who it was stands in the audit.
insert into mover.slide_view (project_id, number) values (%(project)s, %(number)s)
on conflict (project_id, number) do update set at = now()
