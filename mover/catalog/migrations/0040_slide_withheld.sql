-- === slides that no run takes =====================================================================================

set role mover_owner;

create index pack_withheld on mover.pack (project_id, number)
 where state in ('quarantined', 'excluded') and number is not null;

-- Withdrawn at this site, or every pack of it in this project waits in quarantine or stays out: whether a list names
-- such a slide or an expression selects it.
create view mover.slide_withheld with (security_invoker = true) as
    select number from mover.slide_withdrawal
     union
    select p.number from mover.pack p
     where p.state in ('quarantined', 'excluded') and p.number is not null
       and not exists (select from mover.pack o where o.number = p.number and o.state not in ('quarantined', 'excluded'));
grant select on mover.slide_withheld to mover_daemon;

reset role;
