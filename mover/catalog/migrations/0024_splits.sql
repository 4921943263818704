-- === splits: what slides share, told as groups and never as whose ==========================================================

set role mover_owner;

alter table mover.aligned
    add column block text;                          -- pseudonym of the tissue block, where a table names one

alter table mover.run_entry
    add column split text check (split ~ '^[a-z][a-z0-9_-]{0,31}$');

alter table mover.run
    drop constraint run_layout_check,
    add constraint run_layout_check check (layout in ('flat', 'number', 'label', 'split'));

-- Who tells that two slides are one patient's reads who is tied to what, and nothing else in the vault.
grant usage on schema mover, vault to mover_guard;
grant select on vault.tie, mover.slide, mover.slide_grant, mover.aligned to mover_guard;
grant execute on function mover.current_project() to mover_guard;

reset role;

grant create on schema mover to mover_guard;
set role mover_guard;

-- Of these slides those that have a patient, as tables say or as the scan itself said, each with a group that stands for
-- that patient in this answer and in no other. Only slides of the caller's project.
create function mover.patient_groups(in_numbers text[]) returns table (number text, patient bigint)
    language sql stable security definer set search_path = mover, pg_temp as $$
    with asked as (
        select s.number, s.site, s.facts ->> 'subject' as own from mover.slide_grant g join mover.slide s using (number)
         where g.number = any (in_numbers)),
    named as (
        select k.number, k.own as subject from asked k where k.own is not null
        union
        select k.number, a.subject from asked k join mover.aligned a using (number) where a.subject is not null
        union
        select k.number, t.subject from asked k join vault.tie t using (site, number))
    select n.number, dense_rank() over (order by n.subject) from named n
$$;

reset role;
revoke create on schema mover from mover_guard;
revoke execute on function mover.patient_groups(text[]) from public;
grant execute on function mover.patient_groups(text[]) to mover_daemon;
