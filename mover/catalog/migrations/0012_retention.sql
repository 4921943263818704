-- === what is kept: series, doubts, trash, holds, terms in force, and what needs two persons ====================
--
-- Read first: no right to update or delete a snapshot is left to mover_daemon. Each step that brings a snapshot
-- nearer to its end is a function here, owned by mover_owner, that looks at the rules in force itself, by the
-- database's clock. What shortens protection passes `protect_request`: asked by one person, approved by another,
-- after a delay, applied once. decide/retention.py says the same with reasons; tests hold the two to each other.

set role mover_owner;

alter table mover.snapshot drop constraint snapshot_state_check;
alter table mover.snapshot
    add constraint snapshot_state_check check (state in ('written', 'checked', 'trashed', 'forgotten')),
    add column series text,                         -- what it is a version of: `run:<id>`, `folder:<id>`
    add column tags text[] not null default '{}',
    add column doubt text check (doubt in ('flood', 'collapsed', 'incomplete')),  -- kept, and displaces nothing
    add column agreed_at timestamptz,               -- two persons said that it is right as it is
    add column missing_at timestamptz,              -- its file is no longer in the repository, and not by us
    add column trashed_at timestamptz,
    add column trash_until timestamptz,
    add column trashed_for text,                    -- a request; `cut-off`; null: by the rules
    add column purged_at timestamptz;               -- its file was removed from the repository
alter table mover.snapshot no force row level security;
update mover.snapshot set series = coalesce('run:' || run_id, 'snapshot:' || id);
alter table mover.snapshot alter column series set not null,
    add check ((state = 'trashed') <= (trash_until is not null)),
    add check ((state = 'forgotten') <= (forgotten_at is not null));
-- one file, one row: a second row in any project could let go of what the first keeps
create unique index snapshot_file on mover.snapshot (repository_id);
create index snapshot_page on mover.snapshot (project_id, sequence);
create index snapshot_of_series on mover.snapshot (project_id, series, sequence);
create index snapshot_of_policy on mover.snapshot (project_id, policy, state, sequence);

-- how large a series was since two persons last agreed to its size: what a collapse is measured against
create table mover.snapshot_series (
    project_id  text not null references mover.project,
    policy      text not null,
    series      text not null,
    files       bigint not null,
    bytes       bigint not null,
    primary key (project_id, policy, series)
);
insert into mover.snapshot_series select project_id, policy, series, max(files), max(bytes) from mover.snapshot
 where state = 'checked' group by project_id, policy, series;
alter table mover.snapshot force row level security;

create table mover.hold (
    id          text primary key,
    project_id  text not null references mover.project,
    snapshot_id text not null,
    reason      text not null check (length(reason) between 3 and 500),
    until       timestamptz,                        -- null: until two persons release it
    placed_by   text not null,
    placed_person text not null,
    placed_at   timestamptz not null default now(),
    released_at timestamptz,
    released_for text,                              -- the request that released it
    foreign key (project_id, snapshot_id) references mover.snapshot (project_id, id),
    unique (project_id, id)
);
create index hold_snapshot on mover.hold (snapshot_id) where released_at is null;

-- the rules that hold for a policy's snapshots, whatever its file says: longer ones at once, shorter ones by request
create table mover.protect_terms (
    project_id  text not null references mover.project,
    policy      text not null,
    terms       jsonb not null,
    wanted      jsonb not null,                     -- what the file says now
    since       timestamptz not null default now(),
    large_until timestamptz,                        -- until then the breaker is open: two persons said so
    primary key (project_id, policy)
);

create table mover.protect_request (
    id          text primary key,
    project_id  text not null references mover.project,
    kind        text not null check (kind in ('shorten', 'forget', 'empty-trash', 'release-hold', 'agree', 'untag',
                                              'large')),
    policy      text,
    subjects    text[] not null default '{}',
    wanted      jsonb not null default '{}',
    reason      text not null check (length(reason) between 3 and 500),
    requested_by text not null,
    requested_token text,                           -- null: the machine itself, by its local socket
    requested_person text not null,
    requested_at timestamptz not null,
    not_before  timestamptz not null,
    lapses_at   timestamptz not null,
    approved_by text,
    approved_token text,
    approved_person text,
    approved_at timestamptz,
    withdrawn_by text,
    withdrawn_at timestamptz,
    applied_at  timestamptz,
    constraint two_persons check (approved_person <> requested_person),
    constraint a_delay check (not_before >= requested_at + interval '1 hour'),
    constraint approved_whole check ((approved_at is null) = (approved_by is null)
                                     and (approved_at is null) = (approved_person is null)),
    constraint applied_after_both check (applied_at is null or (approved_at is not null and applied_at >= not_before
                                                                and withdrawn_at is null)),
    unique (project_id, id)
);
create index protect_request_open on mover.protect_request (project_id, requested_at desc);

