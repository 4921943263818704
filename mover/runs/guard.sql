-- name: selection
-- A frozen list of the project.
select id from mover.selection where id = %(id)s

-- name: listed
-- Its slides.
select number from mover.selection_slide where selection_id = %(selection)s order by number

-- name: leaks
-- Slides that share something with a slide of another split, each once: by the closest thing they share, beside one of
-- those they share it with; and, where they are asked for, slides whose patient nobody knows. With all counts by kind.
with member as materialized (
    select number, split from unnest(%(numbers)s::text[], %(splits)s::text[]) as t (number, split)),
patient as materialized (select number, patient from mover.patient_groups(%(numbers)s)),
slide as materialized (
    select s.number, coalesce(s.root, s.digest) as digest, a.block
      from mover.slide s left join mover.aligned a using (number) where s.number = any (%(numbers)s)),
shared (number, rank, key) as materialized (
    select number, 1, number from member
    union select number, 2, digest from slide
    union select number, 3, block from slide where block is not null
    union select number, 4, patient::text from patient),
torn as materialized (
    select rank, key from shared join member using (number) group by rank, key having min(split) <> max(split)),
beside as (
    select rank, number, split, first_value(number) over up as low, first_value(split) over up as low_split,
           first_value(number) over down as high, first_value(split) over down as high_split
      from torn join shared using (rank, key) join member using (number)
    window up as (partition by rank, key order by split collate "C", number),
           down as (partition by rank, key order by split collate "C" desc, number)),
closest as (select distinct on (number, split) * from beside order by number, split, rank),
told as (
    select rank, (array['same-slide', 'same-digest', 'same-block', 'same-patient'])[rank] as why, number, split,
           case when split = low_split then high else low end as other,
           case when split = low_split then high_split else low_split end as other_split
      from closest
    union all
    select 5, 'unknown-patient', m.number, m.split, null, null from member m
     where %(unknown)s and not exists (select from patient p where p.number = m.number))
select why, number, split, other, other_split,
       (select jsonb_object_agg(c.why, c.count) from (select why, count(*) from told group by why) c) as counts
  from told order by rank, number, split collate "C" limit %(limit)s
