#!/bin/sh
# Called for every kernel event (uevent) and at boot: keeps one DHCP client for each network card.
[ "$SUBSYSTEM" = net ] && [ "$INTERFACE" != lo ] || exit 0
mine=/run/nic/$INTERFACE
case $ACTION in
add)
    mkdir -p /run/nic
    mkdir "$mine" 2>/dev/null || exit 0
    ip link set "$INTERFACE" up
    udhcpc -f -S -R -i "$INTERFACE" -p "$mine/pid" -s /lib/lease.sh -t 10 -T 1 -A 3 \
        -O mtu -O staticroutes -x hostname:"$(hostname)" >/dev/null 2>&1 &
    ;;
remove)
    read -r pid <"$mine/pid" && kill "$pid"
    rm -rf "$mine"
    ;;
esac
