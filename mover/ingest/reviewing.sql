-- name: last_words
-- What policies said last that are followed no more.
select distinct on (s.name, p.kind) s.name, p.kind, p.text
  from mover.policy_stand s join mover.policy p using (name, digest)
 where s.name = any(%(names)s) and p.kind in ('images', 'records') and p.kind || ' ' || s.name <> all(%(here)s::text[])
 order by s.name, p.kind, s.seq desc
