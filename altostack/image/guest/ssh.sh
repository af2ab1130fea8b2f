#!/bin/sh
# Starts the SSH server (keys only), making this machine's host key first when there is none.
. /lib/say.sh
key=/etc/dropbear/dropbear_ed25519_host_key
[ -s "$key" ] || dropbearkey -t ed25519 -f "$key" >/dev/null 2>&1
dropbear -s -r "$key" -P /run/dropbear.pid && say "ssh server started"
