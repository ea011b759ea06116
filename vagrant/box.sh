#!/usr/bin/env bash
# Builds prl/bookworm64 for vagrant-libvirt from Debian's packages: box.sh [OUTPUT.box], as root.
# Needs: mmdebstrap qemu-utils e2fsprogs vagrant. The machine boots its kernel directly (there is
# no boot loader), so the box carries kernel and initrd beside the disk.
set -euo pipefail
output=$(realpath -m "${1:-prl-bookworm64.box}")
disk_gb=8
[ "$(id -u)" = 0 ] || { echo "box.sh: must run as root (it makes a root file system)" >&2; exit 1; }
for tool in mmdebstrap qemu-img mkfs.ext4; do
    command -v $tool >/dev/null || { echo "box.sh: $tool is missing" >&2; exit 1; }
done
public_key=$(dpkg -L vagrant 2>/dev/null | sed -n '/\/keys\/vagrant\.pub$/p')
[ -r "$public_key" ] || { echo "box.sh: vagrant is missing (its public key lets Vagrant in)" >&2; exit 1; }

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
root=$work/root box=$work/box
mkdir "$box"

mmdebstrap --quiet --variant=minbase --mode=root --aptopt='APT::Install-Recommends "false"' \
    --include=systemd-sysv,systemd-resolved,udev,dbus,kmod,initramfs-tools,linux-image-"$(dpkg --print-architecture)" \
    --include=iproute2,ifupdown,iputils-ping,procps,openssh-server,sudo,rsync,make,ca-certificates \
    bookworm "$root"

chroot "$root" useradd -m -s /bin/bash vagrant
echo vagrant:vagrant | chroot "$root" chpasswd
echo 'vagrant ALL=(ALL) NOPASSWD: ALL' >"$root/etc/sudoers.d/vagrant"
chmod 440 "$root/etc/sudoers.d/vagrant"
install -d -m 700 "$root/home/vagrant/.ssh"
install -m 600 "$public_key" "$root/home/vagrant/.ssh/authorized_keys"
chroot "$root" chown -R vagrant:vagrant /home/vagrant/.ssh
echo 'UseDNS no' >>"$root/etc/ssh/sshd_config"
printf '[Match]\nName=eth0\n[Network]\nDHCP=yes\n' >"$root/etc/systemd/network/10-management.network"
echo '/dev/vda / ext4 noatime 0 1' >"$root/etc/fstab"
echo 'source /etc/network/interfaces.d/*' >"$root/etc/network/interfaces"
: >"$root/etc/machine-id"
chroot "$root" systemctl enable -q systemd-networkd systemd-resolved ssh
chroot "$root" systemctl mask -q apt-daily.timer apt-daily-upgrade.timer systemd-networkd-wait-online

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
  end
end
VAGRANTFILE
tar -C "$box" -czf "$output" metadata.json Vagrantfile vmlinuz initrd.img box.img
echo "built $output; now: vagrant box add --name prl/bookworm64 $output"
