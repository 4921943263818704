-- name: lock_name
-- Two people who save one name at once get two versions, not one error.
select pg_advisory_xact_lock(hashtextextended(%(project)s || '|cohort|' || %(name)s, 0));

-- name: newest
-- The newest version of a name.
select id, name, version, expression, created_at from mover.cohort
 where name = %(name)s order by version desc limit 1;

-- name: by_version
-- One version of a name.
select id, name, version, expression, created_at from mover.cohort where name = %(name)s and version = %(version)s;

-- name: by_id
-- One cohort by id.
select id, name, version, expression, created_at from mover.cohort where id = %(id)s;

-- name: add
-- A version of a name; versions are never changed.
insert into mover.cohort (id, project_id, name, version, expression, created_by)
values (%(id)s, %(project)s, %(name)s, %(version)s, %(expression)s, %(actor)s)
returning id, name, version, expression, created_at;

-- name: page
-- The newest version of every name.
select distinct on (name) id, name, version, expression, created_at from mover.cohort
 where name > %(after)s order by name, version desc limit %(limit)s;


-- name: selection
-- One frozen list.
select id, cohort_id as cohort, expression, count, bytes, root, frozen_at from mover.selection where id = %(id)s;

-- name: numbers
-- A page of its slides.
select number from mover.selection_slide where selection_id = %(selection)s and number > %(after)s
 order by number limit %(limit)s;

-- name: patients
-- Of these slides those that have a patient, each with a group that stands for him here and nowhere else.
select number, patient from mover.patient_groups(%(numbers)s);

-- name: ties
-- What else holds each of these slides to others, and its value of one column: a record's fact, or one of its own.
select s.number, array_remove(array[coalesce(s.root, s.digest), a.block], null) as ties,
       case %(home)s when 'record' then a.facts ->> %(fact)s
                     when 'slide' then case %(fact)s when 'family' then s.family when 'extension' then s.extension
                                       else s.facts ->> %(fact)s end end as stratum
  from mover.slide s left join mover.aligned a using (number)
 where s.number = any (%(numbers)s);

-- name: tags
-- The tags of the project, the most frequent first.
select tag, count(*) as slides from mover.slide_tag where present group by tag order by slides desc, tag limit %(limit)s;
