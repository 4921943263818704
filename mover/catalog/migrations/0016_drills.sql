-- === drills, checks and rebuilds are turns, too ===========================================================================

set role mover_owner;

alter table mover.protect_turn drop constraint protect_turn_kind_check;
alter table mover.protect_turn
    add constraint protect_turn_kind_check check (kind in ('keep', 'prune', 'drill', 'sample', 'whole', 'copy', 'rebuild'));

reset role;
