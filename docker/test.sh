#!/bin/sh
# Builds and runs the containers for real, switches and redeploys both fronts under load, and counts every request.
#
# Needs root. Uses a Docker daemon of its own, with its own data, in a network namespace of its own: the machine's rules,
# bridges and images stay as they are, and all of it is removed at the end. The base image is made with debootstrap and
# `docker import`, so nothing is pulled.
#
# Rows: Z4, Z5, Z12, Z14.
set -eu
cd "$(dirname "$0")/.."

work=/var/tmp/swm-docker-test run=/run/swm-docker-test net=swm-docker-test
export DOCKER_HOST=unix://$run/docker.sock
report() { echo "docker-test: $*"; }
# `ip netns exec` would hide the cgroup mounts from the daemon; nsenter leaves them.
inside() { nsenter --net=/run/netns/$net "$@"; }

missing=
for pair in dockerd:docker.io docker-compose:docker-compose debootstrap:debootstrap python3:python3-minimal ip:iproute2 iptables:iptables; do
    PATH=$PATH:/usr/sbin:/sbin command -v "${pair%%:*}" >/dev/null || missing="$missing ${pair##*:}"
done
if [ -n "$missing" ]; then
    report "installing$missing"
    # Packages must not start a daemon of the machine's; a policy that is there already stays as it is.
    made=
    if [ ! -e /usr/sbin/policy-rc.d ]; then
        made=/usr/sbin/policy-rc.d
        trap 'rm -f "$made"' EXIT
        printf '#!/bin/sh\nexit 101\n' > $made
        chmod 755 $made
    fi
    apt-get update -qq
    # shellcheck disable=SC2086 # a list of package names
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing
    [ -z "$made" ] || rm -f "$made"
fi

end() {
    status=$?
    trap - EXIT INT TERM
    touch $work/stop 2>/dev/null || true
    if [ -S $run/docker.sock ]; then
        make --no-print-directory purge >/dev/null 2>&1 || true
    fi
    if [ -s $run/dockerd.pid ]; then
        pid=$(cat $run/dockerd.pid)
        kill "$pid" 2>/dev/null || true
        for _ in $(seq 200); do kill -0 "$pid" 2>/dev/null || break; sleep 0.1; done
    fi
    # What the daemon may have left mounted.
    grep -o " $work/[^ ]*" /proc/mounts | sort -r | while read -r mount; do umount "$mount" || true; done
    ip netns delete $net 2>/dev/null || true
    rm -rf $work $run
    exit $status
}
trap end EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

[ ! -e $run ] || { report "another docker-test is running, or was killed: remove $run and $work"; trap - EXIT; exit 1; }
mkdir -p $work $run
ip netns add $net
ip -n $net link set lo up

report "starting a Docker daemon of its own"
inside dockerd --host "$DOCKER_HOST" --data-root $work/data --exec-root $run/exec --pidfile $run/dockerd.pid \
    --storage-driver overlay2 > $work/dockerd.log 2>&1 &
for _ in $(seq 300); do docker version >/dev/null 2>&1 && break; sleep 0.1; done
docker version >/dev/null 2>&1 || { tail -n 5 $work/dockerd.log; exit 1; }

report "making the base image debian:12-slim with debootstrap"
mirror=$(apt-get indextargets --format '$(REPO_URI)' | grep -v security | sort -u | head -n 1)
debootstrap --variant=minbase --include=ca-certificates,iptables,nginx-light,haproxy,curl bookworm $work/root "$mirror" \
    > $work/debootstrap.log 2>&1 || { tail -n 5 $work/debootstrap.log; exit 1; }
tar -C $work/root -c . | docker import - debian:12-slim >/dev/null
rm -rf $work/root

report "building and starting"
make --no-print-directory build > $work/build.log 2>&1 || { tail -n 20 $work/build.log; exit 1; }
make --no-print-directory start > $work/start.log 2>&1 || { tail -n 20 $work/start.log; exit 1; }

page() { inside curl -fsS -m 5 -H 'Host: dummy.local' http://172.28.77.2/; }
until_page() { for _ in $(seq 300); do page 2>/dev/null | grep -q "$1" && return; sleep 0.1; done; report "never saw: $1"; exit 1; }
until_page 'backup works!'
inside curl -fsS -m 5 -H 'Host: dummy.local' http://172.28.77.2/stats | grep -q 'Statistics Report' || { report "no /stats"; exit 1; }
report "a fresh start runs on backups, as it should"
make --no-print-directory enable-forward
until_page 'main works!'

report "load begins"
inside python3 docker/load.py 172.28.77.2 80 $work/stop > $work/load.log 2>&1 &
load=$!
for number in 1 2; do
    make --no-print-directory disable-forward FRONT=f$number
    docker exec swm-front-$number switchman status | grep -q 'maintenance: 8888 is refused'
    docker exec swm-front-$number restart-main.sh main-2 "Front-$number main 2 works!"
    make --no-print-directory enable-forward FRONT=f$number
done
until_page 'main 2 works!'
report "all mains at once must be refused"
if make --no-print-directory disable-forward > $work/refused.log 2>&1; then report "it was not"; exit 1; fi
grep -q 'capacity floor would break' $work/refused.log
make --no-print-directory enable-forward FRONT=f1
touch $work/stop
verdict=0
wait $load || verdict=$?
cat $work/load.log
for page in 'Front-1 main works!' 'Front-1 backup works!' 'Front-1 main 2 works!' 'Front-2 backup works!' 'Front-2 main 2 works!'; do
    grep -q "x $page" $work/load.log || { report "no client saw '$page'"; verdict=1; }
done
if [ $verdict -eq 0 ]; then report "ok: no failed request"; else report "NOT ok"; fi
exit $verdict
