-- === damaged content: a name may be taken again when what had it is gone; who was told is answered ===================

grant update (size_bytes, at) on mover.damaged to mover_daemon;
grant select on mover.run_event to mover_dispatch;
