-- name: of_subjects
-- The project's slides that records, or DICOM objects themselves, tie to these patients.
select a.number, a.subject from mover.aligned a where a.subject = any (%(subjects)s)
 union
select s.number, s.facts ->> 'subject' from mover.slide s where s.facts ->> 'subject' = any (%(subjects)s)
 order by 1, 2;

-- name: waiting
-- Of these slides, those that were not searched for this record set yet, and that still stand.
select s.number, s.tier, coalesce(s.root, s.digest) as root from mover.slide s
 where s.number = any (%(numbers)s)
   and not exists (select from mover.slide_search d where d.record_set_id = %(record_set)s and d.number = s.number)
   and not exists (select from mover.slide_withdrawal w where w.number = s.number)
 order by s.number;

-- name: excused
-- What was found in these slides when they were withdrawn, and was called a false alarm since.
select d.number, d.sought from mover.slide_search d
 where d.number = any (%(numbers)s) and d.outcome = 'found' and d.sought is not null
   and exists (select from mover.slide_ruling r where r.number = d.number and r.action = 'reinstate'
                  and r.state = 'done' and r.decided_at >= d.at)

-- name: put_search
-- What the search of a slide gave; it is where a killed search goes on.
insert into mover.slide_search (project_id, record_set_id, number, outcome, strings, forms, bytes, root, sought)
values (%(project)s, %(record_set)s, %(number)s, %(outcome)s, %(strings)s, %(forms)s, %(bytes)s, %(root)s, %(sought)s)
on conflict (record_set_id, number) do nothing;

-- name: lock_withdrawals
-- A run becomes ready before a withdrawal, and is told of, or after it, and is refused.
select pg_advisory_xact_lock(hashtextextended('mover withdrawals', 0));

-- name: withdraw
-- From the commit on no selection and no run takes these slides, in whatever project.
insert into mover.slide_withdrawal (number, reason, found_by)
select n, %(reason)s, %(record_set)s from unnest(%(numbers)s::text[]) as n on conflict (number) do nothing;

-- name: quarantine_packs
-- Their packs wait for a person again.
update mover.pack set state = 'quarantined', reason = %(reason)s, explanation = %(explanation)s, cause = null,
       updated_at = now()
 where number = any (%(numbers)s) and state in ('published', 'duplicate')
returning id;

-- name: holders
-- Every project that has these slides, with its runs that hold them.
select number, project_id, run_id from mover.slide_holders(%(numbers)s) order by project_id, run_id, number;

-- name: totals
-- What was sought in all for one record set.
select count(*) filter (where outcome <> 'unsearched') as slides, count(*) filter (where outcome = 'found') as withdrawn,
       count(*) filter (where outcome = 'unsearched') as unsearched, coalesce(sum(strings), 0)::bigint as strings,
       coalesce(sum(forms), 0)::bigint as forms, coalesce(sum(bytes), 0)::bigint as bytes
  from mover.slide_search where record_set_id = %(record_set)s;

-- name: lines
-- What the proof's root is made of.
select number, root, outcome from mover.slide_search where record_set_id = %(record_set)s order by number;

-- name: withdrawn
-- The slides a record set withdrew, with the project's own runs that hold them still.
select d.number, array_agg(distinct r.id order by r.id) filter (where r.id is not null) as runs
  from mover.slide_search d
  left join mover.run_entry e on e.number = d.number
  left join mover.run r on r.id = e.run_id and r.state not in ('cleaned', 'refused', 'cancelled', 'failed')
 where d.record_set_id = %(record_set)s and d.outcome = 'found'
 group by d.number order by d.number limit %(limit)s;
