-- name: append
-- The only way to write: extends the chain under its head's lock.
select mover.audit_append(%(project)s, %(node)s, %(body)s) as seq;

-- name: heads_of_project
-- Where each chain of the project ends.
select project_id as project, node, seq, hash from mover.audit_head where project_id = %(project)s order by node;

-- name: chain_after
-- A slice of one chain in its order, for checking and export.
select project_id as project, node, seq, at, body, prev, hash from mover.audit_record
 where project_id = %(project)s and node = %(node)s and seq > %(after)s order by seq limit %(limit)s;

-- name: nodes_of_project
-- Every node with a head or a record: a chain whose head was removed must not be overlooked.
select node from mover.audit_head where project_id = %(project)s
 union select node from mover.audit_record where project_id = %(project)s order by 1;

-- name: matching_in_order
-- The same records as the search, oldest first, for whoever takes all of them along. Where it goes on is a plain
-- comparison, so that the index finds it whatever the plan.
select project_id as project, node, seq, at, body, prev, hash from mover.audit_record
 where project_id = %(project)s
   and (%(subject)s::text is null or body::jsonb ->> 'subject' = %(subject)s)
   and (%(actor)s::text is null or body::jsonb ->> 'actor' = %(actor)s)
   and (%(action)s::text is null or starts_with(body::jsonb ->> 'action', %(action)s))
   and at < coalesce(%(until)s::timestamptz, 'infinity')
   and (at, node, seq) > (%(after)s::timestamptz, %(node)s::text, %(seq)s::bigint)
 order by at, node, seq limit %(limit)s;

-- name: page_newest_first
-- What people read: newest first over all chains of the project, optionally of one subject, actor, action or time.
select node, seq, at, body, hash from mover.audit_record
 where project_id = %(project)s
   and (%(subject)s::text is null or body::jsonb ->> 'subject' = %(subject)s)
   and (%(actor)s::text is null or body::jsonb ->> 'actor' = %(actor)s)
   and (%(action)s::text is null or starts_with(body::jsonb ->> 'action', %(action)s))
   and (%(since)s::timestamptz is null or at >= %(since)s)
   and (%(until)s::timestamptz is null or at < %(until)s)
   and (%(at)s::timestamptz is null or (at, node, seq) < (%(at)s, %(node)s, %(seq)s))
 order by at desc, node desc, seq desc limit %(limit)s;

-- name: packs_of_project
-- Where records stand that left, oldest first.
select r.id, r.digest, r.chains from mover.audit_retirement r
 where r.project_id = %(project)s and r.approved_at is not null order by r.n;
