#!/bin/bash
# DEB: the package on a real host. What is recorded holds through a reboot and a power cut, the agent is confined, and the
# purge leaves nothing. `make host-test` builds the package and runs this.
set -euo pipefail
deb=$1
. "$(dirname "$0")/hosts.sh"

step() { echo "host-test: $*"; }
fail() { echo "host-test: FAILED: $*" >&2; exit 1; }
# What HAProxy's check would get from outside: the answer's status, 000 when it is refused.
check_port() { curl -s -o /dev/null -m 5 -w '%{http_code}' http://10.99.0.11:8888/ || true; }
in_service() { [ "$(check_port)" = 200 ]; }
in_maintenance() { [ "$(check_port)" = 000 ] && [ "$(curl -s -m 5 http://10.99.0.11:8080/)" = main ]; }
agent_answers() { inside web1 curl -s -f -o /dev/null --unix-socket /run/switchman/agent.sock http://x/v1; }
# The API: METHOD PATH [curl's flags]; the body of the answer.
api() { local method=$1 path=$2; shift 2; inside web1 curl -s -X "$method" --unix-socket /run/switchman/agent.sock "http://x$path" "$@"; }
switchman() { inside web1 switchman "$@"; }
rules() { inside web1 sh -c '{ iptables-save; ip6tables-save; } 2>/dev/null | grep -c SWITCHMAN || true'; }

step "boots"
host_up web1 10.99.0.11
cp "$deb" "$(tree web1)/root/switchman.deb"
printf 'server { listen 8080; listen [::]:8080; location / { return 200 main; } }\n' > "$(tree web1)/etc/nginx/conf.d/main.conf"
inside web1 systemctl restart nginx
until_true in_maintenance

step "installs, starts nothing by itself"
inside web1 dpkg -i /root/switchman.deb > "$SWM_HOSTS/dpkg" 2>&1 || fail "$(cat "$SWM_HOSTS/dpkg")"
inside web1 systemctl is-active -q switchman && fail "the agent was started"
[ "$(rules)" = 0 ] || fail "rules appeared"
for page in $(inside web1 sh -c "grep -ho 'man:switchman[a-z-]*' /lib/systemd/system/switchman*.service" | sort -u); do
    inside web1 test -e "/usr/share/man/man1/${page#man:}.1.gz" || fail "no manual page $page"
done
inside web1 install -d /etc/switchman
printf 'service: shop\n' > "$(tree web1)/etc/switchman/switchman.yaml"
inside web1 systemctl start switchman
until_true agent_answers

step "the forward comes back after a reboot and after a power cut"
switchman enable-forward
in_service || fail "not in service: $(check_port)"
reboot_host web1
until_true in_service
kill_host web1
until_true in_service

step "so does a maintenance"
switchman disable-forward
in_maintenance || fail "$(check_port)"
reboot_host web1
inside web1 systemctl is-active -q switchman-restore switchman || fail "the units are not up"
until_true agent_answers
until_true in_maintenance
kill_host web1
until_true in_maintenance
switchman enable-forward
in_service || fail "$(check_port)"

step "a firewall that is started or loaded anew takes nothing away for long"
inside web1 systemctl enable -q --now nftables
for verb in restart reload; do
    inside web1 systemctl $verb nftables
    until_true in_service
done
[ "$(rules)" -gt 0 ] || fail "no rules"

. "$(dirname "$0")/firewalls.sh"

step "the agent places releases and restarts services, and may do little else"
inside web1 sh -c 'mkdir /root/site && echo hello > /root/site/index.html && tar -C /root/site -czf /root/site.tar.gz .'
api PUT /v1/services/shop/releases/1.0.0 -T /root/site.tar.gz | grep -Eq '^"[0-9a-f]{64}"$' || fail "no release"
inside web1 su -s /bin/cat www-data /srv/switchman/shop/releases/1.0.0/index.html | grep -q hello || fail "not readable"
run() { api POST /v1/run -H 'content-type: application/json' -d "{\"key\":\"t\",\"env\":{},\"argv\":$1}" | tail -n 1; }
[ "$(run '["systemctl","restart","nginx"]')" = '{"exited":{"status":0,"timed_out":false}}' ] || fail "no restart"
[ "$(run '["touch","/etc/x"]')" != '{"exited":{"status":0,"timed_out":false}}' ] || fail "it may write below /etc"
until_true in_service
exposure=$(inside web1 systemd-analyze security --no-pager switchman | sed -n 's/.*Overall exposure level for switchman.service: \([0-9.]*\).*/\1/p')
step "systemd-analyze security switchman: $exposure"
[ "$(echo "$exposure" | tr -d .)" -le 30 ] || fail "more than 3.0"
# An operator from outside, through the agent, which may change the rules of either kind.
operator() {
    local socket=/proc/$(cat "$SWM_HOSTS/web1/leader")/root/run/switchman/agent.sock
    printf 'service: shop\nhosts: {web1: {address: 10.99.0.11, agent: "unix://%s"}}\nroll: {min_up: 0}\n' "$socket" > "$SWM_HOSTS/fleet.yaml"
    "$(tree web1)/usr/sbin/switchman" --config "$SWM_HOSTS/fleet.yaml" "$@"
}
for variant in legacy nft; do
    # The agent would put the rules back into the tables they were in.
    inside web1 systemctl stop switchman
    inside web1 sh -c 'for t in iptables ip6tables; do $t -t nat -F; $t -t nat -X; done'
    inside web1 sh -c "update-alternatives --set iptables /usr/sbin/iptables-$variant; update-alternatives --set ip6tables /usr/sbin/ip6tables-$variant" > /dev/null
    inside web1 systemctl start switchman
    until_true agent_answers
    for verb in disable enable; do
        operator "$verb-forward" --host web1 || fail "$verb with iptables-$variant"
        if [ $verb = disable ]; then in_maintenance; else in_service; fi || fail "$verb with iptables-$variant: $(check_port)"
    done
    [ "$(rules)" -gt 0 ] || fail "no rules of iptables-$variant"
done

step "versions: deployed and changed through the confined agent, there again after a reboot and a power cut"
for version in 1.0.0 2.0.0; do
    mkdir -p "$SWM_HOSTS/pages/$version"
    echo "$version" > "$SWM_HOSTS/pages/$version/version"
    operator deploy shop "$version" "$SWM_HOSTS/pages/$version" || fail "deploy $version"
done
serves() { [ "$(curl -s -m 5 http://10.99.0.11:8080/version)" = "$1" ]; }
serves 1.0.0 || fail "the first is not main"
operator assign shop 2.0.0 --strategy flip --yes --watch 1s || fail "assign"
serves 2.0.0 && in_service || fail "2.0.0 is not main"
reboot_host web1
until_true serves 2.0.0
until_true in_service
kill_host web1
until_true serves 2.0.0
until_true in_service
until_true agent_answers
switchman disable-forward
reboot_host web1
until_true serves 2.0.0
[ "$(check_port)" = 000 ] || fail "the maintenance has ended"
until_true agent_answers
switchman enable-forward
operator rollback shop || fail "rollback"
serves 1.0.0 || fail "1.0.0 is not back"
# An upgrade of the program leaves instances alone.
before=$(inside web1 systemctl show -P MainPID 'switchman-dp_*' | head -n 1)
inside web1 systemctl restart switchman
until_true agent_answers
[ "$before" = "$(inside web1 systemctl show -P MainPID 'switchman-dp_*' | head -n 1)" ] || fail "an instance was restarted"

step "a program has an account of its service, and its attempts to escape fail"
mkdir -p "$SWM_HOSTS/pages/3.0.0"
cp "$(dirname "$0")/escape.sh" "$SWM_HOSTS/pages/3.0.0/escape.sh"
echo secret > "$SWM_HOSTS/pages/3.0.0/own"
chmod 600 "$SWM_HOSTS/pages/3.0.0/own"
operator deploy shop 3.0.0 "$SWM_HOSTS/pages/3.0.0" -- sh escape.sh || fail "deploy 3.0.0"
report=$(operator logs shop 3.0.0)
grep -q 'user switchman-shop' <<< "$report" && grep -q 'reads its own file' <<< "$report" || fail "not the account: $report"
grep 'ESCAPED' <<< "$report" && fail "the program escaped"
grep -q 'every attempt is made' <<< "$report" || fail "it did not try: $report"
inside web1 sh -c 'ls -ln /srv/switchman/shop/releases/3.0.0/own' | grep -q "^-rw------- 1 $(inside web1 id -u switchman-shop) " || fail "own is open"
unit=$(inside web1 systemctl list-units --no-legend 'switchman-dp_*' | grep 3.0.0 | grep -o 'switchman-dp_[^ ]*')
exposure=$(inside web1 systemd-analyze security --no-pager "$unit" | sed -n 's/.*Overall exposure level for .*: \([0-9.]*\).*/\1/p')
step "systemd-analyze security $unit: $exposure"
[ "$(echo "$exposure" | tr -d .)" -le 30 ] || fail "more than 3.0"
operator kill shop 3.0.0 --yes --force || fail "kill 3.0.0"

step "the proxy: a unit of its own, out of the way when it dies, at a reboot and at a power cut, and let in again"
through_proxy() { [ "$(api GET /v1/services | grep -c '"inserted":true')" = 1 ] && inside web1 systemctl is-active -q switchman-proxy; }
# As the agent reports: an agent without an answer counts as no.
straight() { local said; said=$(api GET /v1/services -f) && [ -n "$said" ] && ! grep -q '"inserted":true' <<< "$said"; }
proxy_pid() { inside web1 systemctl show -P MainPID switchman-proxy; }
another_proxy() { [ "$(proxy_pid)" != "$before" ] && [ "$(proxy_pid)" != 0 ] && through_proxy; }
operator mirror shop 2.0.0 || fail "mirror"
through_proxy || fail "the proxy is not in"
serves 1.0.0 || fail "the proxy does not answer for main"
in_service || fail "the check does not pass the proxy"
exposure=$(inside web1 systemd-analyze security --no-pager switchman-proxy | sed -n 's/.*Overall exposure level for switchman-proxy.service: \([0-9.]*\).*/\1/p')
step "systemd-analyze security switchman-proxy: $exposure"
[ "$(echo "$exposure" | tr -d .)" -le 30 ] || fail "more than 3.0"
# An agent that is replaced leaves it alone.
before=$(proxy_pid)
inside web1 systemctl restart switchman
until_true agent_answers
serves 1.0.0 || fail "main is gone with the agent"
[ "$before" = "$(proxy_pid)" ] || fail "the proxy was restarted"
inside web1 systemctl kill -s KILL switchman-proxy
until_true serves 1.0.0
until_true another_proxy
for again in reboot_host kill_host; do
    $again web1
    until_true serves 1.0.0
    until_true in_service
    until_true agent_answers
    until_true through_proxy
    serves 1.0.0 || fail "main does not answer after $again"
done
operator mirror shop 2.0.0 --off || fail "mirror --off"
serves 1.0.0 && straight || fail "the proxy is not out"

step "a removal with the proxy in: what leads to it leads straight at main"
inside web1 systemctl stop switchman
silent() { ! straight; }
silent || fail "an agent that is stopped has no word on where the rules lead"
inside web1 systemctl start switchman
until_true agent_answers
operator mirror shop 2.0.0 || fail "mirror"
through_proxy || fail "the proxy is not in"
before=$(proxy_pid)
inside web1 dpkg --remove switchman > "$SWM_HOSTS/dpkg" 2>&1 || fail "$(cat "$SWM_HOSTS/dpkg")"
inside web1 test -d "/proc/$before" && fail "the proxy lives on, and nobody watches it"
serves 1.0.0 || fail "main does not answer: $(cat "$SWM_HOSTS/dpkg")"
in_service || fail "$(check_port)"
inside web1 dpkg -i /root/switchman.deb > "$SWM_HOSTS/dpkg" 2>&1 || fail "$(cat "$SWM_HOSTS/dpkg")"
inside web1 systemctl start switchman
until_true agent_answers
until_true through_proxy
serves 1.0.0 || fail "main does not answer after the installation"
operator mirror shop 2.0.0 --off || fail "mirror --off"
serves 1.0.0 && straight || fail "the proxy is not out"

operator kill --all --yes --force || fail "kill"
inside web1 systemctl list-units --all --no-legend 'switchman-dp_*' | grep . && fail "instances are left"
until_true curl -s -f -o /dev/null http://10.99.0.11:8080/
switchman enable-forward
in_service || fail "$(check_port)"

step "an upgrade keeps the host in service"
inside web1 dpkg -i /root/switchman.deb > "$SWM_HOSTS/dpkg" 2>&1 || fail "$(cat "$SWM_HOSTS/dpkg")"
in_service || fail "$(check_port)"
until_true agent_answers

step "a purge leaves the host in service, nothing on the disk, and says how to take the rules away"
switchman_said=$(inside web1 dpkg --purge switchman 2>&1) || fail "$switchman_said"
in_service || fail "the purge took the forward away"
inside web1 sh -c "$(printf '%s\n' "$switchman_said" | sed -n 's/^switchman:     //p')"
[ "$(rules)" = 0 ] && [ "$(check_port)" = 000 ] || fail "rules are left: $switchman_said"
inside web1 rm -r /srv/switchman /etc/switchman
left=$(inside web1 sh -c 'find / -xdev -path /proc -prune -o -iname "*switchman*" -print | grep -v ^/root/ || true')
[ -z "$left" ] || fail "left: $left"
inside web1 systemctl list-units --all --no-legend 'switchman*' | grep . && fail "units are left"

. "$(dirname "$0")/init.sh"
host_down web1
. "$(dirname "$0")/operators.sh"

step "passed in $SECONDS s"
