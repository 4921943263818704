-- === the edges of protection: snapshots by tag and time, the second copy and keys among what takes two persons =============

set role mover_owner;

alter table mover.protect_request drop constraint protect_request_kind_check;
alter table mover.protect_request
    add constraint protect_request_kind_check check (kind in ('shorten', 'forget', 'empty-trash', 'release-hold', 'agree',
                                                              'untag', 'large', 'remove-key'));

-- `copy` is the place of the second repository: another one, or none, is less. `copy_every_s`: less often is less.
create or replace function mover.terms_shorter(in_old jsonb, in_new jsonb) returns text[] language sql immutable as $$
    with o as (select coalesce(in_old -> 'keep', '{}') as k), n as (select coalesce(in_new -> 'keep', '{}') as k)
    select coalesce(array_agg(word order by word), '{}') from (
        select 'keep.' || w as word from o, n, unnest(array['last', 'hourly', 'daily', 'weekly', 'monthly', 'yearly']) w
         where not mover.keeps_all(n.k)
           and (mover.keeps_all(o.k) or mover.terms_number(n.k, w) < mover.terms_number(o.k, w))
        union all
        select 'keep.at_least_s' from o, n
         where mover.terms_number(n.k, 'at_least_s') < mover.terms_number(o.k, 'at_least_s')
        union all
        select 'keep.within_s' from o, n
         where not mover.keeps_all(n.k)
           and coalesce((n.k ->> 'within_s')::numeric, -1) < coalesce((o.k ->> 'within_s')::numeric, -1)
        union all
        select 'keep.tags' from o, n
         where not mover.keeps_all(n.k) and not coalesce(n.k -> 'tags', '[]') @> coalesce(o.k -> 'tags', '[]')
        union all
        select 'keep.' || w from o, n,
               lateral (select jsonb_object_keys(o.k) w union select jsonb_object_keys(n.k)) every_word
         where w <> all (array['last', 'hourly', 'daily', 'weekly', 'monthly', 'yearly', 'at_least_s', 'within_s', 'tags'])
           and n.k -> w is distinct from o.k -> w
        union all
        select w from (select jsonb_object_keys(in_old) w union select jsonb_object_keys(in_new)) every_word
         where w <> 'keep' and case
             when w = 'copy' then coalesce(in_old ->> w, '') not in ('', coalesce(in_new ->> w, ''))
             when jsonb_typeof(coalesce(in_old -> w, '0')) <> 'number'
                  or jsonb_typeof(coalesce(in_new -> w, '0')) <> 'number'
                 then in_old -> w is distinct from in_new -> w
             when w = 'copy_every_s' and mover.terms_number(in_old, w) = 0 then false
             when w in ('breaker_percent', 'copy_every_s') then mover.terms_number(in_new, w) > mover.terms_number(in_old, w)
             else mover.terms_number(in_new, w) < mover.terms_number(in_old, w) end
    ) s
$$;

create or replace function mover.request_policies(in_kind text, in_policy text, in_subjects text[]) returns text[]
    language plpgsql stable security definer set search_path = mover, pg_temp as $$
declare found_ones text[]; known bigint;
begin
    if in_kind in ('shorten', 'large', 'remove-key') then
        if not exists (select from mover.protect_terms where policy = in_policy) then
            raise exception 'no such protect policy' using errcode = 'MV101';
        end if;
        return array[in_policy];
    end if;
    if in_kind = 'release-hold' then
        select array_agg(distinct s.policy), count(*) into found_ones, known
          from mover.hold h join mover.snapshot s on s.id = h.snapshot_id
         where h.id = any (in_subjects) and h.released_at is null;
    else
        select array_agg(distinct s.policy), count(*) into found_ones, known from mover.snapshot s
         where s.id = any (in_subjects) and case in_kind when 'forget' then s.state in ('written', 'checked')
               when 'empty-trash' then s.state = 'trashed' when 'agree' then s.doubt is not null else true end;
    end if;
    if known = 0 or known <> cardinality(in_subjects) then
        raise exception 'not everything that is named is there in the state it needs' using errcode = 'MV102';
    end if;
    return found_ones;
end $$;

create or replace function mover.request_apply(in_id text, in_node text) returns boolean
    language plpgsql security definer set search_path = mover, pg_temp as $$
