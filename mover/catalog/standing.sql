-- name: projects
-- Every project of this database.
select id from mover.project order by id

-- name: standing
-- What of this project stands on a tier, or waits for it; what only happened there is no reason to keep it declared.
select what, count from (
    select 'slides' as what, count(*) as count from mover.slide where tier = %(tier)s
    union all
    select 'files of slides', count(*) from mover.slide_file where tier = %(tier)s
    union all
    select 'second copies', count(*) from mover.slide_copy where tier = %(tier)s and state <> 'failed'
    union all
    select 'snapshots', count(*) from mover.snapshot where tier = %(tier)s and state <> 'forgotten'
    union all
    select 'dumps', count(*) from mover.dump_copy where tier = %(tier)s and state <> 'gone'
    union all
    select 'signed ends of the audit', count(*) from mover.checkpoint_copy where tier = %(tier)s
    union all
    select 'runs', count(*) from mover.run
     where tier = %(tier)s and state not in ('cleaned', 'refused', 'cancelled')
    union all
    select 'released files', count(*) from mover.release
     where tier = %(tier)s and state not in ('purged', 'restored', 'dropped')
    union all
    -- one that failed has ended: its folder may be gone for ever
    select 'open batches', count(*) from mover.batch
     where tier = %(tier)s and state in ('declared', 'walking', 'working')
    union all
    select 'packs in quarantine', count(*) from mover.pack p join mover.batch b on b.id = p.batch_id
     where b.tier = %(tier)s and p.state = 'quarantined'
    union all
    select 'open transfers', count(*) from mover.transfer
     where (target = %(tier)s or %(tier)s = any (sources))
       and state not in ('refused', 'done', 'incomplete', 'failed', 'aborted')
    union all
    select 'waiting work', count(*) from mover.shard where queue = %(queue)s and state in ('waiting', 'running')
) found where count > 0
