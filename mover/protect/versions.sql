-- name: versions
-- The checked snapshots that hold a path, newest on record first: all of them, or those in which it is not what it was
-- in the snapshot of the same series before.
with versions as (
    select s.id, s.run_id, s.series, s.sequence, s.recorded_at, a.size_bytes, a.digest,
           lag(a.digest) over (partition by s.series order by s.sequence) as digest_before
      from mover.snapshot s left join mover.artifact a on a.snapshot_id = s.id and a.path = %(path)s
     where s.state = 'checked' and (%(series)s::text is null or s.series = %(series)s)
       and (%(as_of)s::timestamptz is null or s.recorded_at <= %(as_of)s)
)
select id, run_id, series, sequence, recorded_at, size_bytes, digest,
       case when digest is null then 'gone' when digest_before is null then 'new'
            when digest <> digest_before then 'changed' else 'same' end as change
  from versions
 where (digest is distinct from digest_before or (%(every)s and digest is not null))
   and (%(after)s::bigint is null or sequence < %(after)s)
 order by sequence desc limit %(limit)s
