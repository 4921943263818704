-- === records that arrive later, and certificates ==========================================================

set role mover_owner;

-- a slide in which something of its patient was found after it was published: a fact of the site, whoever found it.
-- No selection and no run takes it from then on, in whatever project
create table mover.slide_withdrawal (
    number      text primary key references mover.slide,
    reason      text not null,                      -- stable code
    found_by    text not null,                      -- id of the record set that brought the words
    at          timestamptz not null default now()
);
alter table mover.slide_withdrawal enable row level security;
alter table mover.slide_withdrawal force row level security;
create policy by_grant on mover.slide_withdrawal for select
    using (exists (select from mover.slide_grant g where g.number = slide_withdrawal.number));
create policy finding on mover.slide_withdrawal for insert
    with check (exists (select from mover.slide_grant g where g.number = slide_withdrawal.number));
grant select, insert on mover.slide_withdrawal to mover_daemon;
grant select on mover.slide_withdrawal, mover.slide_grant to mover_dispatch;

-- slides that were searched for what the tables of a record set say of their patients; which is not here yet is where a
-- killed search goes on
create table mover.slide_search (
    project_id  text not null references mover.project,
    record_set_id text not null,
    number      text not null references mover.slide,
    outcome     text not null check (outcome in ('clean', 'found', 'unsearched')),
    strings     integer not null,                   -- sought, in all their forms
    forms       bigint not null,
    bytes       bigint not null,                    -- of the slide, searched
    root        text not null,                      -- what the slide's files are
    at          timestamptz not null default now(),
    primary key (record_set_id, number),
    foreign key (project_id, record_set_id) references mover.record_set (project_id, id)
);
create index slide_search_number on mover.slide_search (number);

-- certificates as they were issued. The same content is the same certificate: `content` is the digest of all that it
-- says but the time, the chain and the signature
create table mover.certificate (
    digest      text primary key check (digest ~ '^[0-9a-f]{64}$'),
    project_id  text not null references mover.project,
    batch_id    text not null,
    content     text not null check (content ~ '^[0-9a-f]{64}$'),
    fingerprint text not null,                      -- of the public key that signed
    body        text not null,
    issued_by   text not null,
    issued_at   timestamptz not null default clock_timestamp(),
    unique (project_id, batch_id, content, fingerprint),
    foreign key (project_id, batch_id) references mover.batch (project_id, id)
);

do $$
declare t text;
begin
    foreach t in array array['slide_search', 'certificate'] loop
        execute format('alter table mover.%I enable row level security', t);
        execute format('alter table mover.%I force row level security', t);
        execute format('create policy by_project on mover.%I using (project_id = (select mover.current_project()))'
                       ' with check (project_id = (select mover.current_project()))', t);
    end loop;
end $$;
grant select, insert on mover.slide_search, mover.certificate to mover_daemon;

reset role;

grant create on schema mover to mover_dispatch;
set role mover_dispatch;

-- why the slide of this number was withdrawn, whatever project found it; null where it was not
create function mover.slide_withdrawn(in_number text) returns text
    language sql stable security definer set search_path = mover, pg_temp as $$
    select reason from mover.slide_withdrawal where number = in_number
$$;

-- who has to be told that these slides are withdrawn: every project they are granted to, with its runs that hold them
create function mover.slide_holders(in_numbers text[]) returns table (number text, project_id text, run_id text)
    language sql stable security definer set search_path = mover, pg_temp as $$
    select g.number, g.project_id, r.id from mover.slide_grant g
      left join (select distinct e.number, e.project_id, l.id from mover.run_entry e join mover.run l on l.id = e.run_id
                  where e.number = any (in_numbers)
                    and l.state not in ('cleaned', 'refused', 'cancelled', 'failed')) r
        on r.number = g.number and r.project_id = g.project_id
     where g.number = any (in_numbers)
$$;

reset role;
revoke create on schema mover from mover_dispatch;
revoke execute on function mover.slide_withdrawn(text), mover.slide_holders(text[]) from public;
grant execute on function mover.slide_withdrawn(text), mover.slide_holders(text[]) to mover_daemon;
