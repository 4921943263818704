-- === a scheduler acts for the members of its project's group ==============================================================

set role mover_owner;

-- It has no user of its own and one group, the project's: whom it may act for is asked of that group each time.
alter table mover.token drop constraint token_role_check;
alter table mover.token
    add constraint token_role_check check (role in ('viewer', 'operator', 'admin', 'custodian', 'scheduler')),
    add constraint token_scheduler_check check (role <> 'scheduler' or (posix_uid is null and posix_gid > 0));

reset role;
