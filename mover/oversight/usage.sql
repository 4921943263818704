-- name: zone
-- Whether names on the tier may be told.
select zone from mover.tier where name = %(tier)s

-- name: usage
-- What stands below a folder, once by child (null: right here, or names may not be told) and once by size and age. At
-- most `bound` entries are looked at, in the order of their keys, and the largest children are told.
with seen as materialized (
    select substr(key, octet_length(%(folder)s::bytea) + 1) as rest, size_bytes,
           greatest(extract(epoch from now()) - mtime_ns / 1e9, 0)::float8 as age_s
      from mover.entry
     where tier = %(tier)s and gone_at is null and kind = 'file' and key >= %(folder)s
       and (%(end)s::bytea is null or key < %(end)s)
     order by key limit %(bound)s),
placed as (
    select case when %(names)s and position('/'::bytea in rest) > 0 then substr(rest, 1, position('/'::bytea in rest)) end as child,
           width_bucket(size_bytes, %(sizes)s::bigint[]) as size, width_bucket(age_s, %(ages)s::float8[]) as age,
           size_bytes, age_s
      from seen)
select grouping(child) = 1 as is_cell, child, size, age, count(*) as count, sum(size_bytes)::bigint as bytes,
       coalesce(sum(size_bytes * age_s) / nullif(sum(size_bytes), 0), avg(age_s)) as age_s
  from placed group by grouping sets ((child), (size, age))
 order by 1 desc, bytes desc, child limit %(most)s

-- name: duplicates
-- Contents that stand more than once, the most that could be spared first; `keys` are a few of where.
with twice as (
    select digest, count(*) as count, max(size_bytes) as bytes, (count(*) - 1) * max(size_bytes) as spare_bytes
      from mover.entry
     where tier = %(tier)s and gone_at is null and kind = 'file' and digest is not null and size_bytes > 0
     group by digest having count(*) > 1),
page as (
    select * from twice
     where %(digest)s::text is null or (spare_bytes, digest) < (%(spare)s::bigint, %(digest)s::text)
     order by spare_bytes desc, digest desc limit %(limit)s)
select page.*, case when %(names)s then array(
           select key from mover.entry e
            where e.tier = %(tier)s and e.digest = page.digest and size_bytes > 0 and gone_at is null and kind = 'file'
            limit %(keys)s) end as keys
  from page order by spare_bytes desc, digest desc
