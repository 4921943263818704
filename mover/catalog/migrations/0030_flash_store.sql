-- === the flash tier's content store: what nobody vouches for yet, and what was damaged ==============================

set role mover_owner;

-- Content of which we know only that it stands there (a fetch that was given up left it): without a mark it may be
-- evicted as any other, and is read before it is shared.
alter table mover.content
    alter column verified_at drop not null,
    add constraint content_verified check ((verified_at is null) = (mark = ''));

alter table mover.run_entry
    add column mark text,                           -- fingerprint at the seal, of a file whose inode is the root's own
    add column damaged_at timestamptz;              -- since when its bytes on flash are known to be other ones
create index run_entry_damaged on mover.run_entry (run_id) where damaged_at is not null;
alter table mover.run_tar
    add column mark text,
    add column damaged_at timestamptz;
grant update (mark) on mover.run_tar to mover_daemon;

-- RUN.json as it was decided, before it was written: whoever writes it, or comes late, writes the same
alter table mover.run add column identity text;

-- content that was found to hold other bytes than its name says: it keeps them as evidence, under another name
create table mover.damaged (
    tier        text not null references mover.tier,
    moved_to    text not null,
    digest      text not null,
    size_bytes  bigint not null,
    at          timestamptz not null default now(),
    purged_at   timestamptz,
    primary key (tier, moved_to)
);
create index damaged_held on mover.damaged (tier, at) where purged_at is null;
grant select, insert on mover.damaged to mover_daemon;
grant update (purged_at) on mover.damaged to mover_daemon;

alter table mover.stray add column purged_at timestamptz;
create index stray_held on mover.stray (run_id) where purged_at is null;
grant update (purged_at) on mover.stray to mover_daemon;

reset role;

grant update (damaged_at) on mover.run_entry, mover.run_tar to mover_dispatch;
grant update (explanation) on mover.run to mover_dispatch;
grant insert on mover.run_event to mover_dispatch;
grant select on mover.stray to mover_dispatch;
grant create on schema mover to mover_dispatch;
set role mover_dispatch;

-- Every run that holds content which was found damaged is told, whatever its project. Runs are held first: one that
-- becomes ready meanwhile is told after it, or finds the damage before. One that is still staged stages it again.
create function mover.content_damaged(in_tier text, in_digest text) returns table (project text, run text)
    language plpgsql security definer set search_path = mover, pg_temp as $$
declare held text[];
begin
    select array_agg(h.id) into held from (
        select r.id from mover.run r
         where r.tier = in_tier and r.state in ('staging', 'sealed', 'ready', 'finishing', 'protecting', 'protected')
           and (exists (select from mover.run_entry e where e.run_id = r.id and e.digest = in_digest and e.shard is null)
                or exists (select from mover.run_tar t where t.run_id = r.id and t.digest = in_digest))
         order by r.id for share) h;
    return query
    with entries as (
        update mover.run_entry e set damaged_at = now()
         where e.run_id = any (held) and e.digest = in_digest and e.shard is null and e.staged_at is not null
           and e.damaged_at is null
        returning e.project_id, e.run_id),
    tars as (
        update mover.run_tar t set damaged_at = now()
         where t.run_id = any (held) and t.digest = in_digest and t.damaged_at is null
        returning t.project_id, t.run_id),
    events as (
        insert into mover.run_event (project_id, run_id, state, reason)
        select r.project_id, r.id, r.state, 'content-damaged' from mover.run r
         where r.state <> 'staging' and r.id in (select run_id from entries union select run_id from tars)
        returning run_event.project_id, run_event.run_id)
    select v.project_id, v.run_id from events v, lateral pg_notify('mover_runs', v.run_id);
end $$;

-- runs whose strays were all set aside so long ago, of every project
create function mover.strays_due(in_tier text, in_held_s double precision, in_limit integer)
    returns table (run_id text, project_id text, files bigint, bytes bigint, newest timestamptz)
    language sql stable security definer set search_path = mover, pg_temp as $$
    select s.run_id, s.project_id, count(*), sum(s.size_bytes)::bigint, max(s.at)
      from mover.stray s join mover.run r on r.id = s.run_id
     where s.purged_at is null and r.tier = in_tier and r.state = 'cleaned'
     group by s.run_id, s.project_id having max(s.at) < now() - make_interval(secs => in_held_s)
     order by max(s.at) limit in_limit
$$;

reset role;
revoke create on schema mover from mover_dispatch;
revoke execute on function mover.content_damaged(text, text), mover.strays_due(text, double precision, integer) from public;
grant execute on function mover.content_damaged(text, text), mover.strays_due(text, double precision, integer) to mover_daemon;
