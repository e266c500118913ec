#!/bin/busybox sh
# First process of the machine, in its initramfs: the host's root becomes its own, and what is written there stays in memory.
#
#   /modules  modules that this takes, named so that they are loaded in order
#   /shown    directories of the host that are seen at their place even below /tmp and /run, one a line
#   /kernel   where on the host the modules of this kernel are
#   /guest    what to do then: a script, the first process from then on
/bin/busybox mount -t proc proc /proc
/bin/busybox --install -s /bin
export PATH=/bin
must() { "$@" || { echo "init: failed: $*"; poweroff -f; }; }

for module in /modules/*; do
  must insmod "$module"
done
must mount -t 9p -o trans=virtio,version=9p2000.L,msize=262144,ro,cache=loose host /host
must mount -t tmpfs memory /memory
must mkdir /memory/written /memory/work
must mount -t overlay -o lowerdir=/host,upperdir=/memory/written,workdir=/memory/work new /new

must mount -t proc proc /new/proc
must mount -t sysfs sys /new/sys
must mount -t bpf bpf /new/sys/fs/bpf
must mount -t cgroup2 cgroup /new/sys/fs/cgroup
must mount -t devtmpfs dev /new/dev
must mkdir -p /new/dev/shm /new/dev/pts
must mount -t devpts pts /new/dev/pts
must mount -t tmpfs shm /new/dev/shm
must mount -t tmpfs run /new/run
must mount -t tmpfs tmp /new/tmp
while read -r directory; do
  [ ! -e "/new$directory" ] || continue
  must mkdir -p "/new$directory"
  must mount -o bind "/host$directory" "/new$directory"
done </shown
must mkdir -p /new/lib/modules
must mount -o bind "/host$(cat /kernel)/lib/modules" /new/lib/modules

must cp /guest /new/run/guest
umount /proc
exec switch_root /new /bin/sh /run/guest
