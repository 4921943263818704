-- === the oldest records of the audit leave for a pack ===============================================================

set role mover_owner;

-- What two people said of the oldest records of some chains: that a signed pack holds them on `tiers`, and that they leave
-- the catalog. `chains`: of each node the record `after` which they begin, the last one and its hash. `carried` are the
-- statements of restores and retirements whose own records are among them. `n` is the checkpoint that says all of it.
create table mover.audit_retirement (
    project_id  text not null references mover.project,
    id          text primary key,
    before      timestamptz not null,
    chains      jsonb not null,
    carried     text[] not null default '{}',
    digest      text not null check (digest ~ '^[0-9a-f]{64}$'),
    bytes       bigint not null check (bytes > 0),
    tiers       text[] not null check (cardinality(tiers) > 0),
    n           bigint,
    reason      text not null,
    asked_by    text not null,
    asked_person text not null,
    asked_at    timestamptz not null default now(),
    lapses_at   timestamptz not null default now() + interval '30 days',
    approved_by text,
    approved_person text check (approved_person <> asked_person),
    approved_at timestamptz,
    check ((n is null) = (approved_at is null))
);
create unique index audit_retirement_once on mover.audit_retirement (project_id, n) where approved_at is not null;
alter table mover.audit_retirement enable row level security;
alter table mover.audit_retirement force row level security;
create policy by_project on mover.audit_retirement using (project_id = (select mover.current_project()))
    with check (project_id = (select mover.current_project()));

create function mover.retired_chains(in_chains jsonb) returns table (node text, "after" bigint, upto bigint, hash text)
    language sql immutable as $$
    select c.node, c."after", c.upto, c.hash
      from jsonb_to_recordset(in_chains) as c(node text, "after" bigint, upto bigint, hash text) order by c.node
$$;

-- How many of them still stand.
create function mover.audit_still_standing(in_chains jsonb) returns bigint language sql stable as $$
    select coalesce(sum(greatest(0, g.upto + 1 - s.first)), 0)::bigint
      from mover.retired_chains(in_chains) g cross join lateral (
           select min(a.seq) as first from mover.audit_record a
            where a.project_id = mover.current_project() and a.node = g.node) s
     where s.first is not null
$$;

-- Whoever has the daemon's own login can speak for the machine; with one stolen token besides that would be two.
create function mover.audit_by_person(in_proof bytea) returns void language plpgsql as $$
begin
    if in_proof is null then
        raise exception 'the machine lets no record go: a person does, by a token or a session' using errcode = 'MV103';
    end if;
end $$;

-- What the database can know by itself, asked before each of the three steps. Six years by its own clock and by the
-- stamps that it wrote itself, whatever anybody asks for.
create function mover.audit_may_retire(in_before timestamptz) returns void language plpgsql stable as $$
begin
    if in_before is null or in_before > clock_timestamp() - interval '6 years' then
        raise exception 'records younger than six years stay' using errcode = 'MV102';
    end if;
    if exists (select from mover.audit_restore r where r.approved_at is null and r.lapses_at > now()) then
        raise exception 'what a restored catalog lost is still to be decided' using errcode = 'MV102';
    end if;
end $$;

-- Whether these are the oldest records of their chains, each older than `in_before`, and covered by a signed checkpoint on
-- every one of the tiers; and whether nothing that is still open speaks of what they tell.
create function mover.audit_check_retired(in_before timestamptz, in_chains jsonb, in_tiers text[]) returns void
    language plpgsql stable as $$
