# firewalld and ufw for real, one after the other on web1, with the agent running and the forward on. Sourced by test.sh.
# Source: systemd/systemd#2830 and fail2ban/fail2ban#3236 (PartOf= and a restart of firewalld), firewalld/firewalld#556 (what is
# translated is accepted), /etc/ufw/before.rules and before6.rules of ufw 0.36.

# One process a vhost, as `check` requires: nginx serves main, and this the backup.
inside web1 rm /etc/nginx/sites-enabled/default
inside web1 systemctl restart nginx
inside web1 sh -c 'mkdir -p /root/backup && cd /root/backup && echo backup > index.html && exec systemd-run -q --unit=swm-backup python3 -m http.server -d /root/backup 80'
data_port() { curl -s -o /dev/null -m 2 -w '%{http_code}' "http://10.99.0.11:$1/" || true; }
serves_users() { in_service && [ "$(data_port 8080)" = 200 ] && [ "$(data_port 80)" = 200 ]; }
until_true serves_users
check() { inside web1 switchman check 2>&1 || true; }
# The problems that `check` finds beside those of the configuration, which has no load balancer here.
problems() { check | grep '^problem' || true; }
no_problem() { [ -z "$(problems)" ] || fail "$1: $(check)"; }
# Types the fixes that `check` proposes in the words of a firewall.
type_fixes() {
    check | sed -n "s/^ *fix: \`\($1 [^\`]*\)\`.*/\1/p" | sort -u > "$SWM_HOSTS/fixes"
    [ -s "$SWM_HOSTS/fixes" ] || fail "no fix in the words of $1: $(check)"
    while read -r fix; do
        step "  fix: $fix"
        inside web1 sh -c "$fix" > /dev/null < /dev/null || fail "$fix"
    done < "$SWM_HOSTS/fixes"
}
no_problem "without a firewall"

step "firewalld: it accepts what the forward translates and refuses users, which is said; its own words repair it"
inside web1 systemctl start firewalld || fail "firewalld does not start"
closed() { [ "$(data_port 8080)" = 000 ] && in_service; }
until_true closed
problems | grep -q 'main vhost: it answers on this host, and not to other hosts' || fail "$(check)"
problems | grep -q 'backup vhost: it answers on this host' || fail "$(check)"
switchman enable-forward 2> "$SWM_HOSTS/refused" && fail "in service with a closed data port"
grep -q 'a packet to the data port 8080 is refused' "$SWM_HOSTS/refused" || fail "$(cat "$SWM_HOSTS/refused")"
type_fixes firewall-cmd
until_true serves_users
no_problem "firewalld with open ports"
for verb in restart reload stop start; do
    inside web1 systemctl $verb firewalld || fail "systemctl $verb firewalld"
    until_true serves_users
done
inside web1 firewall-cmd -q --reload
until_true serves_users
no_problem "firewalld after its verbs"
inside web1 systemctl stop firewalld

step "ufw: no false problem, and its own words repair what is closed"
inside web1 ufw --force enable > /dev/null
closed() { [ "$(data_port 8080)" = 000 ] && [ "$(check_port)" = 000 ]; }
until_true closed
check | grep 'fix:' | grep -v switchman.yaml | grep 'tables -I' && fail "not the words of ufw"
type_fixes ufw
until_true serves_users
no_problem "ufw with open ports"
for command in 'ufw reload' 'ufw disable' 'ufw --force enable' 'systemctl restart ufw' 'systemctl stop ufw' 'systemctl start ufw'; do
    # shellcheck disable=SC2086 # a command line
    inside web1 $command > /dev/null || fail "$command"
    until_true serves_users
done
no_problem "ufw after its verbs"
# What ufw refuses in words of its own: the check port of a maintenance is refused and not dropped.
switchman disable-forward
in_maintenance || fail "$(check_port)"
[ "$(curl -s -o /dev/null -m 2 http://10.99.0.11:8888/; echo $?)" = 7 ] || fail "the check port is dropped"
switchman enable-forward
until_true serves_users
inside web1 ufw --force disable > /dev/null
inside web1 systemctl stop swm-backup
inside web1 rm -r /root/backup
inside web1 ln -s ../sites-available/default /etc/nginx/sites-enabled/default
inside web1 systemctl restart nginx
until_true in_service

