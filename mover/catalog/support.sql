-- name: work
-- Shards by what they are and how they stand; of those that failed, with which code.
select queue, kind, state::text as state, coalesce(error_code, '') as code, count(*) as shards,
       max(failures) as failures, min(created_at) as oldest, max(finished_at) as newest
  from mover.shard group by 1, 2, 3, 4 order by 1, 2, 3, 4 limit 1000

-- name: states
-- Batches, packs, tables and runs by state.
select 'batch' as noun, state::text as state, count(*) as found from mover.batch group by 2
union all select 'pack', state::text, count(*) from mover.pack group by 2
union all select 'records', state::text, count(*) from mover.record_set group by 2
union all select 'run', state::text, count(*) from mover.run group by 2
 order by 1, 2

-- name: jobs
-- Jobs of the dispatcher by state.
select status::text as state, count(*) as jobs, count(*) filter (where attempts > 1) as again
  from queue.procrastinate_jobs group by 1 order by 1

-- name: nodes
-- Daemons that were here.
select id as node, version, started_at, seen_at from mover.node order by id limit 1000

-- name: recent_batches
-- The newest batches: pack names are known by batch.
select id from mover.batch order by created_at desc limit %(limit)s

-- name: migrations
-- Which files made this schema, and when.
select file, applied_at from mover_meta.migration order by file

-- name: server
-- Version, size and start of the database, and how often it was asked in vain.
select current_setting('server_version') as version, pg_database_size(current_database()) as size_bytes,
       pg_postmaster_start_time() as started_at, d.numbackends as connections, d.deadlocks, d.xact_rollback as rollbacks,
       d.temp_bytes, now() as at
  from pg_stat_database d where d.datname = current_database()

-- name: tables
-- Every table with its size, its rows as the planner believes, and when it was last swept.
select n.nspname as schema, c.relname as name, pg_total_relation_size(c.oid) as size_bytes,
       greatest(c.reltuples, 0)::bigint as rows, coalesce(s.n_dead_tup, 0) as dead, coalesce(s.seq_scan, 0) as seq_scans,
       coalesce(s.idx_scan, 0) as index_scans, greatest(s.last_vacuum, s.last_autovacuum) as swept_at,
       greatest(s.last_analyze, s.last_autoanalyze) as analysed_at
  from pg_class c join pg_namespace n on n.oid = c.relnamespace left join pg_stat_all_tables s on s.relid = c.oid
 where n.nspname in ('mover', 'queue', 'vault', 'mover_meta') and c.relkind in ('r', 'p', 'm')
 order by 3 desc limit 500

-- name: at_work
-- What the database works on now and for how long; only the first line of each statement, which is its sentence.
select application_name as program, state, coalesce(wait_event_type, '') as waits_for,
       extract(epoch from now() - query_start)::double precision as seconds, split_part(query, chr(10), 1) as sentence
  from pg_stat_activity
 where datname = current_database() and state <> 'idle' and pid <> pg_backend_pid()
 order by query_start limit 100

-- name: counted
-- Whether this database counts its statements.
select to_regclass('pg_stat_statements') is not null as counted

-- name: slow
-- The statements that took longest altogether; only the first line of each, which is its sentence.
select split_part(query, chr(10), 1) as sentence, calls, mean_exec_time / 1000 as mean_s, max_exec_time / 1000 as max_s,
       total_exec_time / 1000 as total_s, rows
  from pg_stat_statements order by total_exec_time desc limit 100