declare c record; its record; here text := mover.current_project();
begin
    perform mover.audit_may_retire(in_before);
    if (select count(*) = 0 or count(*) <> count(distinct node) from mover.retired_chains(in_chains)) then
        raise exception 'a retirement names records of chains, each chain once' using errcode = 'MV102';
    end if;
    if exists (select from mover.audit_retirement r
                where r.approved_at is not null and mover.audit_still_standing(r.chains) > 0) then
        raise exception 'records of an earlier retirement are still leaving' using errcode = 'MV102';
    end if;
    for c in select * from mover.retired_chains(in_chains) loop
        select count(*) as records, min(a.seq) as first, max(a.at) as youngest into its from mover.audit_record a
         where a.project_id = here and a.node = c.node and a.seq <= c.upto;
        if c."after" is null or its.records = 0 or its.first <> c."after" + 1 or its.records <> c.upto - c."after" then
            raise exception 'only the oldest records of a chain leave, all of them up to the last' using errcode = 'MV102';
        end if;
        if its.youngest >= in_before then
            raise exception 'a record among them is younger than that day' using errcode = 'MV102';
        end if;
        if not exists (select from mover.audit_record a where a.project_id = here and a.node = c.node and a.seq = c.upto
                          and encode(a.hash, 'hex') = c.hash)
            or not exists (select from mover.audit_head h where h.project_id = here and h.node = c.node and h.seq >= c.upto) then
            raise exception 'the chain does not say this of its record' using errcode = 'MV102';
        end if;
        if exists (select from unnest(in_tiers) t(name) where not coalesce((
                select bool_or((e ->> 'seq')::bigint >= c.upto) from jsonb_array_elements((
                    select p.body::jsonb #> '{checkpoint,heads}' from mover.checkpoint p join mover.checkpoint_copy k
                        on (k.project_id, k.n) = (p.project_id, p.n)
                     where p.project_id = here and k.tier = t.name order by p.n desc limit 1)) e
                 where e ->> 'node' = c.node), false)) then
            raise exception 'no signed checkpoint on one of the tiers covers these records' using errcode = 'MV102';
        end if;
    end loop;
    if exists (select from mover.retired_chains(in_chains) g join mover.audit_record a
                   on a.project_id = here and a.node = g.node and a.seq <= g.upto
                where a.body::jsonb ->> 'subject' in (
                      select s.subject_id from mover.shard s where s.state in ('waiting', 'running')
                      union all
                      select unnest(array[h.id, h.snapshot_id, n.run_id]) from mover.hold h
                        join mover.snapshot n on (n.project_id, n.id) = (h.project_id, h.snapshot_id)
                       where h.released_at is null and (h.until is null or h.until > now()))) then
        raise exception 'work that is not done, or a hold, is about what these records tell' using errcode = 'MV102';
    end if;
end $$;

-- Asked before a pack is written, and again with the word itself: one request of a project at a time, since each leaves a
-- pack on every tier, which nothing removes.
create function mover.audit_retire_may_ask(in_proof bytea, in_actor text) returns void
    language plpgsql security definer set search_path = mover, pg_temp as $$
declare who mover.asker := mover.asker_of(in_proof, in_actor);
begin
    if who.role not in ('admin', 'custodian') then
        raise exception 'this role answers for no audit' using errcode = 'MV103';
    end if;
    perform mover.audit_by_person(in_proof);
    perform pg_advisory_xact_lock(hashtext('mover retirement'), hashtext(mover.current_project()));
    if exists (select from mover.audit_retirement r where r.project_id = mover.current_project() and r.approved_at is null
                  and r.lapses_at > now()) then
        raise exception 'a request waits already: approve it, or let it lapse' using errcode = 'MV102';
    end if;
    if exists (select from mover.audit_retirement r where r.project_id = mover.current_project()
                  and r.approved_at is not null and mover.audit_still_standing(r.chains) > 0) then
        raise exception 'records of an earlier retirement are still leaving' using errcode = 'MV102';
    end if;
end $$;

-- The first person's word. `in_years` is what the site's settings keep, null for ever; nothing makes it less than six.
create function mover.audit_retire_ask(in_id text, in_before timestamptz, in_years integer, in_chains jsonb, in_digest text,
                                       in_bytes bigint, in_tiers text[], in_reason text, in_proof bytea, in_actor text,
                                       in_node text) returns void
    language plpgsql security definer set search_path = mover, pg_temp as $$
