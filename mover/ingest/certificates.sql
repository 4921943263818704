-- name: batch
-- The batch a certificate is asked for.
select id, state, policy, created_at, finished_at from mover.batch where id = %(id)s;

-- name: packs
-- What became of its packs, by state and reason.
select state, reason, count(*) as count, coalesce(sum(size_bytes), 0)::bigint as bytes
  from mover.pack where batch_id = %(batch)s group by state, reason order by state, reason;

-- name: slides
-- Its published slides with what was decided and proved of each, and how much was sought in it since.
select s.number, s.family, s.extension, s.key, s.size_bytes, s.digest, s.thumbnail_key, s.thumbnail_bytes,
       s.thumbnail_digest, p.decisions, d.verifier, d.count, d.bytes as copied_bytes, d.details,
       l.searches, l.strings as later_strings, l.bytes as later_bytes
  from mover.pack p
  join mover.slide s using (number)
  join mover.proof d on d.id = p.deidentified_proof
  left join lateral (select count(*) as searches, sum(strings)::bigint as strings, sum(bytes)::bigint as bytes
                       from mover.slide_search where number = s.number and outcome = 'clean') l on true
 where p.batch_id = %(batch)s and p.state = 'published'
   and not exists (select from mover.slide_withdrawal w where w.number = s.number)
 order by s.number limit %(limit)s;

-- name: files
-- The files beside the main ones.
select number, key, size_bytes, digest from mover.slide_file where number = any (%(numbers)s) order by number, name;

-- name: records
-- The newest aligned tables of the batch.
select policy, report from mover.record_set where batch_id = %(batch)s and state = 'aligned'
 order by version desc limit 1;

-- name: profiles
-- The text of every profile that was ever in force.
select name, digest, text from mover.policy where kind = 'deid' order by loaded_at desc limit %(limit)s;

-- name: previous
-- The certificate issued last in this project.
select digest from mover.certificate order by issued_at desc, digest limit 1;

-- name: standing
-- The certificate that says the same, by the same key.
select body from mover.certificate
 where batch_id = %(batch)s and content = %(content)s and fingerprint = %(fingerprint)s;

-- name: issue
-- What was signed, kept for ever; of two who ask at once one issues.
insert into mover.certificate (digest, project_id, batch_id, content, fingerprint, body, issued_by)
values (%(digest)s, %(project)s, %(batch)s, %(content)s, %(fingerprint)s, %(body)s, %(actor)s)
on conflict (project_id, batch_id, content, fingerprint) do nothing
returning digest;

-- name: lock_issue
-- Certificates of one project are issued one after the other: each names the one before.
select pg_advisory_xact_lock(hashtextextended(%(project)s || '|certificate', 0));