-- the newest turn of the upkeep of a policy's repository: what it planned, what it did; the audit has all of them
create table mover.protect_turn (
    id          text not null unique,
    project_id  text not null references mover.project,
    policy      text not null,
    kind        text not null check (kind in ('keep', 'prune')),
    state       text not null default 'running' check (state in ('running', 'waiting', 'done', 'failed')),
    plan        jsonb not null default '{}',
    counts      jsonb not null default '{}',
    explanation text,
    started_at  timestamptz not null default now(),
    finished_at timestamptz,
    primary key (project_id, policy, kind)
);

do $$
declare t text;
begin
    foreach t in array array['snapshot_series', 'hold', 'protect_terms', 'protect_request', 'protect_turn'] loop
        execute format('alter table mover.%I enable row level security', t);
        execute format('alter table mover.%I force row level security', t);
        execute format('create policy by_project on mover.%I using (project_id = (select mover.current_project()))'
                       ' with check (project_id = (select mover.current_project()))', t);
    end loop;
end $$;

-- --- who is a person ------------------------------------------------------------------------------------------

-- Tokens that one token made, and those that they made, are one person. What the machine itself makes (root or the
-- daemon's user on the local socket, `mover init`) begins a person of its own. Who made the earlier ones nobody wrote
-- down: they are one person together.
alter table mover.token add column made_by text, add column person text;
alter table mover.token no force row level security;
update mover.token set person = 'before';
alter table mover.token force row level security;
alter table mover.token alter column person set not null;

create function mover.token_person() returns trigger language plpgsql as $$
begin
    new.person := coalesce(new.person, new.id);
    return new;
end $$;
create trigger token_person before insert on mover.token for each row execute function mover.token_person();

-- the only way to a token; `in_maker` is the digest of the maker's secret, null for the machine
create function mover.token_add(in_id text, in_hash bytea, in_actor text, in_role text, in_uid integer, in_gid integer,
                                in_expires timestamptz, in_maker bytea) returns boolean
    language plpgsql security definer set search_path = mover, pg_temp as $$
declare maker mover.token;
begin
    if in_maker is not null then
        select * into maker from mover.token t where t.hash = in_maker and t.revoked_at is null
           and (t.expires_at is null or t.expires_at > now()) and t.role = 'admin';
        if maker.id is null then
            raise exception 'only a live admin token makes tokens' using errcode = 'MV103';
        end if;
    end if;
    insert into mover.token (id, hash, actor, role, project_id, posix_uid, posix_gid, expires_at, made_by, person)
    values (in_id, in_hash, in_actor, in_role, mover.current_project(), in_uid, in_gid, in_expires, maker.id,
            coalesce(maker.person, in_id))
    on conflict do nothing;
    return found;
end $$;

create type mover.asker as (actor text, token text, person text, role text, since timestamptz);

-- Who asks? A token by the digest of its secret, which only its holder and the daemon in that moment know; without
-- one, the machine. `since`: how long this person's first token stands.
create function mover.asker_of(in_proof bytea, in_actor text) returns mover.asker
    language plpgsql stable security definer set search_path = mover, pg_temp as $$
declare found_one mover.asker;
begin
    if in_proof is null then
        return row(in_actor, null::text, 'machine'::text, 'admin'::text, '-infinity'::timestamptz)::mover.asker;
    end if;
    select t.actor, t.id, t.person, t.role, coalesce(f.created_at, t.created_at) into found_one
      from mover.token t left join mover.token f on f.id = t.person
     where t.hash = in_proof and t.revoked_at is null and (t.expires_at is null or t.expires_at > now());
    if found_one.token is null then
        raise exception 'the token is unknown, expired or revoked' using errcode = 'MV103';
    end if;
    return found_one;
end $$;

create function mover.protect_record(in_node text, in_actor text, in_action text, in_subject text, in_reason text,
                                     in_details jsonb) returns void
    language plpgsql security definer set search_path = mover, pg_temp as $$
begin
    perform mover.audit_append(mover.current_project(), in_node, jsonb_build_object('actor', in_actor, 'action',
        in_action, 'subject', in_subject, 'reason', in_reason, 'request', '', 'details', in_details)::text);
end $$;

-- --- the rules --------------------------------------------------------------------------------------------------

create function mover.terms_number(in_terms jsonb, in_name text) returns numeric language sql immutable as $$
    select coalesce((in_terms ->> in_name)::numeric, 0)
$$;

create function mover.terms_time(in_terms jsonb, in_name text, in_default numeric) returns interval
    language sql immutable as $$
    select make_interval(secs => coalesce((in_terms ->> in_name)::numeric, in_default)::double precision)
$$;

-- no rule at all keeps everything
create function mover.keeps_all(in_keep jsonb) returns boolean language sql immutable as $$
    select in_keep ->> 'within_s' is null and coalesce(jsonb_array_length(in_keep -> 'tags'), 0) = 0
       and (select bool_and(mover.terms_number(in_keep, n) <= 0)
              from unnest(array['last', 'hourly', 'daily', 'weekly', 'monthly', 'yearly']) n)
$$;

-- What of `in_new` protects less than `in_old`. Whatever is not provably at least as long counts as shorter.
create function mover.terms_shorter(in_old jsonb, in_new jsonb) returns text[] language sql immutable as $$
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
             when jsonb_typeof(coalesce(in_old -> w, '0')) <> 'number'
                  or jsonb_typeof(coalesce(in_new -> w, '0')) <> 'number'
                 then in_old -> w is distinct from in_new -> w
             when w = 'breaker_percent' then mover.terms_number(in_new, w) > mover.terms_number(in_old, w)
             else mover.terms_number(in_new, w) < mover.terms_number(in_old, w) end
    ) s