declare who mover.asker := mover.asker_of(in_proof, in_actor); along text[];
begin
    perform mover.audit_retire_may_ask(in_proof, in_actor);
    perform mover.audit_may_retire(in_before);
    if in_years is null then raise exception 'this site keeps its records for ever' using errcode = 'MV102'; end if;
    if in_before > clock_timestamp() - make_interval(years => in_years) then
        raise exception 'this site keeps its records for longer' using errcode = 'MV102';
    end if;
    perform mover.audit_check_retired(in_before, in_chains, in_tiers);
    select coalesce(array_agg(distinct a.body::jsonb ->> 'subject'), '{}') into along
      from mover.retired_chains(in_chains) g join mover.audit_record a
        on a.project_id = mover.current_project() and a.node = g.node and a.seq <= g.upto
     where a.body::jsonb ->> 'action' in ('audit restore accepted', 'audit retirement approved');
    insert into mover.audit_retirement (project_id, id, before, chains, carried, digest, bytes, tiers, reason, asked_by,
                                        asked_person)
    values (mover.current_project(), in_id, in_before, in_chains, along, in_digest, in_bytes, in_tiers, in_reason, who.actor,
            who.person);
    perform mover.protect_record(in_node, who.actor, 'audit retirement asked', in_id, in_reason, jsonb_build_object(
        'before', in_before, 'chains', in_chains, 'pack', in_digest));
end $$;

-- The second person's. The caller signs checkpoint `n`, which says the same, in the same transaction.
create function mover.audit_retire_approve(in_id text, in_proof bytea, in_actor text, in_node text) returns bigint
    language plpgsql security definer set search_path = mover, pg_temp as $$
declare who mover.asker := mover.asker_of(in_proof, in_actor); r mover.audit_retirement; next_n bigint;
begin
    select * into r from mover.audit_retirement where id = in_id for update;
    if r.id is null then raise exception 'no such retirement' using errcode = 'MV101'; end if;
    if who.role not in ('admin', 'custodian') then
        raise exception 'this role answers for no audit' using errcode = 'MV103';
    end if;
    if r.approved_at is not null then raise exception 'it is approved already' using errcode = 'MV102'; end if;
    if r.lapses_at <= now() then raise exception 'the request has lapsed' using errcode = 'MV102'; end if;
    if who.person = r.asked_person then
        raise exception 'who asked does not approve; tokens that one person made are one person' using errcode = 'MV103';
    end if;
    perform mover.audit_by_person(in_proof);
    perform mover.second_person(who, r.asked_person, r.asked_by, r.asked_at);
    perform mover.audit_check_retired(r.before, r.chains, r.tiers);
    select coalesce(max(n), 0) + 1 into next_n from mover.checkpoint where project_id = mover.current_project();
    update mover.audit_retirement set approved_by = who.actor, approved_person = who.person, approved_at = now(), n = next_n
     where id = in_id;
    perform mover.protect_record(in_node, who.actor, 'audit retirement approved', in_id, r.reason, jsonb_build_object(
        'checkpoint', next_n, 'before', r.before, 'chains', r.chains, 'pack', r.digest, 'asked by', r.asked_by));
    return next_n;
end $$;

