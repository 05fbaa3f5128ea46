#!/bin/sh
# NAME DIR KEYS SWITCHMAN: makes this process, which is in a network namespace, the first process of a machine of its
# own. The machine has processes, a host name and a root file system of its own: what it writes goes to memory, over what
# is here. Machines reach each other by ssh.
set -eu
[ $$ -eq 1 ] || exit 1
here=$(cd "$(dirname "$0")" && pwd)
name=$1
dir=$2
keys=$3
switchman=$4
mount --make-rprivate /
mount -t tmpfs -o mode=755 tmpfs "$dir"
mkdir "$dir/upper" "$dir/work" "$dir/root"
mount -t overlay overlay -o "lowerdir=/,upperdir=$dir/upper,workdir=$dir/work" "$dir/root"
cd "$dir/root"
mount -t proc proc proc
mount --rbind /sys sys
mount --rbind /dev dev
mount -t tmpfs -o mode=755 tmpfs run
mount -t tmpfs -o mode=700 tmpfs root
hostname "$name"

# switchman was never installed on this machine.
rm -rf etc/switchman var/lib/switchman srv/* usr/sbin/switchman usr/local/sbin/switchman
install -m 755 "$here/systemctl.sh" usr/bin/systemctl

install -d -m 700 run/sshd root/.ssh
install -m 600 "$keys/host" run/sshd/key
install -m 600 "$keys/operator.pub" root/.ssh/authorized_keys
if [ "$name" = ops ]; then
    install -m 600 "$keys/operator" root/.ssh/id_ed25519
    install -m 600 "$keys/known_hosts" root/.ssh/known_hosts
    # A checkout of this repository, with the program that the tests are built with.
    mkdir root/switchman
    tar -C "$here/../../.." --exclude ./target --exclude ./.git -cf - . | tar -C root/switchman -xf -
    mkdir root/switchman/target
    strip -o root/switchman/target/switchman "$switchman"
fi
exec chroot . /usr/sbin/sshd -D -e -h /run/sshd/key -o PidFile=none -o UsePAM=no -o MaxStartups=100
