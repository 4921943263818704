-- name: identity
-- Who may ask for names: accounts and tokens of the project in roles that may, and tiers where files stand as they came.
with looks as (
    select body::jsonb ->> 'actor' as actor, count(*) as n from mover.audit_record
     where project_id = %(project)s and at > now() - interval '30 days'
       and (body::jsonb ->> 'action' = 'unseal' or starts_with(body::jsonb ->> 'action', 'vault '))
     group by 1)
select a.name as who, 'account' as way, g.role, g.granted_at as since,
       case when g.role = any(%(vault)s) then 'names and originals' else 'names of packs' end as may,
       coalesce(l.n, 0) as looks
  from mover.account_grant g join mover.account a on a.id = g.account_id left join looks l on l.actor = a.name
 where g.project_id = %(project)s and g.role = any(%(names)s) and a.disabled_at is null
   and (a.expires_at is null or a.expires_at > now())
union all
select t.actor, 'token', t.role, t.created_at,
       case when t.role = any(%(vault)s) then 'names and originals' else 'names of packs' end, coalesce(l.n, 0)
  from mover.token t left join looks l on l.actor = t.actor
 where t.project_id = %(project)s and t.role = any(%(names)s) and t.account_id is null and t.revoked_at is null
   and (t.expires_at is null or t.expires_at > now())
   and (t.scopes is null or t.scopes && %(rights)s)
union all
select distinct t.name, 'tier', t.role, t.seen_at, 'the files, by the rights of that storage', 0::bigint
  from mover.tier t where t.zone = 'identified' and exists (select from mover.batch b where b.tier = t.name)
 order by 2, 1, 4 limit %(limit)s;

-- name: clean
-- Of a slide: the proofs of its packs, what was sought in it later, and what speaks against it.
select p.at, p.kind::text as kind, p.verifier as what, p.id, p.root from mover.proof p
 where p.kind in ('verified', 'deidentified', 'adopted')
   and p.subject_id in (select %(about)s union all select k.id from mover.pack k where k.number = %(about)s)
union all
select s.at, 'search ' || s.outcome, s.strings || ' strings in ' || s.forms || ' forms', s.record_set_id, s.root
  from mover.slide_search s where s.number = %(about)s
union all
select w.at, 'withdrawn', w.reason, w.found_by, '' from mover.slide_withdrawal w where w.number = %(about)s
 order by 1 limit %(limit)s;

-- name: history
-- Every record about it, and about what it went through: a slide's packs, batches, runs and rulings; a pack's slide.
with its as (
    select %(about)s as id
    union select unnest(array[k.id, k.batch_id, k.number]) from mover.pack k where k.number = %(about)s or k.id = %(about)s
    union select r.id from mover.slide_ruling r where r.number = %(about)s
    union select e.run_id from mover.run_entry e where e.number = %(about)s
    union select s.id from mover.snapshot s where s.run_id = %(about)s)
select a.at, a.body::jsonb ->> 'actor' as actor, a.body::jsonb ->> 'action' as action, a.body::jsonb ->> 'subject' as subject,
       a.body::jsonb ->> 'reason' as reason, a.node || '/' || a.seq as record
  from mover.audit_record a
 where a.project_id = %(project)s and a.body::jsonb ->> 'subject' in (select id from its where id is not null)
 order by a.at, a.node, a.seq limit %(limit)s;