-- What `audit_append` made of a record.
create function mover.audit_hash_of(in_prev bytea, in_seq bigint, in_at timestamptz, in_project text, in_node text, in_body text)
    returns bytea language sql stable as $$
    select sha256(in_prev || convert_to(
        in_seq::text || '|' || to_char(in_at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')
        || '|' || in_project || '|' || in_node || '|' || in_body, 'UTF8'))
$$;

-- The next records of a retirement leave, oldest first, and their record comes; the number of them, 0 when none is left.
-- Only after every tier has the checkpoint that says so. A kill between two calls leaves a chain that verifies.
create function mover.audit_retire(in_id text, in_limit integer, in_node text) returns bigint
    language plpgsql security definer set search_path = mover, pg_temp as $$
declare r mover.audit_retirement; c record; first_seq bigint; last_seq bigint; gone bigint; here text := mover.current_project();
begin
    select * into r from mover.audit_retirement where id = in_id for update;
    if r.id is null then raise exception 'no such retirement' using errcode = 'MV101'; end if;
    if r.approved_at is null then
        raise exception 'no second person approved that these records leave' using errcode = 'MV103';
    end if;
    perform mover.audit_may_retire(r.before);
    if exists (select from unnest(r.tiers) t(name) where not exists (
            select from mover.checkpoint p join mover.checkpoint_copy k on (k.project_id, k.n) = (p.project_id, p.n)
             where p.project_id = here and p.n = r.n and k.tier = t.name
               and p.body::jsonb #>> '{checkpoint,retired,id}' = in_id)) then
        raise exception 'a tier has no checkpoint yet that tells of it' using errcode = 'MV102';
    end if;
    for c in select * from mover.retired_chains(r.chains) loop
        select min(a.seq) into first_seq from mover.audit_record a where a.project_id = here and a.node = c.node;
        continue when first_seq is null or first_seq > c.upto;
        last_seq := least(c.upto, first_seq + greatest(1, least(in_limit, 20000)) - 1);
        if not exists (select from mover.audit_record a where a.project_id = here and a.node = c.node and a.seq = c.upto
                          and encode(a.hash, 'hex') = c.hash) then
            raise exception 'the chain is not as it was when two people agreed' using errcode = 'MV102';
        end if;
        if exists (select from (
                select a.*, lead(a.prev) over (order by a.seq) as follows from mover.audit_record a
                 where a.project_id = here and a.node = c.node and a.seq between first_seq and last_seq + 1) p
                where p.seq <= last_seq and (p.hash is distinct from mover.audit_hash_of(p.prev, p.seq, p.at, here, c.node, p.body)
                      or (p.seq = c.upto and encode(p.hash, 'hex') <> c.hash)
                      or (p.seq < c.upto and p.follows is distinct from p.hash))) then
            raise exception 'the chain is not as it was when two people agreed' using errcode = 'MV102';
        end if;
        delete from mover.audit_record a
         where a.project_id = here and a.node = c.node and a.seq between first_seq and last_seq and a.at < r.before;
        get diagnostics gone = row_count;
        if first_seq <= c."after" or gone <> last_seq - first_seq + 1 then
            raise exception 'the chain is not as it was when two people agreed' using errcode = 'MV102';
        end if;
        perform mover.protect_record(in_node, 'daemon', 'audit records retired', in_id, '', jsonb_build_object(
            'node', c.node, 'from', first_seq, 'upto', last_seq, 'pack', r.digest));
        return gone;
    end loop;
    return 0;
end $$;

grant select on mover.audit_retirement to mover_daemon;

reset role;

revoke execute on function mover.retired_chains(jsonb), mover.audit_hash_of(bytea, bigint, timestamptz, text, text, text),
    mover.audit_still_standing(jsonb), mover.audit_by_person(bytea),
    mover.audit_may_retire(timestamptz),
    mover.audit_check_retired(timestamptz, jsonb, text[]),
    mover.audit_retire_may_ask(bytea, text),
    mover.audit_retire_ask(text, timestamptz, integer, jsonb, text, bigint, text[], text, bytea, text, text),
    mover.audit_retire_approve(text, bytea, text, text), mover.audit_retire(text, integer, text) from public;
grant execute on function mover.retired_chains(jsonb), mover.audit_still_standing(jsonb),
    mover.audit_retire_may_ask(bytea, text),
    mover.audit_retire_ask(text, timestamptz, integer, jsonb, text, bigint, text[], text, bytea, text, text),
    mover.audit_retire_approve(text, bytea, text, text), mover.audit_retire(text, integer, text) to mover_daemon;
