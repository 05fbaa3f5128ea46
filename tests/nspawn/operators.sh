# Sourced by test.sh: two operator machines, each with its own name, key and journal, work over ssh on two web hosts behind a
# HAProxy that serves users all the time. DEB is in `$deb`.
step "two operator machines: over ssh to two hosts, an ordinary user with the sudo line of docs/reaching-hosts.md"
OPS=$SWM_HOSTS/operators
mkdir -p "$OPS"
program=$OPS/switchman
dpkg-deb --fsys-tarfile "$deb" | tar -xO ./usr/sbin/switchman > "$program"
chmod 755 "$program"
for name in alice bob ci; do
    mkdir -p "$OPS/$name"
    ssh-keygen -q -t ed25519 -N '' -C "$name" -f "$OPS/$name/key"
    cat > "$OPS/$name/ssh_config" <<END
Host web3
    HostName 10.99.0.13
Host web4
    HostName 10.99.0.14
Host *
    User deploy
    IdentityFile $OPS/$name/key
    UserKnownHostsFile $OPS/$name/known_hosts
    StrictHostKeyChecking accept-new
END
done
(cd "$OPS" && "$program" init shop --name shop --host web3=10.99.0.13 --host web4=10.99.0.14 --balancer 10.99.0.1 > init)
for host in web3:13 web4:14; do
    set -- "${host%:*}" "${host#*:}"
    host_up "$1" "10.99.0.$2"
    cp "$deb" "$(tree "$1")/root/switchman.deb"
    inside "$1" dpkg -i /root/switchman.deb > "$SWM_HOSTS/dpkg" 2>&1 || fail "$(cat "$SWM_HOSTS/dpkg")"
    mkdir -p "$(tree "$1")$OPS"
    cp -a "$OPS/shop" "$(tree "$1")$OPS/shop"
    # What init prints for a host.
    inside "$1" systemctl disable -q --now nginx
    inside "$1" sh -c "install -m 644 $OPS/shop/systemd/*.service /etc/systemd/system/"
    inside "$1" install -D -m 644 "$OPS/shop/switchman.yaml" /etc/switchman/switchman.yaml
    inside "$1" systemctl daemon-reload
    inside "$1" systemctl enable -q --now shop-backup shop-main switchman
    # As Debian's installer writes it: sudo looks its host's name up, for 20 s where nothing answers.
    echo "127.0.1.1 $1" >> "$(tree "$1")/etc/hosts"
    inside "$1" useradd --create-home --shell /bin/sh deploy
    echo 'deploy ALL=(root) NOPASSWD: /usr/sbin/switchman agent --stdio' > "$(tree "$1")/etc/sudoers.d/switchman"
    inside "$1" install -d -o deploy -g deploy -m 700 /home/deploy/.ssh
    cat "$OPS"/*/key.pub > "$(tree "$1")/home/deploy/.ssh/authorized_keys"
    inside "$1" systemctl start ssh
    inside "$1" sh -c 'until [ -S /run/switchman/agent.sock ]; do sleep 0.1; done'
    inside "$1" switchman enable-forward --no-wait > "$SWM_HOSTS/output" 2>&1 || fail "$(cat "$SWM_HOSTS/output")"
done

# The generated haproxy.cfg, with its files in the test's own directory.
sed -e "s|/run/haproxy|$OPS|; s|/var/lib/haproxy|$OPS|; /^    user /d; /^    group /d; /log \/dev\/log/d; s/bind :80/bind 10.99.0.1:80/" \
    "$OPS/shop/haproxy.cfg" > "$OPS/haproxy.cfg"
touch "$OPS/servers.state"
haproxy -q -db -f "$OPS/haproxy.cfg" > "$OPS/haproxy.log" 2>&1 &
balancer=$!
end_traffic() { touch "$OPS/stop"; kill "$balancer" 2>/dev/null || true; }
trap 'end_traffic; hosts_down' EXIT
users_served() { [ "$(curl -s -m 5 -o /dev/null -w '%{http_code}' http://10.99.0.1/)" = 200 ]; }
until_true users_served
# Users: a new connection for each request, four at a time, until `stop` is there.
for user in 1 2 3 4; do
    (
        until [ -e "$OPS/stop" ]; do
            curl -s -m 20 -o /dev/null -w '%{http_code}\n' http://10.99.0.1/ || echo "curl: $?"
        done > "$OPS/user$user"
    ) &
done
users=$(jobs -p | tail -n 4)

# A command typed by NAME on the machine ops-NAME; the journal is the machine's own.
operate() {
    local name=$1; shift
    { printf 'ssh: {switchman: sudo -n switchman, options: [-F, "%s"]}\n' "$OPS/$name/ssh_config"
      cat "$OPS/shop/switchman.yaml"; cat "$OPS/journal.yaml" 2>/dev/null || true; } > "$OPS/$name/switchman.yaml"
    unshare --uts sh -c 'hostname "$0"; exec "$@"' "ops-$name" \
        env -u SUDO_USER USER="$name" LOGNAME="$name" "$program" --config "$OPS/$name/switchman.yaml" "$@"
}
# A command that must be refused with a sentence which contains WORDS.
refused() {
    local words=$1 said; shift
    said=$(operate "$@" 2>&1) && fail "not refused: $*: $said"
    grep -q "$words" <<< "$said" || fail "$*: no '$words' in: $said"
    grep -q '^ next: ' <<< "$said" || fail "$*: no next step in: $said"
}
succeeds() { operate "$@" > "$SWM_HOSTS/output" 2>&1 || fail "$*: $(cat "$SWM_HOSTS/output")"; }
# A roll by NAME whose command waits on its first host for the file `go`.
begin_roll() {
    local name=$1; shift
    rm -f "$OPS/works" "$OPS/go"
    operate "$name" roll "$@" -- sh -c 'touch "$0/works"; until [ -e "$0/go" ]; do sleep 0.1; done' "$OPS" > "$OPS/$name/roll" 2>&1 &
    roll=$!
    until_true test -e "$OPS/works"
}
end_roll() { touch "$OPS/go"; roll_status=0; wait "$roll" || roll_status=$?; }
serve_main() { for address in 13 14; do [ "$(curl -s -m 5 -o /dev/null -w '%{http_code}' "http://10.99.0.$address:8888/health")" = 200 ] || return 1; done; }
# HAProxy needs its first checks.
all_well() { operate alice check > "$SWM_HOSTS/output" 2>&1; }
(until_true all_well) || fail "$(cat "$SWM_HOSTS/output")"

step "two operator machines: the second is refused with the first one's name while its roll works on web3"
begin_roll alice
for command in "enable-forward --host web3" "disable-forward --host web3" "roll -- true" \
    "deploy shop 2.0.0 $OPS/shop/site/releases/1.0.0 --host web3" "enable-forward --host web3 --force"; do
    # shellcheck disable=SC2086 # words
    refused ops-alice bob $command
done
operate bob status > "$SWM_HOSTS/output" 2>&1 || true
grep -q ops-alice "$SWM_HOSTS/output" || fail "status does not name the owner: $(cat "$SWM_HOSTS/output")"

step "two operator machines: taken over with a reason; the roll stops and names who did it; both histories have it"
succeeds bob enable-forward --host web3 --force --reason 'users need web3'
end_roll
[ "$roll_status" != 0 ] || fail "the roll did not stop: $(cat "$OPS/alice/roll")"
grep -q ops-bob "$OPS/alice/roll" && grep -q 'users need web3' "$OPS/alice/roll" || fail "$(cat "$OPS/alice/roll")"
for name in alice bob; do
    operate $name history shop > "$SWM_HOSTS/output" 2>&1 || fail "$(cat "$SWM_HOSTS/output")"
    grep -q 'users need web3' "$SWM_HOSTS/output" || fail "$name's history: $(cat "$SWM_HOSTS/output")"
done
operate alice roll --status > "$SWM_HOSTS/output" 2>&1 || true
grep -q 'users need web3' "$SWM_HOSTS/output" || fail "the roll's own record: $(cat "$SWM_HOSTS/output")"
inside web3 switchman history > "$SWM_HOSTS/output" 2>&1
grep -q 'users need web3' "$SWM_HOSTS/output" || fail "web3's history: $(cat "$SWM_HOSTS/output")"
succeeds alice roll --abort
until_true serve_main

step "two operator machines: a maintenance by hand is kept from the other one's roll"
succeeds bob disable-forward --host web4 --reason 'new disk'
refused 'new disk' alice roll -- true
refused ops-bob alice enable-forward --host web4
succeeds bob enable-forward --host web4
succeeds alice roll -- true
until_true serve_main

. "$(dirname "$0")/stores.sh"

touch "$OPS/stop"
# shellcheck disable=SC2086 # pids
wait $users
kill "$balancer"
wait "$balancer" || true
trap hosts_down EXIT
requests=$(cat "$OPS"/user? | wc -l)
lost=$(cat "$OPS"/user? | grep -vc '^200$' || true)
step "two operator machines: $requests requests, $lost failed"
[ "$requests" -gt 100 ] && [ "$lost" = 0 ] || fail "$(cat "$OPS"/user? | sort | uniq -c)"
host_down web3
host_down web4