$$;

-- A policy's file was read: what is longer holds from now on, what is shorter waits for two persons and its delay.
-- Answers the terms that hold.
create function mover.terms_follow(in_policy text, in_wanted jsonb, in_node text) returns jsonb
    language plpgsql security definer set search_path = mover, pg_temp as $$
declare known mover.protect_terms;
begin
    insert into mover.protect_terms (project_id, policy, terms, wanted)
    values (mover.current_project(), in_policy, in_wanted, in_wanted) on conflict do nothing;
    select * into known from mover.protect_terms where policy = in_policy for update;
    if known.wanted is distinct from in_wanted then
        update mover.protect_terms set wanted = in_wanted where policy = in_policy;
    end if;
    if known.terms = in_wanted or mover.terms_shorter(known.terms, in_wanted) <> '{}' then
        return known.terms;
    end if;
    update mover.protect_terms set terms = in_wanted, since = now() where policy = in_policy;
    perform mover.protect_record(in_node, 'daemon', 'protection lengthened', in_policy, '',
                                 jsonb_build_object('before', known.terms, 'now', in_wanted));
    return in_wanted;
end $$;

create function mover.is_held(in_snapshot text) returns boolean
    language sql stable security definer set search_path = mover, pg_temp as $$
    select exists (select from mover.hold h where h.snapshot_id = in_snapshot and h.released_at is null
                      and (h.until is null or h.until > now()))
$$;

-- What the terms in force keep of a series; the reasons are decide/retention.py's. Young, doubtful and missing ones
-- are kept and count for nothing; the newest that counts is what proves the series protected.
create function mover.snapshots_kept(in_policy text, in_series text) returns table (snapshot text)
    language sql stable security definer set search_path = mover, pg_temp as $$
    with t as (select terms -> 'keep' as keep from mover.protect_terms where policy = in_policy),
    every as (
        select s.id, s.sequence, s.recorded_at, s.tags, s.doubt is not null or s.missing_at is not null as doubtful,
               s.recorded_at > now() - mover.terms_time(t.keep, 'at_least_s', 0) as young,
               t.keep
          from mover.snapshot s left join t on true
         where s.policy = in_policy and s.series = in_series
           and (s.state = 'checked' or s.state = 'trashed' and s.trashed_for is null)),
    counted as (select *, row_number() over (order by sequence desc) as place,
                       recorded_at at time zone 'UTC' as at from every where not doubtful and not young),
    periods as (
        select distinct on (p.name, p.period) c.id, c.sequence, p.name, c.keep
          from counted c cross join lateral (values
               ('hourly', to_char(c.at, 'YYYY-MM-DD HH24')), ('daily', to_char(c.at, 'YYYY-MM-DD')),
               ('weekly', to_char(c.at, 'IYYY-IW')), ('monthly', to_char(c.at, 'YYYY-MM')),
               ('yearly', to_char(c.at, 'YYYY'))) p (name, period)
         order by p.name, p.period, c.sequence desc),
    ranked as (select id, name, keep, row_number() over (partition by name order by sequence desc) as place from periods)
    select e.id from every e
     where e.keep is null or mover.keeps_all(e.keep) or e.young or e.doubtful
        or e.sequence = (select max(sequence) from counted)
        or exists (select from mover.hold h where h.snapshot_id = e.id and h.released_at is null
                      and (h.until is null or h.until > now()))
        or exists (select from jsonb_array_elements_text(coalesce(e.keep -> 'tags', '[]')) g where g = any (e.tags))
    union
    select id from counted where place <= mover.terms_number(keep, 'last')
    union
    select id from ranked where place <= mover.terms_number(keep, name)
    union
    select c.id from counted c
     where c.recorded_at >= (select recorded_at from counted where place = 1)
                            - mover.terms_time(c.keep, 'within_s', null)
