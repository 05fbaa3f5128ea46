#!/bin/sh
# Installs the Debian packages that the lab, the tests and the benchmark use, where they are missing. No service is
# started: packages that would start one are told not to, by a policy-rc.d of our own if the machine has none.
set -eu

# command:package; `setup.sh bench` adds what only the benchmark compares with, `setup.sh bench-proxy` what that one needs,
# `setup.sh host` what a Debian in a container takes
needed='
iptables:iptables
nft:nftables
ip:iproute2
ss:iproute2
haproxy:haproxy
nginx:nginx-light
apache2:apache2
caddy:caddy
curl:curl
openssl:openssl
sshd:openssh-server
faketime:faketime
ssh:openssh-client
wrk:wrk
gcc:gcc
man:man-db
sysctl:procps
setpriv:util-linux
'

# Other programs' firewalls: for the tests alone, and never left to start at the next boot.
others='dockerd:docker.io ufw:ufw firewalld:firewalld dbus-daemon:dbus-daemon'
[ "${1:-}" != test ] || needed="$needed $others"

[ "${1:-}" != bench ] || needed="$needed ansible-playbook:ansible"
[ "${1:-}" != bench-proxy ] || needed="$needed python3:python3-venv setpriv:util-linux taskset:util-linux"
[ "${1:-}" != host ] || needed="debootstrap:debootstrap systemd-nspawn:systemd-container dpkg-deb:dpkg nsenter:util-linux"

missing=
for pair in $needed; do
    PATH=$PATH:/usr/sbin:/sbin command -v "${pair%%:*}" >/dev/null 2>&1 || missing="$missing ${pair##*:}"
done
[ -n "$missing" ] || exit 0

echo "setup: installing$missing"
if [ "$(id -u)" -ne 0 ]; then
    echo "setup: needs root to install: sudo make setup" >&2
    exit 1
fi
policy=/usr/sbin/policy-rc.d
if [ ! -e $policy ]; then
    printf '#!/bin/sh\nexit 101\n' > $policy
    chmod 755 $policy
    trap 'rm -f $policy' EXIT
fi
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
# shellcheck disable=SC2086 # a list of package names
apt-get install -y -qq --no-install-recommends $missing
for unit in docker ufw firewalld; do
    case " $missing " in
    *" $unit"*) systemctl disable --quiet "$unit" 2>/dev/null || true ;;
    esac
done
