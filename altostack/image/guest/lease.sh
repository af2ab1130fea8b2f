#!/bin/sh
# udhcpc's hook: applies a lease. Several cards may each bring a default route: the first card wins.
. /lib/say.sh
mine=/run/nic/$interface
read -r index <"/sys/class/net/$interface/ifindex"
metric=$((100 + index))
case $1 in
deconfig)
    ip -4 addr flush dev "$interface"
    ip link set "$interface" up
    rm -f "$mine/address" "$mine/dns"
    ;;
bound | renew)
    address="$ip/${mask:-24}"
    known=
    [ -e "$mine/address" ] && read -r known <"$mine/address"
    if [ "$known" != "$address" ]; then
        ip -4 addr flush dev "$interface"
        ip addr add "$address" dev "$interface"
    fi
    [ -n "$mtu" ] && ip link set "$interface" mtu "$mtu"
    if [ -n "$staticroutes" ]; then
        set -- $staticroutes
        while [ $# -ge 2 ]; do
            case $2 in
            0.0.0.0) ip route replace "$1" dev "$interface" metric "$metric" ;;
            *) ip route replace "$1" via "$2" dev "$interface" metric "$metric" ;;
            esac
            shift 2
        done
    else
        for gateway in $router; do
            ip route replace default via "$gateway" dev "$interface" metric "$metric"
            break
        done
    fi
    {
        [ -n "$domain" ] && echo "search $domain"
        for server in $dns; do echo "nameserver $server"; done
    } >"$mine/dns"
    cat /run/nic/*/dns >/etc/resolv.conf
    if [ "$known" != "$address" ]; then
        echo "$address" >"$mine/address"
        say "$interface has $address"
        # Wakes instance.sh; opened for both directions, so that it never waits for a reader.
        [ -p /run/online ] && echo "$interface" 1<>/run/online
    fi
    ;;
esac
exit 0