$$;

-- --- one snapshot's way -------------------------------------------------------------------------------------------

-- Time and order of record are the database's; whatever else a row claims, it begins as written.
create function mover.snapshot_recorded() returns trigger
    language plpgsql security definer set search_path = mover, pg_temp as $$
begin
    new.series := coalesce(new.series, 'run:' || new.run_id, 'snapshot:' || new.id);
    if pg_has_role(session_user, 'mover_owner', 'usage') then
        return new;     -- who owns the tables needs no trigger to lie
    end if;
    new.sequence := nextval(pg_get_serial_sequence('mover.snapshot', 'sequence'));
    new.recorded_at := clock_timestamp();
    new.state := 'written';
    new.doubt := null; new.agreed_at := null; new.missing_at := null; new.trashed_at := null; new.trash_until := null;
    new.trashed_for := null; new.forgotten_at := null; new.purged_at := null;
    return new;
end $$;
create trigger snapshot_recorded before insert on mover.snapshot for each row execute function mover.snapshot_recorded();

-- Every blob was read back. Here doubts arise: of a flood (24 of a series within an hour) none counts, and one whose
-- bytes or files fell below half of what its series had does not displace what was there.
create function mover.snapshot_checked(in_id text) returns text
    language plpgsql security definer set search_path = mover, pg_temp as $$
declare s mover.snapshot; base mover.snapshot_series; hour text[]; found_doubt text;
begin
    select * into s from mover.snapshot where id = in_id and state = 'written' for update;
    if s.id is null then return null; end if;
    insert into mover.snapshot_series values (s.project_id, s.policy, s.series, s.files, s.bytes) on conflict do nothing;
    select * into base from mover.snapshot_series where policy = s.policy and series = s.series for update;
    select array_agg(id) into hour from (select id, recorded_at from mover.snapshot
        where policy = s.policy and series = s.series and state <> 'written' order by sequence desc limit 23) near
        where recorded_at > s.recorded_at - interval '1 hour';
    if cardinality(hour) = 23 then
        found_doubt := 'flood';
        update mover.snapshot set doubt = 'flood' where id = any (hour) and doubt is null and agreed_at is null;
    elsif s.bytes * 2 < base.bytes or s.files * 2 < base.files then
        found_doubt := 'collapsed';
    else
        update mover.snapshot_series set files = greatest(files, s.files), bytes = greatest(bytes, s.bytes)
         where policy = s.policy and series = s.series;
    end if;
    update mover.snapshot set state = 'checked', doubt = found_doubt where id = in_id;
    return found_doubt;
end $$;

-- Not whole: files changed or could not be read. It may hold the only copy of what was deleted since, so it stays.
create function mover.snapshot_incomplete(in_id text) returns void
    language sql security definer set search_path = mover, pg_temp as $$
    update mover.snapshot set doubt = 'incomplete' where id = in_id and state = 'written'
$$;

-- has the clock gone back since something was recorded? then nobody knows what is over
create function mover.clock_doubtful(in_policy text) returns boolean
    language sql stable security definer set search_path = mover, pg_temp as $$
    select exists (select from mover.snapshot where policy = in_policy and state in ('checked', 'trashed')
                      and greatest(recorded_at, trashed_at) > clock_timestamp() + interval '5 minutes')
$$;

-- Into the trash goes what no rule in force keeps, what is not held, and at most the breaker's part of the policy's
-- snapshots a day, oldest first; of what was asked for, this is what went. The files stay where they are.
create function mover.snapshots_trash(in_policy text, in_series text, in_ids text[], in_node text)
    returns table (snapshot text)
    language plpgsql security definer set search_path = mover, pg_temp as $$
