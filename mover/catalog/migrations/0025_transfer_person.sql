-- === the second person of a release is somebody else, whatever name they go by ==================================

set role mover_owner;

alter table mover.transfer add column asked_person text;        -- null: asked before this was written down, or by a policy

reset role;
