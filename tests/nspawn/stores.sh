# Sourced by operators.sh while its hosts are up and users are served: the same operators with a shared journal, on each store. The
# stores run outside of the hosts, but for `host`, which is a file on web4.
store=
end_store() { [ -z "$store" ] || { kill -INT "$store" 2>/dev/null || true; wait "$store" 2>/dev/null || true; store=; }; }
trap 'end_store; end_traffic; hosts_down' EXIT

start_host() { value='{host: web4}'; }
start_postgres() {
    local bin
    bin=$(dirname "$(find /usr/lib/postgresql -name initdb | head -n 1)")
    install -d -o postgres -m 700 "$OPS/postgres"
    chmod 755 "$SWM_HOSTS" "$OPS"
    (cd / && setpriv --reuid=postgres --regid=postgres --clear-groups "$bin/initdb" --no-sync -A trust -U postgres -D "$OPS/postgres") > "$OPS/store.log"
    echo 'host all all 10.99.0.0/24 trust' >> "$OPS/postgres/pg_hba.conf"
    (cd / && exec setpriv --reuid=postgres --regid=postgres --clear-groups "$bin/postgres" -D "$OPS/postgres" -h 10.99.0.1 -k "$OPS/postgres") >> "$OPS/store.log" 2>&1 &
    store=$!
    value='{postgres: "postgresql://postgres@10.99.0.1/postgres"}'
}
start_etcd() {
    etcd --data-dir "$OPS/etcd" --listen-client-urls http://10.99.0.1:2379 --advertise-client-urls http://10.99.0.1:2379 > "$OPS/store.log" 2>&1 &
    store=$!
    value='{etcd: ["http://10.99.0.1:2379"]}'
}
start_consul() {
    "$(dirname "$0")/../../target/consul/bin/consul" agent -server -bootstrap-expect=1 -client=10.99.0.1 -bind=10.99.0.1 -disable-host-node-id \
        -raft-protocol=3 -data-dir "$OPS/consul" > "$OPS/store.log" 2>&1 &
    store=$!
    value='{consul: ["http://10.99.0.1:8500"]}'
}
# The store answers: there is no lock.
answers() { operate alice lock status > "$SWM_HOSTS/output" 2>&1; }
# The roll's switchman: a child of the subshell that `begin_roll` started.
roll_pid() { cat "/proc/$roll/task/$roll/children"; }

for kind in host postgres etcd consul; do
    step "two operator machines, journal on $kind: the second is refused by name, or waits with --wait-lock"
    start_$kind
    echo "journal: $value" > "$OPS/journal.yaml"
    (until_true answers) || fail "$(cat "$SWM_HOSTS/output"; tail -n 20 "$OPS/store.log")"
    begin_roll alice
    refused ops-alice bob roll -- true
    operate bob roll --wait-lock 2m -- true > "$OPS/bob/roll" 2>&1 &
    waiting=$!
    until_true grep -q ops-alice "$OPS/bob/roll"
    end_roll
    [ "$roll_status" = 0 ] || fail "$(cat "$OPS/alice/roll")"
    wait "$waiting" || fail "the roll that waited: $(cat "$OPS/bob/roll")"
    until_true serve_main

    step "an operator machine and a CI job, journal on $kind: the job's machine is lost, another one resumes its roll"
    begin_roll ci
    refused ops-ci alice roll -- true
    # shellcheck disable=SC2046 # pids
    kill -9 $(roll_pid)
    end_roll
    rm -rf "$OPS/ci"/switchman.yaml "$OPS/ci"/.switchman
    succeeds alice roll --resume --if-any --wait-lock 2m
    grep -q '2 of 2' "$SWM_HOSTS/output" || fail "$(cat "$SWM_HOSTS/output")"
    succeeds bob roll --resume --if-any
    until_true serve_main
    end_store
done
rm "$OPS/journal.yaml"
trap 'end_traffic; hosts_down' EXIT