declare known mover.protect_terms; room bigint; gone text[];
begin
    select * into known from mover.protect_terms where policy = in_policy for update;
    if known.policy is null or mover.clock_doubtful(in_policy) then return; end if;
    select greatest(20, ceil(count(*) filter (where state = 'checked')
                             * mover.terms_number(known.terms, 'breaker_percent') / 100))
           - count(*) filter (where state in ('trashed', 'forgotten') and trashed_for is null
                                    and trashed_at > now() - interval '1 day')
      into room from mover.snapshot where policy = in_policy;
    if known.large_until > now() then room := cardinality(in_ids); end if;
    with doomed as (
        select s.id from mover.snapshot s
         where s.policy = in_policy and s.series = in_series and s.id = any (in_ids) and s.state = 'checked'
           and s.id not in (select k.snapshot from mover.snapshots_kept(in_policy, in_series) k)
         order by s.sequence limit greatest(room, 0)),
    moved as (
        update mover.snapshot set state = 'trashed', trashed_at = now(), trashed_for = null,
               trash_until = now() + mover.terms_time(known.terms, 'trash_s', 1209600)
         where id in (select id from doomed) returning id)
    select array_agg(id) into gone from moved;
    if gone is null then return; end if;
    perform mover.protect_record(in_node, 'daemon', 'snapshots trashed', in_policy, 'no rule keeps them',
                                 jsonb_build_object('series', in_series, 'snapshots', to_jsonb(gone)));
    return query select unnest(gone);
end $$;

-- attempts whose snapshot was never checked, while a later one of the series was: nothing rests on them
create function mover.snapshots_cut_off(in_series text) returns bigint
    language sql security definer set search_path = mover, pg_temp as $$
    with moved as (
        update mover.snapshot s set state = 'trashed', trashed_at = now(), trashed_for = 'cut-off',
               reasons = '{cut off before it was checked}',
               trash_until = now() + mover.terms_time((select t.terms from mover.protect_terms t where t.policy = s.policy),
                                                     'trash_s', 1209600)
         where s.series = in_series and s.state = 'written' and s.doubt is null
           and exists (select from mover.snapshot n where n.policy = s.policy and n.series = s.series
                          and n.sequence > s.sequence and n.state = 'checked' and n.missing_at is null)
        returning 1)
    select count(*) from moved
$$;

-- The trash period is over: judged once more by the rules that hold now, what they keep comes back, the rest is
-- forgotten from this moment; its file goes next (purged_at), and is asked for again until it went.
create function mover.trash_over(in_policy text, in_limit integer, in_node text)
    returns table (snapshot text, repository text, comes_back boolean)
    language plpgsql security definer set search_path = mover, pg_temp as $$
declare one record; gone text[]; back text[];
begin
    if mover.clock_doubtful(in_policy) then return; end if;
    perform 1 from mover.protect_terms where policy = in_policy for update;
    for one in select d.series, array_agg(d.id) as ids from (
                   select s.id, s.series from mover.snapshot s
                    where s.policy = in_policy and s.state = 'trashed' and s.trash_until <= now()
                    order by s.sequence limit in_limit for update) d group by d.series loop
        with judged as (
            select s.id, s.reasons, mover.is_held(s.id) or (s.trashed_for is null and exists (
                       select from mover.snapshots_kept(in_policy, one.series) k where k.snapshot = s.id)) as kept
              from mover.snapshot s where s.id = any (one.ids)),
        changed as (
            update mover.snapshot s set state = case when j.kept then 'checked' else 'forgotten' end,
                   forgotten_at = case when j.kept then null else now() end,
                   trash_until = case when j.kept then null else s.trash_until end
              from judged j where j.id = s.id returning s.id, s.repository_id, j.kept)
        select coalesce(gone, '{}') || coalesce(array_agg(id) filter (where not kept), '{}'),
               coalesce(back, '{}') || coalesce(array_agg(id) filter (where kept), '{}') into gone, back from changed;
    end loop;
    if gone is null then return; end if;
    perform mover.protect_record(in_node, 'daemon', 'snapshots forgotten', in_policy, 'their time in the trash is over',
                                 jsonb_build_object('snapshots', to_jsonb(gone), 'kept again', to_jsonb(back)));
    return query select s.id, s.repository_id, s.state = 'checked' from mover.snapshot s where s.id = any (gone || back);
end $$;

create function mover.snapshots_purged(in_ids text[]) returns void
    language sql security definer set search_path = mover, pg_temp as $$
    update mover.snapshot set purged_at = now() where id = any (in_ids) and state = 'forgotten' and purged_at is null
$$;

-- What the repository holds, listed at `in_listed_at`. Rows whose file is gone, and not by us, are missing from now on;
-- answers those that are newly missing. One that is there again counts again.
create function mover.snapshots_present(in_policy text, in_repository_ids text[], in_listed_at timestamptz, in_node text)
    returns table (snapshot text)
    language plpgsql security definer set search_path = mover, pg_temp as $$
