#!/bin/sh
# Runs once, before any shell: devices, network, SSH. Nothing here waits for the network.
. /lib/say.sh
say "root filesystem mounted"
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
mount -t tmpfs tmpfs /run
mount -t tmpfs tmpfs /dev/shm
modprobe -a virtio_net virtio_rng
ip link set lo up
# The name of an earlier boot, until the metadata has told it again.
[ ! -s /etc/hostname ] || hostname -F /etc/hostname

# Network cards present now, and those plugged in later.
uevent /lib/nic.sh >/dev/null 2>&1 &
for card in /sys/class/net/*; do
    ACTION=add SUBSYSTEM=net INTERFACE=${card##*/} /lib/nic.sh
done

/lib/ssh.sh
modprobe -a button evdev
acpid -l /dev/null
modprobe -a virtio_balloon virtio_console
