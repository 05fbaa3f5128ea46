# Sourced by test.sh: what `switchman init` prints for a web host, typed on one whose nginx holds port 80. DEB is in `$deb`.
step "init: the printed commands start both vhosts over an nginx on port 80, and they are back after a reboot"
host_up web2 10.99.0.12
cp "$deb" "$(tree web2)/root/switchman.deb"
inside web2 dpkg -i /root/switchman.deb > "$SWM_HOSTS/dpkg" 2>&1 || fail "$(cat "$SWM_HOSTS/dpkg")"
inside web2 systemctl is-active -q nginx || fail "nginx does not hold port 80"
inside web2 switchman init /srv/shop --name shop --host web2=10.99.0.12 --balancer 10.99.0.1 > "$SWM_HOSTS/init"
awk '/^[0-9]+\. on / { mine = $3 == "web2:" } /^     / && mine { print }' "$SWM_HOSTS/init" | sed 's/^ *//' > "$SWM_HOSTS/commands"
grep -q 'enable --now shop-backup shop-main switchman' "$SWM_HOSTS/commands" || fail "$(cat "$SWM_HOSTS/commands")"
# No HAProxy is here to wait for.
sed 's/^switchman enable-forward$/& --no-wait/' "$SWM_HOSTS/commands" > "$(tree web2)/root/commands"
inside web2 sh -eux /root/commands > "$SWM_HOSTS/output" 2>&1 || fail "$(cat "$SWM_HOSTS/output")"
vhost_of() { curl -s -m 5 -o /dev/null -w '%header{x-switchman-vhost}' "http://10.99.0.12:$1/"; }
both_serve() { [ "$(vhost_of 8888)" = "web2 main" ] && [ "$(vhost_of 80)" = "web2 backup" ]; }
until_true both_serve
for again in reboot_host kill_host; do
    $again web2
    until_true both_serve
done
# The recorded rules, then the backup vhost, then the main vhost.
for pair in "switchman-restore shop-backup" "shop-backup shop-main"; do
    set -- $pair
    began=$(inside web2 systemctl show -P ActiveEnterTimestampMonotonic "$1")
    [ "$began" -le "$(inside web2 systemctl show -P ActiveEnterTimestampMonotonic "$2")" ] || fail "$2 was active before $1"
done
inside web2 systemctl restart shop-main
until_true both_serve
exposure=$(inside web2 systemd-analyze security --no-pager shop-main | sed -n 's/.*Overall exposure level for shop-main.service: \([0-9.]*\).*/\1/p')
step "systemd-analyze security shop-main: $exposure"
[ "$(echo "$exposure" | tr -d .)" -le 35 ] || fail "more than 3.5"
host_down web2