declare lost text[];
begin
    update mover.snapshot set missing_at = null
     where policy = in_policy and missing_at is not null and repository_id = any (in_repository_ids);
    with changed as (
        update mover.snapshot set missing_at = now()
         where policy = in_policy and state in ('written', 'checked', 'trashed') and missing_at is null
           and recorded_at < in_listed_at and repository_id <> all (in_repository_ids) returning id)
    select array_agg(id) into lost from changed;
    if lost is null then return; end if;
    perform mover.protect_record(in_node, 'daemon', 'snapshots missing', in_policy,
                                 'their files left the repository, and not by us',
                                 jsonb_build_object('snapshots', to_jsonb(lost)));
    return query select unnest(lost);
end $$;

-- --- what people may do alone: hold, tag --------------------------------------------------------------------------

-- A hold brings back what is in the trash, too. The same hold asked for again is the same hold.
create function mover.hold_place(in_id text, in_snapshot text, in_reason text, in_until timestamptz, in_proof bytea,
                                 in_actor text, in_node text) returns text
    language plpgsql security definer set search_path = mover, pg_temp as $$
declare who mover.asker := mover.asker_of(in_proof, in_actor); s mover.snapshot; same text;
begin
    select * into s from mover.snapshot where id = in_snapshot for update;
    if s.id is null then raise exception 'no such snapshot' using errcode = 'MV101'; end if;
    if s.state = 'forgotten' then raise exception 'the snapshot is forgotten' using errcode = 'MV102'; end if;
    if in_until <= now() then raise exception 'a hold ends in the future' using errcode = 'MV102'; end if;
    select h.id into same from mover.hold h where h.snapshot_id = in_snapshot and h.released_at is null
       and h.reason = in_reason and h.until is not distinct from in_until and h.placed_by = who.actor limit 1;
    if same is not null then return same; end if;
    if (select count(*) >= 20 from mover.hold h where h.snapshot_id = in_snapshot and h.released_at is null
           and h.placed_person = who.person and (h.until is null or h.until > now())) then
        raise exception 'one person holds a snapshot at most 20 times' using errcode = 'MV102';
    end if;
    insert into mover.hold (id, project_id, snapshot_id, reason, until, placed_by, placed_person)
    values (in_id, mover.current_project(), in_snapshot, in_reason, in_until, who.actor, who.person);
    update mover.snapshot set state = 'checked', trash_until = null, trashed_for = null
     where id = in_snapshot and state = 'trashed' and trashed_for is distinct from 'cut-off';
    perform mover.protect_record(in_node, who.actor, 'snapshot held', in_snapshot, in_reason,
                                 jsonb_build_object('hold', in_id, 'until', in_until, 'was', s.state));
    return in_id;
end $$;

create function mover.snapshot_tag(in_snapshot text, in_tags text[], in_proof bytea, in_actor text, in_node text)
    returns void language plpgsql security definer set search_path = mover, pg_temp as $$
declare who mover.asker := mover.asker_of(in_proof, in_actor); s mover.snapshot;
begin
    select * into s from mover.snapshot where id = in_snapshot for update;
    if s.id is null then raise exception 'no such snapshot' using errcode = 'MV101'; end if;
    if s.tags @> in_tags then return; end if;
    if cardinality(s.tags) + cardinality(in_tags) > 100 then
        raise exception 'a snapshot has at most 100 tags' using errcode = 'MV102';
    end if;
    update mover.snapshot set tags = array(select distinct unnest(s.tags || in_tags) order by 1) where id = in_snapshot;
    perform mover.protect_record(in_node, who.actor, 'snapshot tagged', in_snapshot, '',
                                 jsonb_build_object('tags', to_jsonb(in_tags)));
end $$;

-- --- what needs two persons ----------------------------------------------------------------------------------------

-- how long a change to these policies waits: by the terms that hold, never less than an hour
create function mover.protect_delay(in_policies text[]) returns interval
    language sql stable security definer set search_path = mover, pg_temp as $$
    select greatest(interval '1 hour', max(mover.terms_time(t.terms, 'delay_s', 259200)))
      from unnest(in_policies) p left join mover.protect_terms t on t.policy = p
$$;

create function mover.request_policies(in_kind text, in_policy text, in_subjects text[]) returns text[]
    language plpgsql stable security definer set search_path = mover, pg_temp as $$
declare found_ones text[]; known bigint;
begin
    if in_kind in ('shorten', 'large') then
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

