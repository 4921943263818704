-- name: stand
-- Whether a run has its entries yet.
select exists (select from mover.run_entry where run_id = %(run)s) as stand

-- name: places
-- Where the slides of a selection stand.
select l.block, l.offsets from mover.selection s join mover.selection_list l on l.project_id = s.project_id and l.root = s.root
 where s.id = %(selection)s order by l.block

-- name: selected
-- Every file of every slide at these places, with what the layout needs; a slide's main file, which has no name, first.
select f.number, s.extension, f.name, s.files_count > 0 as several, f.size_bytes, f.digest, f.tier, f.key,
       coalesce(a.facts -> %(label)s::text, s.facts -> %(label)s::text,
                case %(label)s::text when 'family' then to_jsonb(s.family) when 'extension' then to_jsonb(s.extension) end) as value
  from mover.slide_place p
  join mover.slide s using (number)
  join lateral (select s.number, null as name, s.size_bytes, s.digest, s.tier, s.key
                union all
                select number, name, size_bytes, digest, tier, key from mover.slide_file
                 where number = s.number and s.files_count > 0) f on true
  left join mover.aligned a on %(label)s::text is not null and a.number = s.number
 where p.place = any (%(places)s)
 order by f.number, f.name collate "C" nulls first

-- name: insert_entries
-- Files the run root will hold.
insert into mover.run_entry (project_id, run_id, path, number, split, size_bytes, digest, archive_tier, archive_key,
                             shard, shard_offset)
select (select mover.current_project()), %(run)s, e.* from json_to_recordset(%(rows)s)
    as e (path text, number text, split text, size_bytes bigint, digest text, archive_tier text, archive_key text,
          shard text, shard_offset bigint)

-- name: insert_tars
-- Tars the files will stand in.
insert into mover.run_tar (project_id, run_id, path, made_of, count, size_bytes)
select (select mover.current_project()), %(run)s, t.* from json_to_recordset(%(rows)s)
    as t (path text, made_of text, count integer, size_bytes bigint)

-- name: repeat_entries
-- The files of an earlier run, each where it lay.
insert into mover.run_entry (project_id, run_id, path, number, split, size_bytes, digest, archive_tier, archive_key,
                             shard, shard_offset)
select project_id, %(run)s, path, number, split, size_bytes, digest, archive_tier, archive_key, shard, shard_offset
  from mover.run_entry where run_id = %(like)s and number is not null

-- name: repeat_tars
-- And its tars, each made of the same.
insert into mover.run_tar (project_id, run_id, path, made_of, count, size_bytes)
select project_id, %(run)s, path, made_of, count, size_bytes from mover.run_tar where run_id = %(like)s

-- name: splits
-- Which split each slide of an earlier run was in.
select distinct number, split from mover.run_entry where run_id = %(run)s and split is not null

-- name: wanted
-- What a run wants, by its entries: tars are a little larger than what they hold.
update mover.run r
   set wanted_files = t.files,
       wanted_bytes = coalesce((select sum(size_bytes) from mover.run_tar where run_id = r.id), t.bytes)
  from mover.run_tally t where t.run_id = r.id and r.id = %(run)s
