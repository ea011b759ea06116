#!/usr/bin/env bash
# Builds prl/bookworm64 for vagrant-libvirt from Debian's packages: box.sh [OUTPUT.box], as root.
# Everything that provisioning would install is in the box, so that `vagrant up` needs no network.
# The machine boots its kernel directly (there is no boot loader): the box carries it beside the disk.
#
#   PRL_DEB      the package whose dependencies go into the box; by default the newest in ../dist
#   PRL_KERNEL   Debian's package of the kernel; by default Debian's own choice
set -euo pipefail
output=$(realpath -m "${1:-prl-bookworm64.box}")
here=$(dirname "$(realpath "$0")")
disk_gb=8
arch=$(dpkg --print-architecture)
kernel=${PRL_KERNEL:-linux-image-$arch}
# A machine that Vagrant can use, without what a minimal Debian leaves out.
base=systemd-sysv,udev,dbus,kmod,initramfs-tools,zstd,iproute2,iputils-ping,procps,openssh-server,sudo
# What peers run, and what looks at it from outside; on every machine, for there is one box.
peer=frr,bird2,curl,socat,tcpdump,ethtool

[ "$(id -u)" = 0 ] || { echo "box.sh: must run as root (it makes a root file system)" >&2; exit 1; }
for tool in mmdebstrap qemu-img mkfs.ext4 ssh-keygen; do
    command -v $tool >/dev/null || { echo "box.sh: $tool is missing" >&2; exit 1; }
done
public_key=$(dpkg -L vagrant 2>/dev/null | sed -n '/\/keys\/vagrant\.pub$/p')
[ -r "$public_key" ] || { echo "box.sh: vagrant is missing (its public key lets Vagrant in)" >&2; exit 1; }
deb=${PRL_DEB:-$(ls -t "$here"/../dist/prl_*.deb 2>/dev/null | head -n 1)}
[ -r "$deb" ] || { echo "box.sh: no package of prl: run \`make deb\` first" >&2; exit 1; }
# Names alone: versions and alternatives are apt's business when the package is installed.
needed=$(dpkg-deb -f "$deb" Depends | tr ',' '\n' | sed 's/|.*//; s/(.*//; s/:any//; s/ //g' | tr '\n' ,)

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
root=$work/root box=$work/box
mkdir "$box"

# A small initial file system: what these machines' disks need, nothing else.
cat >"$work/hook" <<'HOOK'
#!/bin/sh
[ "$1" != prereqs ] || exit 0
. /usr/share/initramfs-tools/hook-functions
manual_add_modules ext4
force_load virtio_pci
force_load virtio_blk
HOOK
chmod 755 "$work/hook"
export WORK=$work
# Where this machine gets Debian 12 from; without that, from Debian's own mirror.
sources=()
for file in /etc/apt/sources.list /etc/apt/sources.list.d/*.list /etc/apt/sources.list.d/*.sources; do
    if [ -f "$file" ] && grep -qE '^[^#]*\bbookworm\b' "$file"; then sources+=("$file"); fi
done
mmdebstrap --quiet --variant=minbase --mode=root --aptopt='APT::Install-Recommends "false"' \
    --essential-hook='mkdir -p "$1/etc/initramfs-tools/conf.d" "$1/etc/initramfs-tools/hooks"' \
    --essential-hook='printf "MODULES=list\nCOMPRESS=gzip\n" >"$1/etc/initramfs-tools/conf.d/prl"' \
    --essential-hook='cp "$WORK/hook" "$1/etc/initramfs-tools/hooks/prl"' \
    --include="$base,$peer,$kernel,${needed%,}" bookworm "$root" "${sources[@]}"

chroot "$root" useradd -m -s /bin/bash vagrant
echo vagrant:vagrant | chroot "$root" chpasswd
echo 'vagrant ALL=(ALL) NOPASSWD: ALL' >"$root/etc/sudoers.d/vagrant"
chmod 440 "$root/etc/sudoers.d/vagrant"
install -d -m 700 "$root/home/vagrant/.ssh"
install -m 600 "$public_key" "$root/home/vagrant/.ssh/authorized_keys"
chroot "$root" chown -R vagrant:vagrant /home/vagrant/.ssh
# One key for root of all machines of this box: re1 copies its configuration from re0.
install -d -m 700 "$root/root/.ssh"
ssh-keygen -q -t ed25519 -N '' -C 'the machines of a box' -f "$root/root/.ssh/id_ed25519"
cp "$root/root/.ssh/id_ed25519.pub" "$root/root/.ssh/authorized_keys"
echo 'UseDNS no' >>"$root/etc/ssh/sshd_config"
printf '[Match]\nName=eth0\n[Network]\nDHCP=yes\n' >"$root/etc/systemd/network/90-management.network"
echo '/dev/vda / ext4 noatime 0 1' >"$root/etc/fstab"
printf '127.0.0.1 localhost\n127.0.1.1 debian\n' >"$root/etc/hosts"
echo debian >"$root/etc/hostname"
: >"$root/etc/resolv.conf" # mmdebstrap copies the host's; nothing here needs a name from outside
: >"$root/etc/machine-id"
chroot "$root" systemctl enable -q systemd-networkd ssh
# Routers start when somebody configures them; a lab machine has no business with timers.
chroot "$root" systemctl disable -q frr bird
chroot "$root" systemctl mask -q apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer \
    e2scrub_all.timer fstrim.timer

cp "$root"/boot/vmlinuz-* "$box/vmlinuz"
cp "$root"/boot/initrd.img-* "$box/initrd.img"
truncate -s "${disk_gb}G" "$work/disk.raw"
mkfs.ext4 -q -F -d "$root" "$work/disk.raw"
qemu-img convert -O qcow2 "$work/disk.raw" "$box/box.img"
printf '{"provider":"libvirt","format":"qcow2","virtual_size":%d}\n' "$disk_gb" >"$box/metadata.json"
cat >"$box/Vagrantfile" <<'VAGRANTFILE'
Vagrant.configure("2") do |config|
  config.vm.provider :libvirt do |libvirt|
    libvirt.kernel = File.join(__dir__, "vmlinuz")
    libvirt.initrd = File.join(__dir__, "initrd.img")
    libvirt.cmd_line = "root=/dev/vda rw console=ttyS0 net.ifnames=0 quiet panic=-1"
    libvirt.cmd_line += " #{ENV["PRL_CMDLINE"]}"
  end
end
VAGRANTFILE
tar -C "$box" -cf "$output" metadata.json Vagrantfile vmlinuz initrd.img box.img
echo "built $output; now: vagrant box add --name prl/bookworm64 $output"
