#!/bin/sh
# TaskProlog: is the run root that this job was promised what this node sees? As the job's user, in seconds.
# A failing TaskProlog ends the task that would have trained on nothing; unlike a failing Prolog it drains no node.
[ -n "${MOVER_RUN_DIR:-}" ] || exit 0
said=$(timeout 20 cat "$MOVER_RUN_DIR/RUN.json" 2>/dev/null) || said=
case $said in
*"\"run\": \"$MOVER_RUN_ID\""*"\"manifest_root\": \"$MOVER_MANIFEST_ROOT\""*) exit 0 ;;
esac
echo "print mover: $(hostname) does not see the run root $MOVER_RUN_DIR of $MOVER_RUN_ID; the task does not begin"
exit 1
