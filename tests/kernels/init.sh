#!/bin/sh
# First process of a guest: the machine's root, read-only, under an overlay that forgets.
export PATH=/bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
for module in /modules/*.ko; do insmod "$module"; done
share="trans=virtio,version=9p2000.L,msize=262144"
mount -t 9p -o "$share,cache=loose,ro" root /low
mount -t tmpfs -o size=60% overlay /up
mkdir /up/upper /up/work
mount -t overlay -o lowerdir=/low,upperdir=/up/upper,workdir=/up/work root /new
release=$(cat /proc/sys/kernel/osrelease)
mkdir -p "/new/lib/modules/$release" /new/lib/modules/packaged /new/mnt
mount -t 9p -o "$share,cache=loose,ro" modules /new/lib/modules/packaged
for entry in /new/lib/modules/packaged/*; do
    ln -sf "${entry#/new}" "/new/lib/modules/$release/"
done
mount -t 9p -o "$share" share /new/mnt
mount --move /dev /new/dev
umount /sys
umount /proc
exec switch_root /new /bin/bash /mnt/rc.sh
