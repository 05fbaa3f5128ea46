# Real Debian hosts for tests: containers with systemd as their process 1. To be sourced by a script that is run as root:
#
#   . tests/nspawn/hosts.sh
#   host_up web1 10.99.0.11        boots it: a fresh copy of Debian bookworm with nginx, with this address, 10.99.0.1 is outside
#   inside web1 CMD...             runs a command in it      outside: just run it, e.g. curl http://10.99.0.11/
#   tree web1                      its files, to be read and written from here
#   reboot_host web1               as an administrator does
#   kill_host web1                 kill -9 of its process 1: as a power cut, but that what was written is on the disk; boots it again
#   host_down web1
#
# Sourcing moves the script into namespaces of its own (mount, network): its remaining processes end with it. Only the Debian
# tree is kept, below /var/cache/swm-debootstrap. Needs systemd-nspawn and debootstrap: `sh tests/setup.sh host`.

CACHE=/var/cache/swm-debootstrap
# The firewalls and sshd are there and off: they are disabled below, and ufw starts nothing until it is enabled.
PACKAGES=systemd,systemd-sysv,dbus,iptables,nftables,procps,iproute2,curl,nginx-light,python3-minimal,libpam-systemd,firewalld,ufw,openssh-server,sudo
BASE=$CACHE/bookworm-$(echo $PACKAGES | cksum | cut -d ' ' -f 1)
# Only ends a script that would hang.
BOUND=${BOUND:-120}

if [ -z "${SWM_HOSTS:-}" ]; then
    [ "$(id -u)" -eq 0 ] || { echo "hosts: needs root" >&2; exit 1; }
    # Made once, with the network of the machine; another test may need the tree at the same time.
    (
        flock 9
        [ ! -d "$BASE" ] || exit 0
        echo "hosts: making $BASE (once)"
        rm -rf "$CACHE/.new"
        mkdir -p "$CACHE"
        # The mirror that this machine installs from.
        mirror=$(apt-get indextargets --format '$(REPO_URI)' | grep -v security | sort -u | head -n 1)
        debootstrap --variant=minbase --include=$PACKAGES bookworm "$CACHE/.new" "$mirror" > "$CACHE/log" 2>&1 ||
            { tail -n 20 "$CACHE/log" >&2; exit 1; }
        chroot "$CACHE/.new" systemctl disable --quiet firewalld ufw ssh
        mv "$CACHE/.new" "$BASE"
    ) 9> $CACHE.lock
    SWM_HOSTS=$(mktemp -d /var/tmp/swm-hosts.XXXXXX)
    export SWM_HOSTS
    status=0
    unshare --mount --net "$0" "$@" || status=$?
    for group in /sys/fs/cgroup/*/swm-hosts.* /sys/fs/cgroup/swm-hosts.*; do
        [ "${group##*/}" != "${SWM_HOSTS##*/}" ] || find "$group" -depth -type d -exec rmdir {} + 2>/dev/null || true
    done
    rm -rf "$SWM_HOSTS"
    exit $status
fi

# In memory: nothing is left of it, and it works where / is an overlay itself.
mount -t tmpfs none "$SWM_HOSTS"
trap 'hosts_down' EXIT
trap 'exit 130' INT TERM
ip link set lo up
ip link add swm-br type bridge
ip addr add 10.99.0.1/24 dev swm-br
ip link set swm-br up

tree() {
    echo "$SWM_HOSTS/$1/root"
}

# Waits for a condition.
until_true() {
    _deadline=$(($(date +%s) + BOUND))
    until "$@"; do
        [ "$(date +%s)" -lt $_deadline ] || { echo "hosts: never came true: $*" >&2; exit 1; }
        sleep 0.05
    done
}

host_up() {
    _dir=$SWM_HOSTS/$1
    mkdir -p "$_dir/upper" "$_dir/work" "$_dir/root"
    mount -t overlay overlay -o "lowerdir=$BASE,upperdir=$_dir/upper,workdir=$_dir/work" "$_dir/root"
    echo "$1" > "$_dir/root/etc/hostname"
    printf '[Match]\nName=host0\n[Network]\nAddress=%s/24\nGateway=10.99.0.1\nLinkLocalAddressing=no\n' "$2" \
        > "$_dir/root/etc/systemd/network/10-host0.network"
    ln -sf /lib/systemd/system/systemd-networkd.service "$_dir/root/etc/systemd/system/multi-user.target.wants/systemd-networkd.service"
    boot "$1"
}

boot() {
    _dir=$SWM_HOSTS/$1
    (
        # Where no systemd gives every machine a control group of its own.
        if [ ! -d /run/systemd/system ]; then
            for _group in /sys/fs/cgroup /sys/fs/cgroup/*; do
                [ -e "$_group/cgroup.procs" ] && [ "${_group##*/}" != cpuset ] || continue
                mkdir -p "$_group/${SWM_HOSTS##*/}/$1" && echo 0 > "$_group/${SWM_HOSTS##*/}/$1/cgroup.procs" || true
            done
            set -- "$1" --keep-unit
        fi
        _name=$1; shift
        exec systemd-nspawn --quiet --boot --register=no "$@" --machine="swm-$_name" --directory="$_dir/root" \
            --network-bridge=swm-br --link-journal=no --console=read-only < /dev/null >> "$_dir/log" 2>&1
    ) &
    echo $! > "$_dir/nspawn"
    booted "$1" 0
}

# The process 1 of a host, as seen from here; another one than `$2`.
leader() {
    _nspawn=$(cat "$SWM_HOSTS/$1/nspawn")
    for _pid in $(cat "/proc/$_nspawn/task/$_nspawn/children" 2>/dev/null); do
        if [ "$_pid" != "$2" ] && [ "$(cat "/proc/$_pid/comm" 2>/dev/null)" = systemd ]; then
            echo "$_pid" > "$SWM_HOSTS/$1/leader"
            return 0
        fi
    done
    kill -0 "$_nspawn" 2>/dev/null || { tail -n 20 "$SWM_HOSTS/$1/log" >&2; echo "hosts: $1 does not boot" >&2; exit 1; }
    return 1
}

is_up() {
    case $(inside "$1" systemctl is-system-running 2>/dev/null) in running | degraded) ;; *) return 1 ;; esac
}

booted() {
    until_true leader "$1" "$2"
    until_true is_up "$1"
}

inside() {
    _leader=$(cat "$SWM_HOSTS/$1/leader"); shift
    nsenter --target "$_leader" --mount --uts --ipc --net --pid --cgroup -- \
        env -i -C / PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8 "$@"
}

reboot_host() {
    _before=$(cat "$SWM_HOSTS/$1/leader")
    inside "$1" systemctl reboot
    if [ -d /run/systemd/system ]; then
        booted "$1" "$_before"
    else
        # With --keep-unit the container is left to its starter.
        wait "$(cat "$SWM_HOSTS/$1/nspawn")" || [ $? -eq 133 ]
        boot "$1"
    fi
}

kill_host() {
    stop_hard "$1"
    boot "$1"
}

stop_hard() {
    kill -9 "$(cat "$SWM_HOSTS/$1/leader")" 2>/dev/null || true
    wait "$(cat "$SWM_HOSTS/$1/nspawn")" || true
}

host_down() {
    stop_hard "$1"
    umount "$SWM_HOSTS/$1/root"
    rm -rf "${SWM_HOSTS:?}/$1"
}

hosts_down() {
    for _host in "$SWM_HOSTS"/*/; do
        [ ! -e "$_host/nspawn" ] || host_down "$(basename "$_host")"
    done
}
