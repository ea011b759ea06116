#!/usr/bin/env bash
# Makes a machine of the Vagrant lab ready: provision.sh LAN_NUMBER [LINK_NUMBER], as root.
# Idempotent; runs at every start. The tree is under /opt/prl, or in PRL_TREE.
set -euo pipefail
lan=${1:?usage: provision.sh LAN_NUMBER [LINK_NUMBER]}
link=${2:-}

# Gives the interface that has address $2 the lab's name $1 beside its own.
name_interface() {
    local device
    device=$(ip -o -4 addr show | awk -v want="$2" '{ split($4, a, "/"); if (a[1] == want) print $2 }')
    if [ -z "$device" ]; then
        echo "provision: no interface has $2: did Vagrant configure the private networks?" >&2
        exit 1
    fi
    ip link show dev "$1" >/dev/null 2>&1 || ip link property add dev "$device" altname "$1"
}

# First, because it refuses a machine that is not of the lab before anything there is changed.
[ -d /run/systemd/system ] || { echo "provision: systemd does not run here: not a lab machine" >&2; exit 1; }
name_interface lan0 "192.0.2.$lan"
[ -z "$link" ] || name_interface link0 "198.51.100.$link"
ip -6 addr replace "2001:db8:0:1::$lan/64" dev lan0 nodad

command -v make >/dev/null || {
    apt-get update -qq </dev/null
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends make </dev/null
}

make -C "${PRL_TREE:-/opt/prl}" setup

# The set-up starts no service, but the next boot would: the tests start their own instances.
for service in bird frr keepalived; do
    systemctl disable --now "$service" >/dev/null 2>&1 || true # not every machine has each
done