-- Asked again while it is open, it is the same request.
create function mover.request_make(in_id text, in_kind text, in_policy text, in_subjects text[], in_wanted jsonb,
                                   in_reason text, in_proof bytea, in_actor text, in_node text) returns text
    language plpgsql security definer set search_path = mover, pg_temp as $$
declare who mover.asker := mover.asker_of(in_proof, in_actor); same text; delay interval; policies text[];
begin
    if who.role not in ('operator', 'admin') then
        raise exception 'this role asks for nothing here' using errcode = 'MV103';
    end if;
    policies := mover.request_policies(in_kind, in_policy, in_subjects);
    if in_kind = 'shorten' and '{}' = mover.terms_shorter(
            (select terms from mover.protect_terms where policy = in_policy), in_wanted) then
        raise exception 'this shortens nothing' using errcode = 'MV102';
    end if;
    select r.id into same from mover.protect_request r
     where r.kind = in_kind and r.policy is not distinct from in_policy and r.subjects = in_subjects
       and r.wanted = in_wanted
       and r.requested_person = who.person and r.applied_at is null and r.withdrawn_at is null and r.lapses_at > now();
    if same is not null then return same; end if;
    if (select count(*) >= 1000 from mover.protect_request r
         where r.applied_at is null and r.withdrawn_at is null and r.lapses_at > now()) then
        raise exception '1000 requests are open already' using errcode = 'MV102';
    end if;
    delay := mover.protect_delay(policies);
    insert into mover.protect_request (id, project_id, kind, policy, subjects, wanted, reason, requested_by,
                                       requested_token, requested_person, requested_at, not_before, lapses_at)
    values (in_id, mover.current_project(), in_kind, in_policy, in_subjects, in_wanted, in_reason, who.actor, who.token,
            who.person, now(), now() + delay, now() + delay + interval '30 days');
    perform mover.protect_record(in_node, who.actor, 'protection: asked to shorten', in_id, in_reason, jsonb_build_object(
        'kind', in_kind, 'policy', in_policy, 'subjects', to_jsonb(in_subjects), 'wanted', in_wanted,
        'not before', now() + delay));
    return in_id;
end $$;

create function mover.request_open(in_id text) returns mover.protect_request
    language plpgsql security definer set search_path = mover, pg_temp as $$
declare r mover.protect_request;
begin
    select * into r from mover.protect_request where id = in_id for update;
    if r.id is null then raise exception 'no such request' using errcode = 'MV101'; end if;
    if r.applied_at is not null then raise exception 'the request was applied' using errcode = 'MV102'; end if;
    if r.withdrawn_at is not null then raise exception 'the request was withdrawn' using errcode = 'MV102'; end if;
    if r.lapses_at <= now() then raise exception 'the request has lapsed' using errcode = 'MV102'; end if;
    return r;
end $$;

-- The second person. Neither may be newer than the delay: whoever makes a token to be two waits as long again, and
-- is seen. Approving twice is approving once.
create function mover.request_approve(in_id text, in_proof bytea, in_actor text, in_node text) returns void
    language plpgsql security definer set search_path = mover, pg_temp as $$
declare who mover.asker := mover.asker_of(in_proof, in_actor); r mover.protect_request := mover.request_open(in_id);
    asked_since timestamptz; delay interval;
begin
    if r.approved_person = who.person then return; end if;
    if who.role <> 'admin' then
        raise exception 'only an admin approves' using errcode = 'MV103';
    end if;
    if who.person = r.requested_person then
        raise exception 'who asked does not approve; tokens that one person made are one person' using errcode = 'MV103';
    end if;
    if r.approved_at is not null then raise exception 'it is approved already' using errcode = 'MV102'; end if;
    delay := r.not_before - r.requested_at;
    select coalesce(f.created_at, t.created_at) into asked_since
      from mover.token t left join mover.token f on f.id = t.person where t.id = r.requested_token;
    if who.since > r.requested_at - delay or coalesce(asked_since, '-infinity') > r.requested_at - delay then
        raise exception 'one of the two tokens was made too short before the request' using errcode = 'MV103';
    end if;
    update mover.protect_request set approved_by = who.actor, approved_token = who.token, approved_person = who.person,
           approved_at = now() where id = in_id;
    perform mover.protect_record(in_node, who.actor, 'protection: shortening approved', in_id, r.reason,
                                 jsonb_build_object('requested by', r.requested_by, 'not before', r.not_before));
end $$;

create function mover.request_withdraw(in_id text, in_proof bytea, in_actor text, in_node text) returns void
    language plpgsql security definer set search_path = mover, pg_temp as $$
