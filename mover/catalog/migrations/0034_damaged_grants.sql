-- === what was found damaged is told to runs whose entries are tallied, and to tars ==================================

-- writing entries keeps the tally, whoever writes them
grant select, update on mover.run_tally to mover_dispatch;
-- a tar that was found damaged is made again
grant update (damaged_at) on mover.run_tar to mover_daemon;
