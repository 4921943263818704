-- name: get
-- A transfer as it stands.
select * from mover.transfer where id = %(id)s

-- name: lock
-- A transfer, held for a change of state or of its counts.
select * from mover.transfer where id = %(id)s for no key update

-- name: set_state
-- One step; time counts as busy only while something moves.
update mover.transfer
   set state = %(state)s, reason = %(reason)s, explanation = %(explanation)s,
       paused_in = case when %(state)s = 'paused' then state end,
       busy_s = busy_s + case when busy_since is not null and %(state)s not in ('moving', 'canary')
                              then extract(epoch from clock_timestamp() - busy_since) else 0 end,
       busy_since = case when %(state)s in ('moving', 'canary') then coalesce(busy_since, clock_timestamp()) end,
       finished_at = case when %(state)s in ('done', 'incomplete', 'failed', 'aborted', 'refused') then now() end
 where id = %(id)s

-- name: planned
-- The plan stands: what was frozen, or why it was refused.
update mover.transfer
   set state = %(state)s, reason = %(reason)s, explanation = %(explanation)s, offenders = %(offenders)s,
       entries = %(entries)s, bytes = %(bytes)s, looked_at = %(looked_at)s, estimate_s = %(estimate_s)s,
       request = %(request)s,
       skipped_count = %(skipped)s, failed_count = %(failed)s,
       started_at = case when %(state)s in ('moving', 'canary') then now() end,
       busy_since = case when %(state)s in ('moving', 'canary') then clock_timestamp() end,
       finished_at = case when %(state)s in ('refused', 'done') then now() end
 where id = %(id)s

-- name: parts
-- What waits, cut into ranges that are bounded in entries and in bytes; of a canary only the first of each source.
with waiting as (
    select at, id, size_bytes, row_number() over w - 1 as n, sum(size_bytes) over w - size_bytes as before
      from mover.transfer_entry where transfer_id = %(transfer)s and state = 'waiting'
    window w as (partition by at order by id))
select at, min(id) as first, max(id) as last from waiting
 where %(each)s::bigint is null or n < %(each)s
 group by at, n / %(entries)s::bigint, div(before, %(bytes)s::bigint) order by min(id)

-- name: waiting
-- The entries of a shard that still want to be moved.
select id, source, target, kind, size_bytes, mtime_ns, mark, known, known_since from mover.transfer_entry
 where transfer_id = %(transfer)s and at = %(at)s and id between %(first)s and %(last)s and state = 'waiting' order by id

-- name: running_before
-- Shards of the same source at work that began to exist earlier.
select count(*) as shards from mover.shard
 where subject_id = %(subject)s and kind = 'transfer-move' and state = 'running' and members[1] = %(at)s and id < %(id)s

-- name: settle
-- Outcomes into rows. What failed for a reason that may pass waits for the next round, as often as it may.
update mover.transfer_entry e
   set state = case when o.state = 'failed' and o.retry and e.tries + 1 < %(tries)s then 'waiting' else o.state end,
       tries = e.tries + 1, digest = coalesce(o.digest, e.digest), shared = o.shared,
       verified_at = case when o.verified then now() end, trusted_since = o.trusted::timestamptz,
       code = o.code, what = o.what,
       finished_at = case when o.state = 'failed' and o.retry and e.tries + 1 < %(tries)s then null else now() end
  from unnest(%(ids)s::bigint[], %(states)s::text[], %(digests)s::text[], %(verified)s::boolean[], %(shared)s::boolean[],
              %(trusted)s::text[], %(codes)s::text[], %(whats)s::text[], %(retries)s::boolean[])
       as o (id, state, digest, verified, shared, trusted, code, what, retry)
 where e.id = o.id and e.transfer_id = %(transfer)s and e.state = 'waiting'
returning e.state, e.size_bytes

-- name: put_entries
-- What stands at the target now, with digest and time of its proof: that is what `verify` and "trusted since" use. In
-- order of keys, so that nobody waits for another in a circle.
insert into mover.entry (project_id, tier, key, kind, size_bytes, mtime_ns, mark, digest, verified_at)
select %(project)s, t.target, e.target, 'file', o.size_bytes, o.mtime_ns, o.mark, o.digest,
       case when o.verified then now() end
  from unnest(%(entries)s::bigint[], %(found_digests)s::text[], %(found_verified)s::boolean[], %(sizes)s::bigint[],
              %(mtimes)s::bigint[], %(marks)s::text[]) as o (id, digest, verified, size_bytes, mtime_ns, mark)
  join mover.transfer_entry e on e.id = o.id and e.kind = 'file' join mover.transfer t on t.id = e.transfer_id
 order by e.target
on conflict (project_id, tier, key) do update
   set kind = excluded.kind, size_bytes = excluded.size_bytes, mtime_ns = excluded.mtime_ns, mark = excluded.mark,
       digest = excluded.digest, gone_at = null, recorded_at = now(),
       verified_at = coalesce(excluded.verified_at,
                              case when entry.digest = excluded.digest and entry.mark = excluded.mark then entry.verified_at end)

-- name: count
-- The transfer's own counts, changed with its entries.
update mover.transfer
   set moved_count = moved_count + %(moved)s, moved_bytes = moved_bytes + %(moved_bytes)s,
       present_count = present_count + %(present)s, present_bytes = present_bytes + %(present_bytes)s,
       skipped_count = skipped_count + %(skipped)s, failed_count = failed_count + %(failed)s
 where id = %(id)s

-- name: left
-- Entries that still wait.
select count(*) as waiting from mover.transfer_entry where transfer_id = %(transfer)s and state = 'waiting'

-- name: next_round
-- What failed is tried once more.
update mover.transfer set rounds = rounds + 1 where id = %(id)s

-- name: delay_shards
-- The next round begins a little later.
update mover.shard set not_before = now() + make_interval(secs => %(delay_s)s)
 where subject_id = %(id)s and kind = 'transfer-move' and state = 'waiting'

-- name: cancel_waiting
-- Shards that nobody has begun.
update mover.shard set state = 'cancelled', finished_at = now()
 where subject_id = %(id)s and state = 'waiting' and kind in ('transfer-plan', 'transfer-move')
