# Sourced by every script: one line on the serial console, with the seconds since the kernel started.
say() {
    read -r up rest </proc/uptime
    echo "altostack: [$up] $*" >/dev/console
}
