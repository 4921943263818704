-- name: stand
-- This node follows another text from now on, or none; the same as before is no news.
insert into mover.policy_stand (node, name, digest)
select %(node)s, %(name)s, %(digest)s
 where %(digest)s::text is distinct from (
       select digest from mover.policy_stand where node = %(node)s and name = %(name)s order by seq desc limit 1)

-- name: standing
-- What this node followed by its own word.
select distinct on (name) name, digest from mover.policy_stand where node = %(node)s order by name, seq desc

-- name: agreed
-- What is to be written into this node's folder, in the order in which it was agreed on.
select * from mover.policy_change
 where node = %(node)s and agreed_at is not null and applied_at is null and refused_at is null
   and withdrawn_at is null and lapses_at > now() order by agreed_at, id limit %(limit)s

-- name: still
-- Whether it is to be written yet. Of a node's two processes one writes; the lock goes with the transaction.
select pg_advisory_xact_lock(hashtextextended('policies of ' || %(node)s, 0)),
       (select applied_at is null and refused_at is null and withdrawn_at is null from mover.policy_change
         where id = %(id)s) as open

-- name: carried
-- It stands there, or why it cannot.
select mover.policy_carried(%(id)s, %(node)s, %(refused)s)
