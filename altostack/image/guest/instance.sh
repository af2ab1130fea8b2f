#!/bin/sh
# Takes what the cloud says about this instance (config drive, else metadata service) and applies it:
# hostname, SSH keys and user-data once for each instance, by its uuid. Then the boot is finished.
. /lib/say.sh
service=http://169.254.169.254/openstack/latest
state=/var/lib/altostack
document=/run/meta_data.json
mkdir -p "$state"
mkfifo /run/online
exec 3<>/run/online # open before the leases are looked at: none can come unseen in between

# The root partition is the disk's last: give it the rest of the disk, then the filesystem the partition.
grow() {
    while read -r device where rest; do [ "$where" = / ] && break; done </proc/self/mounts
    part=${device#/dev/}
    disk=${part%2}
    read -r total <"/sys/class/block/$disk/size"
    read -r start <"/sys/class/block/$part/start"
    read -r now <"/sys/class/block/$part/size"
    sectors=$((total - start))
    [ "$sectors" -gt 4294967295 ] && sectors=4294967295 # what a DOS partition table can say
    [ $((sectors - now)) -gt 4096 ] || return
    # The sector count of the second entry of the partition table stands at byte 446 + 16 + 12, little-endian.
    octal=
    for shift in 0 8 16 24; do octal="$octal$(printf '\\%03o' $((sectors >> shift & 255)))"; done
    printf "$octal" | dd of="/dev/$disk" bs=1 seek=474 conv=notrunc 2>/dev/null
    resizepart "/dev/$disk" 2 "$sectors" && resize2fs "$device" >/dev/null 2>&1 &&
        say "root filesystem grown to $((sectors / 2048)) MiB" || say "root filesystem could not be grown"
}

# A further disk, or a CD on an IDE or a virtio SCSI controller, may be a config drive.
find_config_drive() {
    case $(cat /sys/bus/pci/devices/*/class) in *0x0101*) modprobe -a ata_piix sr_mod && found=1 ;; esac
    case $(cat /sys/bus/pci/devices/*/device) in *0x1004* | *0x1048*) modprobe -a virtio_scsi sd_mod sr_mod && found=1 ;; esac
    for disk in /sys/class/block/vd[b-z] /sys/class/block/sd[b-z]; do [ -e "$disk" ] && found=1; done
    [ -n "$found" ] || return 1
    modprobe -a isofs vfat nls_cp437 nls_iso8859-1 nls_ascii
    device=$(findfs LABEL=config-2) || device=$(findfs LABEL=CONFIG-2) || return 1
    mount -o ro "$device" /mnt && [ -r /mnt/openstack/latest/meta_data.json ]
}

get() { # get NAME: one document to standard output
    if [ -n "$drive" ]; then
        cat "/mnt/openstack/latest/$1"
    else
        # this busybox's own wget -T crashes
        timeout 10 wget -q -O - "$service/$1" 2>/dev/null
    fi
}

find_metadata() {
    if find_config_drive 2>/dev/null; then
        drive=1
        say "config drive on $device"
        get meta_data.json >"$document"
        return
    fi
    cat /run/nic/*/address >/dev/null 2>&1 || read -r -t 30 card <&3 || {
        say "no address by DHCP"
        return 1
    }
    tries=0
    until get meta_data.json >"$document" && [ -s "$document" ]; do
        tries=$((tries + 1))
        [ "$tries" = 30 ] && return 1
        sleep 1
    done
}

field() { # field NAME: the first string of that name in the document
    sed -n "s/.*\"$1\": *\"\([^\"]*\)\".*/\1/p" "$document"
}

configure() {
    # On one line, and without what the owner wrote as free metadata.
    tr -d '\n' <"$document" | sed 's/"meta": *{[^}]*}//' >"$document.flat"
    mv "$document.flat" "$document"
    uuid=$(field uuid)
    known=
    [ -e "$state/instance" ] && read -r known <"$state/instance"
    if [ "$known" = "$uuid" ]; then
        say "instance $uuid, known"
        return
    fi
    say "instance $uuid"
    name=$(field hostname)
    if [ -n "$name" ]; then
        hostname "$name"
        echo "$name" >/etc/hostname
        echo "127.0.0.1 localhost $name" >/etc/hosts
        say "hostname $name"
    fi
    # Public keys are known by their shape.
    grep -o '"\(ssh-[a-z0-9]*\|ecdsa-[a-z0-9-]*\) [A-Za-z0-9+/=]*' "$document" | tr -d '"' | sort -u >/root/.ssh/authorized_keys
    say "SSH keys: $(wc -l </root/.ssh/authorized_keys)"
    if [ -n "$known" ]; then
        # The disk is a copy of another instance's: that one's host key must not live on here.
        rm -f /etc/dropbear/dropbear_*_host_key
        read -r pid </run/dropbear.pid && kill "$pid"
        /lib/ssh.sh
    fi
    get user_data >"$state/user-data"
    # Noted before the script runs: one that reboots would otherwise run for ever.
    echo "$uuid" >"$state/instance"
    sync
    if [ "$(head -c 2 "$state/user-data")" = '#!' ]; then
        chmod 700 "$state/user-data"
        wait
        say "user-data starts"
        "$state/user-data" >/dev/console 2>&1
        say "user-data ended with status $?"
    elif [ -s "$state/user-data" ]; then
        say "user-data is no script (it does not begin with #!): left in $state/user-data"
    fi
}

grow &
if find_metadata; then configure; else say "no metadata found: hostname and keys are left as they are"; fi
wait
say "boot finished"