-- name: deletions
-- What was deleted for good or left a tier, who asked and who agreed; of one id, or all of them.
select * from (
    select r.applied_at as at, r.kind as what, coalesce(r.subjects[1], r.policy, '') as id, r.requested_by as asked_by,
           r.approved_by, r.reason as why, array_append(r.subjects, r.id) as ids
      from mover.protect_request r
     where r.applied_at is not null and r.kind in ('forget', 'empty-trash', 'shorten', 'release-hold', 'large')
    union all
    select s.decided_at, 'slide removed', s.number, s.asked_by, s.decided_by, s.reason, array[s.number, s.id]
      from mover.slide_ruling s where s.action = 'remove' and s.state in ('granted', 'done')
    union all
    select r.finished_at, 'sources released', r.tier, r.requested_by, r.approved_by,
           'a verified copy stands on ' || t.target || '; ' || coalesce(r.reason, 'fewer than a second person is asked for'),
           array[r.id, r.transfer_id]
      from mover.release r join mover.transfer t on t.id = r.transfer_id where r.state = 'purged'
    union all
    select r.cleaned_at, 'run cleaned', r.id, r.requested_by, null,
           'what it left is proved protected; its slides stand in the archive', array[r.id]
      from mover.run r where r.cleaned_at is not null
    union all
    select a.at, a.body::jsonb ->> 'action', a.body::jsonb ->> 'subject', a.body::jsonb ->> 'actor', null,
           coalesce(nullif(a.body::jsonb ->> 'reason', ''), 'a rule of the policy'), array[a.body::jsonb ->> 'subject']
      from mover.audit_record a
     where a.project_id = %(project)s
       and a.body::jsonb ->> 'action' in ('snapshots forgotten', 'vault erased', 'dump removed', 'strays purged')
) d (at, what, id, asked_by, approved_by, why, ids)
 where %(about)s = '' or %(about)s = any (d.ids)
 order by at desc nulls last limit %(limit)s;

-- name: last_copy
-- How many of what stand on one unlocked tier only: by this software they do not go, by that storage's owner they may.
select 'a slide with no second verified copy, tier ' || s.tier as way, 1 as persons, count(*) as count,
       case when coalesce((t.traits ->> 'object_lock')::boolean, false) then 'object lock of the bucket'
            else 'no lock that the tier tells of' end as held_by
  from mover.slide s join mover.tier t on t.name = s.tier
 where not exists (select from mover.slide_copy c where c.number = s.number and c.state = 'whole' and c.tier <> s.tier)
   and not exists (select from mover.slide_removal x where x.key = s.key and x.state = 'removed')
 group by s.tier, t.traits
union all
select 'a snapshot on ' || s.tier || ' with no second repository', 1, count(*),
       case when coalesce((t.traits ->> 'object_lock')::boolean, false) then 'object lock of the bucket'
            else 'no lock that the tier tells of' end
  from mover.snapshot s join mover.tier t on t.name = s.tier
 where s.state in ('written', 'checked')
   and not exists (select from mover.protect_turn c where c.policy = s.policy and c.kind = 'copy' and c.state = 'done'
                      and c.explanation is null and c.finished_at > s.recorded_at)
 group by s.tier, t.traits
 order by 1 limit %(limit)s;

-- name: drills
-- Restores that were tried, by itself or by a person, newest first; one that had nothing to try passed nothing.
select * from (
    select d.finished_at as at, 'dump: ' || d.kind as what, d.dump_id as id, d.passed, d.seconds,
           coalesce(d.explanation, d.tables || ' tables, ' || d.row_count || ' rows compared') as found
      from mover.dump_drill d where d.finished_at is not null
    union all
    select t.finished_at, 'snapshots: ' || t.kind, t.policy,
           case when t.state = 'failed' then false
                when coalesce((t.counts ->> 'files')::numeric, (t.counts ->> 'packs')::numeric, 0) > 0 then true end,
           coalesce((t.counts ->> 'milliseconds')::numeric / 1000, extract(epoch from t.finished_at - t.started_at)),
           coalesce(t.explanation, t.counts::text)
      from mover.protect_turn t where t.kind in ('drill', 'sample', 'whole') and t.finished_at is not null
    union all
    select r.finished_at, 'a person''s restore', r.snapshot_id, r.state = 'complete', r.seconds,
           r.files || ' files, ' || r.bytes || ' bytes'
      from mover.restore r where r.state in ('complete', 'incomplete', 'failed')
) d order by at desc limit %(limit)s;