declare who mover.asker := mover.asker_of(in_proof, in_actor); r mover.protect_request;
begin
    select * into r from mover.protect_request where id = in_id;
    if r.withdrawn_at is not null then return; end if;
    r := mover.request_open(in_id);
    update mover.protect_request set withdrawn_by = who.actor, withdrawn_at = now() where id = in_id;
    perform mover.protect_record(in_node, who.actor, 'protection: request withdrawn', in_id, r.reason, '{}');
end $$;

-- Approved, its delay over, once. Holds beat what two persons agreed on: only releasing them does not.
create function mover.request_apply(in_id text, in_node text) returns boolean
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
    end case;
    get diagnostics changed = row_count;
    update mover.protect_request set applied_at = now() where id = in_id;
    perform mover.protect_record(in_node, 'daemon', 'protection: shortening applied', in_id, r.reason, jsonb_build_object(
        'kind', r.kind, 'requested by', r.requested_by, 'approved by', r.approved_by, 'changed', changed));
    return true;
end $$;

create function mover.request_policies_of(r mover.protect_request) returns text[]
    language sql stable security definer set search_path = mover, pg_temp as $$
    select case when r.policy is not null then array[r.policy]
                else array(select distinct s.policy from mover.snapshot s where s.id = any (r.subjects)
                              or s.id in (select h.snapshot_id from mover.hold h where h.id = any (r.subjects))) end
$$;

reset role;

revoke update on mover.snapshot from mover_daemon;
grant update (reasons) on mover.snapshot to mover_daemon;
revoke insert, update on mover.token from mover_daemon;
grant update (revoked_at) on mover.token to mover_daemon;
grant select (made_by, person) on mover.token to mover_daemon;
grant select on mover.snapshot_series, mover.hold, mover.protect_terms, mover.protect_request to mover_daemon;
grant select, insert, update on mover.protect_turn to mover_daemon;
do $$
declare f text;
begin
    foreach f in array array[
        'token_add(text, bytea, text, text, integer, integer, timestamptz, bytea)', 'asker_of(bytea, text)',
        'protect_record(text, text, text, text, text, jsonb)', 'terms_number(jsonb, text)',
        'terms_time(jsonb, text, numeric)', 'keeps_all(jsonb)',
        'terms_shorter(jsonb, jsonb)', 'terms_follow(text, jsonb, text)', 'is_held(text)', 'snapshots_kept(text, text)',
        'snapshot_checked(text)',
        'snapshot_incomplete(text)', 'clock_doubtful(text)', 'snapshots_trash(text, text, text[], text)',
        'snapshots_cut_off(text)', 'trash_over(text, integer, text)', 'snapshots_purged(text[])',
        'snapshots_present(text, text[], timestamptz, text)',
        'hold_place(text, text, text, timestamptz, bytea, text, text)', 'snapshot_tag(text, text[], bytea, text, text)',
        'protect_delay(text[])', 'request_policies(text, text, text[])', 'request_open(text)',
        'request_policies_of(mover.protect_request)',
        'request_make(text, text, text, text[], jsonb, text, bytea, text, text)',
        'request_approve(text, bytea, text, text)',
        'request_withdraw(text, bytea, text, text)', 'request_apply(text, text)', 'token_person()', 'snapshot_recorded()'] loop
        execute format('revoke execute on function mover.%s from public', f);
    end loop;
    foreach f in array array[
        'token_add(text, bytea, text, text, integer, integer, timestamptz, bytea)', 'terms_number(jsonb, text)',
        'terms_time(jsonb, text, numeric)', 'keeps_all(jsonb)', 'terms_shorter(jsonb, jsonb)', 'terms_follow(text, jsonb, text)', 'is_held(text)',
        'snapshots_kept(text, text)', 'snapshot_checked(text)',
        'snapshot_incomplete(text)', 'clock_doubtful(text)',
        'snapshots_trash(text, text, text[], text)', 'snapshots_cut_off(text)', 'trash_over(text, integer, text)',
        'snapshots_purged(text[])', 'snapshots_present(text, text[], timestamptz, text)',
        'hold_place(text, text, text, timestamptz, bytea, text, text)', 'snapshot_tag(text, text[], bytea, text, text)',
        'request_make(text, text, text, text[], jsonb, text, bytea, text, text)',
        'request_approve(text, bytea, text, text)',
        'request_withdraw(text, bytea, text, text)', 'request_apply(text, text)'] loop
        execute format('grant execute on function mover.%s to mover_daemon', f);
    end loop;
end $$;