declare r mover.protect_request := mover.request_open(in_id); changed bigint; asked_for jsonb;
begin
    if r.approved_at is null or r.not_before > now()
       or exists (select from unnest(mover.request_policies_of(r)) p where mover.clock_doubtful(p)) then
        return false;
    end if;
    case r.kind
        when 'shorten' then
            update mover.protect_terms set terms = r.wanted, since = now() where policy = r.policy;
        when 'large' then
            update mover.protect_terms set large_until = now() + interval '1 day' where policy = r.policy;
        when 'forget' then
            update mover.snapshot s set state = 'trashed', trashed_at = now(), trashed_for = r.id,
                   reasons = array['two persons agreed: ' || r.reason],
                   trash_until = now() + mover.terms_time((select t.terms from mover.protect_terms t where t.policy = s.policy),
                                                     'trash_s', 1209600)
             where s.id = any (r.subjects) and s.state in ('written', 'checked') and not mover.is_held(s.id);
        when 'empty-trash' then
            update mover.snapshot set trash_until = now() where id = any (r.subjects) and state = 'trashed';
        when 'release-hold' then
            update mover.hold set released_at = now(), released_for = r.id
             where id = any (r.subjects) and released_at is null;
        when 'agree' then
            update mover.snapshot_series b set files = s.files, bytes = s.bytes from (
                select distinct on (policy, series) policy, series, files, bytes from mover.snapshot
                 where id = any (r.subjects) and doubt is not null order by policy, series, sequence desc) s
             where b.policy = s.policy and b.series = s.series;
            update mover.snapshot set doubt = null, agreed_at = now() where id = any (r.subjects) and doubt is not null;
        when 'untag' then
            update mover.snapshot set tags = array(select t from unnest(tags) t
                                                    where not (r.wanted -> 'tags') ? t order by 1)
             where id = any (r.subjects);
        when 'remove-key' then
            null;   -- the daemon removes it from the repository before this transaction ends
    end case;
    get diagnostics changed = row_count;
    update mover.protect_request set applied_at = now() where id = in_id;
    perform mover.protect_record(in_node, 'daemon', 'protection: shortening applied', in_id, r.reason, jsonb_build_object(
        'kind', r.kind, 'requested by', r.requested_by, 'approved by', r.approved_by, 'changed', changed));
    return true;
end $$;

-- Listing of snapshots by time, of a series, in a state or with a tag: each question has its index.
create index snapshot_recorded on mover.snapshot (project_id, recorded_at, sequence);
create index snapshot_of_series_recorded on mover.snapshot (project_id, series, recorded_at, sequence);
create index snapshot_of_policy_recorded on mover.snapshot (project_id, policy, state, recorded_at, sequence);

-- Tags again, for listing alone: below row level security no index is used for what an array holds.
create table mover.tagged_snapshot (
    project_id  text not null references mover.project,
    tag         text not null,
    recorded_at timestamptz not null,
    sequence    bigint not null,
    snapshot_id text not null,
    primary key (project_id, tag, recorded_at, sequence),
    foreign key (project_id, snapshot_id) references mover.snapshot (project_id, id) on delete cascade
);
create index tagged_snapshot_of on mover.tagged_snapshot (project_id, snapshot_id);
alter table mover.snapshot no force row level security;
insert into mover.tagged_snapshot (project_id, tag, recorded_at, sequence, snapshot_id)
select distinct s.project_id, t, s.recorded_at, s.sequence, s.id from mover.snapshot s, unnest(s.tags) t;
alter table mover.snapshot force row level security;
alter table mover.tagged_snapshot enable row level security;
alter table mover.tagged_snapshot force row level security;
create policy by_project on mover.tagged_snapshot using (project_id = (select mover.current_project()))
    with check (project_id = (select mover.current_project()));

create function mover.snapshot_tags_follow() returns trigger language plpgsql as $$
begin
    delete from mover.tagged_snapshot where project_id = new.project_id and snapshot_id = new.id;
    insert into mover.tagged_snapshot (project_id, tag, recorded_at, sequence, snapshot_id)
    select distinct new.project_id, t, new.recorded_at, new.sequence, new.id from unnest(new.tags) t;
    return null;
end $$;
revoke execute on function mover.snapshot_tags_follow() from public;
create trigger snapshot_tags_first after insert on mover.snapshot for each row when (new.tags <> '{}')
    execute function mover.snapshot_tags_follow();
create trigger snapshot_tags_follow after update of tags on mover.snapshot for each row
    when (new.tags is distinct from old.tags) execute function mover.snapshot_tags_follow();
grant select on mover.tagged_snapshot to mover_daemon;

reset role;