-- name: overdue
-- Of each tier what the project vouches for there, how much of it was not read again since (each file was read back as
-- it was written), and the oldest reading.
select 'tier' as kind, 'files on ' || t.name || ' not read again since they were written' as what, count(*) as count,
       count(*) filter (where v.verified_at is null) as unverified, min(v.verified_at) as oldest
  from mover.tier t cross join lateral mover.vouched(t.name, '') v
 where t.zone = 'deidentified' group by t.name
union all
select 'snapshots', 'snapshots whose files were never read back', count(*),
       count(*) filter (where state = 'written'), min(recorded_at)
  from mover.snapshot where state in ('written', 'checked') having count(*) > 0
union all
select 'checkpoints', 'signed ends of the audit that no tier has', count(*),
       count(*) filter (where not exists (select from mover.checkpoint_copy k where (k.project_id, k.n) = (c.project_id, c.n))),
       min(c.at)
  from mover.checkpoint c where c.project_id = %(project)s having count(*) > 0
 order by 1, 2 limit %(limit)s;

-- name: places
-- Every tier on which anything of the project stands or stood, and when the first and the last came.
select p.tier, t.zone, p.what, p.count, p.bytes, p.first, p.last from (
    select tier, 'packs as they came' as what, coalesce(sum(found_count), 0) as count, null::numeric as bytes,
           min(created_at) as first, max(created_at) as last from mover.batch group by tier
    union all
    select tier, 'slides', count(*), sum(size_bytes), min(created_at), max(created_at) from mover.slide group by tier
    union all
    select c.tier, 'copies of slides', count(*), sum(s.size_bytes), min(c.tried_at), max(c.tried_at)
      from mover.slide_copy c join mover.slide s using (number) group by c.tier
    union all
    select tier, 'runs', count(*), sum(reserved_bytes), min(created_at), max(coalesce(cleaned_at, now()))
      from mover.run where ready_at is not null group by tier
    union all
    select tier, 'snapshots', count(*), sum(added_bytes), min(recorded_at), max(recorded_at) from mover.snapshot group by tier
    union all
    select c.tier, 'dumps of catalog and vault', count(*), sum(d.size_bytes), min(d.started_at), max(c.read_at)
      from mover.dump_copy c join mover.dump d on d.id = c.dump_id group by c.tier
    union all
    select target, 'moved or copied there', sum(moved_count)::bigint, sum(moved_bytes), min(created_at), max(finished_at)
      from mover.transfer where moved_count > 0 group by target
    union all
    select tier, 'entries as scans saw them', count(*), sum(size_bytes), min(recorded_at),
           max(coalesce(gone_at, recorded_at))
      from mover.entry group by tier
) p join mover.tier t on t.name = p.tier order by t.zone desc, p.tier, p.what limit %(limit)s;

-- name: made
-- Of a slide, pack, run or snapshot: the versions that proved it, and the texts of policies that were in force then.
with its as (
    select %(about)s as id
    union select k.id from mover.pack k where k.number = %(about)s),
proofs as (
    select p.at, p.kind::text as kind, p.verifier as what, p.root as digest, p.id from mover.proof p
     where p.subject_id in (select id from its)),
named as (
    select b.policy as name, k.updated_at as at from mover.pack k join mover.batch b on b.id = k.batch_id
     where k.number = %(about)s or k.id = %(about)s
    union select r.policy, r.created_at from mover.run r where r.id = %(about)s
    union select s.policy, s.recorded_at from mover.snapshot s where s.id = %(about)s)
select at, kind, what, digest, id from proofs
union all
select p.loaded_at, 'policy', n.name, p.digest, n.name from named n
  join lateral (select loaded_at, digest from mover.policy where name = n.name and loaded_at <= n.at
                 order by loaded_at desc limit 1) p on true
 order by 1, 2 limit %(limit)s;

-- name: earlier
-- Packs on tiers in which the oldest audit records stand, and from before when they are.
select r.id, r.before, r.digest from mover.audit_retirement r
 where r.project_id = %(project)s and r.approved_at is not null order by r.n desc limit %(limit)s;
