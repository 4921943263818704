-- === a name among the damaged may be taken again, when what had it is gone ==========================================

grant update (size_bytes, at) on mover.damaged to mover_daemon;
