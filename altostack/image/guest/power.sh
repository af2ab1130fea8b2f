#!/bin/sh
# The power button (a soft stop or reboot asked by the cloud): end everything orderly, without init's long pauses.
. /lib/say.sh
say "power button pressed"
killall5 -15 -o $$ 2>/dev/null
usleep 200000
sync
umount -a -r 2>/dev/null
say "power off"
poweroff -f
