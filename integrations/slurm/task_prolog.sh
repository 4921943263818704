#!/bin/sh
# TaskProlog: is the run root that this job was promised what this node sees? As the job's user, in seconds.
# A failing TaskProlog ends the task that would have trained on nothing; unlike a failing Prolog it drains no node.
if [ -z "${MOVER_RUN_DIR:-}" ]; then
    # A step without the job's environment (srun --export=NONE) knows of no run; "$MOVER_RUN_DIR/data" would be /data.
    # Only such a step has no HOME: for all others slurmctld is not asked.
    [ -z "${HOME:-}" ] || exit 0
    case $(timeout 20 scontrol -o show job "$SLURM_JOB_ID" 2>/dev/null) in *"BurstBuffer=#BB_LUA"*) ;; *) exit 0 ;; esac
    echo "print mover: this step has not its job's environment: say srun --export=ALL; the task does not begin"
    exit 1
fi
said=$(timeout 20 cat "$MOVER_RUN_DIR/RUN.json" 2>/dev/null) || said=
case $said in
*"\"run\": \"$MOVER_RUN_ID\""*"\"manifest_root\": \"$MOVER_MANIFEST_ROOT\""*) exit 0 ;;
esac
echo "print mover: $(hostname) does not see the run root $MOVER_RUN_DIR of $MOVER_RUN_ID; the task does not begin"
exit 1
