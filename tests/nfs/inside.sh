#!/bin/sh
# The guest's life after its root is mounted (see guest.py): a loop-back network, the NFS server, the tests, the end.
set -u
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C.UTF-8
mount -o remount,rw /proc 2>/dev/null
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
mount -t tmpfs -o mode=1777 shm /dev/shm
word() { sed -n "s/.*$1=\([^ ]*\).*/\1/p" /proc/cmdline; }
root=$(word mover.root)
ip link set lo up 2>/dev/null || busybox ifconfig lo 127.0.0.1 up
hostname guest 2>/dev/null || busybox hostname guest
while read -r module; do busybox insmod "$module" 2>/dev/null; done < "$(word mover.modules)"
# the server's programs, where they expect themselves to be: in the memory overlay only
cp -a "$root"/usr/sbin/. /usr/sbin/; cp -a "$root"/sbin/. /sbin/; cp -a "$root"/etc/. /etc/ 2>/dev/null
cp -a "$root"/usr/lib/x86_64-linux-gnu/. /usr/lib/x86_64-linux-gnu/ 2>/dev/null
cp -a "$root"/lib/x86_64-linux-gnu/. /lib/x86_64-linux-gnu/ 2>/dev/null
ldconfig 2>/dev/null
mkdir -p /var/lib/nfs/v4recovery /var/lib/nfs/rpc_pipefs /run/rpcbind
touch /etc/exports /var/lib/nfs/etab /var/lib/nfs/rmtab
mount -t nfsd nfsd /proc/fs/nfsd
cd "$(dirname "$0")/../.." || exit 1
# shellcheck disable=SC2046
MOVER_NFS_GUEST=1 PYTHONPATH=. PYTHONDONTWRITEBYTECODE=1 "$(word mover.python)" -m pytest -p no:cacheprovider \
    -p no:xdist -p no:hypothesispytest -rPfEs -v --tb=short --color=no --confcutdir=tests/nfs --basetemp=/run/pytest $(word mover.arguments | tr ',' ' ')
echo "mover guest: exit $?"
busybox sync
busybox poweroff -f
