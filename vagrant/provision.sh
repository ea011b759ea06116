#!/usr/bin/env bash
# Makes a machine of the Vagrant lab ready: provision.sh re0|re1|peer, as root; idempotent.
# re0 and re1 install the package /tmp/prl.deb. All that is done here outlives a restart.
set -euo pipefail
name=${1:?usage: provision.sh re0|re1|peer}
case $name in re0) lan=10 other=re1 ;; re1) lan=11 other=re0 ;; peer) lan=1 other= ;; *) exit 2 ;; esac

[ -d /run/systemd/system ] || { echo "provision: systemd does not run here: not a lab machine" >&2; exit 1; }

hostnamectl set-hostname "$name"

# Gives the interface with MAC address $2 the name $1 and the addresses $3...
network() {
    local interface=$1 mac=$2 device
    shift 2
    printf '[Match]\nMACAddress=%s\n[Link]\nName=%s\n' "$mac" "$interface" \
        >"/etc/systemd/network/10-$interface.link"
    {
        printf '[Match]\nName=%s\n[Network]\nLinkLocalAddressing=ipv6\nIPv6AcceptRA=no\n' "$interface"
        printf '[Address]\nAddress=%s\nDuplicateAddressDetection=none\n' "$@"
    } >"/etc/systemd/network/10-$interface.network"
    device=$(grep -lix "$mac" /sys/class/net/*/address | head -n 1 | cut -d / -f 5)
    [ -n "$device" ] || { echo "provision: no interface has $mac" >&2; exit 1; }
    [ "$device" = "$interface" ] || { ip link set "$device" down; ip link set "$device" name "$interface"; }
}

# $1 in hexadecimal, as the Vagrantfile numbers MAC addresses.
number() { printf '%02x' "$1"; }

network lan0 "52:54:00:70:00:$(number $lan)" "192.0.2.$lan/24" "2001:db8:0:1::$lan/64"
[ -z "$other" ] || network link0 "52:54:00:70:01:$(number $lan)" "198.51.100.$lan/24"
networkctl reload

for line in "192.0.2.1 peer" "2001:db8:0:1::1 peer" "192.0.2.10 re0" "2001:db8:0:1::10 re0" \
    "198.51.100.10 re0" "192.0.2.11 re1" "2001:db8:0:1::11 re1" "198.51.100.11 re1"; do
    grep -qxF "$line" /etc/hosts || echo "$line" >>/etc/hosts
done
sed -i '/^127\.0\.[12]\./d' /etc/hosts # a name that leads to the machine itself is no way to it
[ -n "$other" ] || exit 0

emulated=no
if [ "$(systemd-detect-virt)" = qemu ]; then
    emulated=yes
    mkdir -p /etc/systemd/system/prld.service.d
    printf '[Service]\nTimeoutStartSec=900\nTimeoutStopSec=150\nWatchdogSec=100\n' \
        >/etc/systemd/system/prld.service.d/emulated.conf
    systemctl daemon-reload
fi
if [ -e /tmp/prl.deb ]; then
    # Not apt: what the package depends on is in the box, and nothing is to be fetched.
    dpkg --force-unsafe-io -i /tmp/prl.deb || { echo "provision: build the box anew with box.sh: it lacks a package" >&2; exit 1; }
    rm -f /tmp/prl.deb
fi
config=/etc/prl/prld.toml counterpart=/etc/prl/re1.toml key=/etc/prl/link.key
if [ ! -e $config ] && [ "$name" = re0 ]; then
    prlctl init --service 192.0.2.100 --service 2001:db8:0:1::100 --other $other --peer-config $counterpart
    # Without hardware virtualisation everything takes ten times as long: ten times the defaults.
    [ "$emulated" = no ] || tee -a $config $counterpart >/dev/null <<'TOML'

[timing]
lease_ms = 200
suspect_ms = 1000
takeover_ms = 3000
hold_ms = 4000
stale_ms = 2000
probe_ms = 100
dead_ms = 300
hung_ms = 4000
answer_ms = 4000
setup_ms = 1000
switchover_ms = 5000
retry_ms = 200
start_wait_ms = 10000
TOML
fi
if [ ! -e $config ]; then
    # Every machine of a box has the box's key.
    for _ in $(seq 60); do
        ! scp -pq -o StrictHostKeyChecking=accept-new $other:$key $key ||
            ! scp -q $other:$counterpart $config || break
        sleep 10
    done
    [ -e $config ] || { echo "provision: $other has no $counterpart: provision it first" >&2; exit 1; }
fi
systemctl enable -q prld
systemctl start prld # the package has started it anew if there was a configuration
[ "$name" = re1 ] || exit 0

for _ in $(seq 300); do
    ! prlctl status >/dev/null 2>&1 || break
    sleep 1
done
prlctl status || { journalctl --no-pager -u prld >&2; exit 1; }
