-- name: ask
-- Asked for by one person; the same again is the same.
select mover.request_make(%(id)s, %(kind)s, %(policy)s, %(subjects)s, %(wanted)s::jsonb, %(reason)s, %(proof)s,
                          %(actor)s, %(node)s) as id

-- name: approve
-- By another person.
select mover.request_approve(%(id)s, %(proof)s, %(actor)s, %(node)s)

-- name: withdraw
-- By anybody: protection stays as it is.
select mover.request_withdraw(%(id)s, %(proof)s, %(actor)s, %(node)s)

-- name: due
-- Approved, and the delay is over.
select id, kind, policy, subjects from mover.protect_request
 where approved_at is not null and not_before <= now() and lapses_at > now() and applied_at is null
   and withdrawn_at is null order by not_before, id limit %(limit)s

-- name: apply
-- Carried out once, if the database still agrees.
select mover.request_apply(%(id)s, %(node)s) as applied

-- name: get
-- One of them, and what it would shorten.
select r.*, now() as now, coalesce(mover.terms_shorter(t.terms, r.wanted), '{}') as shorter
  from mover.protect_request r left join mover.protect_terms t on t.policy = r.policy and r.kind = 'shorten'
 where r.id = %(id)s

-- name: page
-- Newest first, from where the page before ended.
select r.*, now() as now, coalesce(mover.terms_shorter(t.terms, r.wanted), '{}') as shorter
  from mover.protect_request r left join mover.protect_terms t on t.policy = r.policy and r.kind = 'shorten'
 where %(after)s::text is null
    or (r.requested_at, r.id) < (select requested_at, id from mover.protect_request where id = %(after)s)
 order by r.requested_at desc, r.id desc limit %(limit)s

-- name: open
-- What waits for a second person or for its delay.
select r.*, now() as now, coalesce(mover.terms_shorter(t.terms, r.wanted), '{}') as shorter
  from mover.protect_request r left join mover.protect_terms t on t.policy = r.policy and r.kind = 'shorten'
 where r.applied_at is null and r.withdrawn_at is null and r.lapses_at > now()
 order by r.requested_at desc, r.id desc limit %(limit)s
