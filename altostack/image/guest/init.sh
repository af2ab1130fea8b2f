#!/bin/busybox sh
# First process, from the initramfs: load what the root disk needs, mount it, hand over.
# $PATH is of no matter here: this busybox runs its own applets before it looks for files.
busybox mount -t proc proc /proc
. /lib/say.sh
say "user space"
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
modprobe -a virtio_pci virtio_blk

# In this order, so that a second disk made from the same image is never taken for the root.
find_root() {
    for disk in /dev/vd?2 /dev/sd?2; do
        [ -b "$disk" ] && mount -t ext4 "$disk" /root 2>/dev/null || continue
        [ -e /root/etc/altostack ] && return 0
        umount /root
    done
    return 1
}

if ! find_root; then
    modprobe -a virtio_scsi sd_mod ata_piix
    tries=0
    until find_root; do
        tries=$((tries + 1))
        if [ "$tries" = 200 ]; then
            say "no root filesystem found on any disk"
            cat /proc/partitions
            exec sh
        fi
        usleep 50000
    done
fi
# The shell finds its own applets through /proc: once that has moved, by their file only.
for mounted in dev sys proc; do /bin/busybox mount --move "/$mounted" "/root/$mounted"; done
exec /bin/busybox switch_root /root /sbin/init
