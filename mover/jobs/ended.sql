-- name: projects
-- Every project of this catalog.
select id from mover.project order by id

-- name: forget
-- A piece of what ended long ago, the oldest first. What failed stays longer: somebody may still ask why.
delete from mover.shard where id in (
    select id from mover.shard
     where finished_at < now() - make_interval(days => %(done_days)s)
       and (state in ('done', 'cancelled') or finished_at < now() - make_interval(days => %(failed_days)s))
     order by finished_at limit %(limit)s for update skip locked)
returning state::text as state

-- name: oldest
-- How long ago the oldest of those that stand ended.
select extract(epoch from now() - min(finished_at))::double precision as seconds from mover.shard
 where finished_at is not null

-- name: sizes
-- What each table of ours takes with its indexes, the small ones left out.
select n.nspname || '.' || c.relname as name, pg_total_relation_size(c.oid) as size_bytes
  from pg_class c join pg_namespace n on n.oid = c.relnamespace
 where n.nspname in ('mover', 'queue', 'vault') and c.relkind in ('r', 'm') and pg_total_relation_size(c.oid) >= 1 << 20
 order by 2 desc limit 200
