-- name: turn
-- One daemon looks at a time.
select pg_try_advisory_xact_lock(hashtext('mover alarms'), hashtext(%(project)s)) as mine;

-- name: standing
-- What stands open, by key.
select id, key, count, opened_at, told_at, told_count from mover.alarm where closed_at is null;

-- name: stand
-- Opened, or kept with the words of now.
insert into mover.alarm (project_id, id, key, code, severity, noun, subject, words, hint, count)
values (%(project)s, %(id)s, %(key)s, %(code)s, %(severity)s, %(noun)s, %(subject)s, %(words)s, %(hint)s, %(count)s)
on conflict (project_id, key) where closed_at is null do update
   set severity = excluded.severity, subject = excluded.subject, words = excluded.words, hint = excluded.hint,
       count = excluded.count;

-- name: close
-- Nobody needs anything any more.
update mover.alarm set closed_at = now() where key = any (%(keys)s) and closed_at is null;

-- name: tell
-- To one receiver; delivered from the outbox. What ended is found among the closed.
insert into mover.alarm_telling (project_id, alarm_id, receiver, event, words, count)
select project_id, id, %(receiver)s, %(event)s, words, count from mover.alarm
 where key = %(key)s and (closed_at is null or closed_at = now()) order by opened_at desc limit 1;

-- name: told
-- So that it is not said again before its time.
update mover.alarm set told_at = now(), told_count = count where key = %(key)s and closed_at is null;

-- name: take
-- What is due, taken for as long as one round of deliveries may last.
update mover.alarm_telling t set not_before = now() + make_interval(secs => %(for_s)s), attempts = attempts + 1
  from (select alarm_id, seq from mover.alarm_telling
         where told_at is null and given_up_at is null and not_before <= now()
         order by not_before, seq limit %(limit)s for update skip locked) due, mover.alarm a
 where t.alarm_id = due.alarm_id and t.seq = due.seq and a.id = t.alarm_id
returning t.alarm_id, t.seq, t.receiver, t.event, t.at, t.words, t.count, t.attempts, a.code, a.severity, a.noun,
          a.subject, a.hint, a.opened_at;

-- name: delivered
-- The receiver said so.
update mover.alarm_telling set told_at = now() where alarm_id = %(alarm)s and seq = %(seq)s;

-- name: later
-- Tried in vain; after a week nobody waits for it.
update mover.alarm_telling set not_before = now() + make_interval(secs => %(pause_s)s),
       given_up_at = case when at < now() - make_interval(secs => %(given_up_s)s) then now() end
 where alarm_id = %(alarm)s and seq = %(seq)s;

-- name: page
-- Newest first, with what became of each telling.
select a.id, a.code, a.severity, a.noun, a.subject, a.words, a.hint, a.count, a.opened_at, a.closed_at,
       coalesce((select json_agg(json_build_object('receiver', t.receiver, 'event', t.event, 'at', t.at, 'told_at', t.told_at,
                                                   'attempts', t.attempts, 'given_up_at', t.given_up_at) order by t.seq)
                   from (select * from mover.alarm_telling t where t.alarm_id = a.id order by seq desc limit 50) t), '[]')
           as tellings
  from mover.alarm a
 where (not %(open)s or a.closed_at is null)
   and (%(at)s::timestamptz is null or (a.opened_at, a.id) < (%(at)s, %(id)s))
 order by a.opened_at desc, a.id desc limit %(limit)s;
