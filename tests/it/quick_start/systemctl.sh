#!/bin/sh
# Replaces systemctl, since systemd does not run in a namespace. Knows the calls of the quick start and no others.
set -eu
# The command of a unit, run by a shell because it can have quotes.
start_unit() {
    command=$(sed -n 's/^ExecStart=//p' "$1")
    setsid sh -c "exec $command" < /dev/null >> "/var/log/$2.log" 2>&1 &
}
stop_vhost() {
    pid=$(cat "/srv/shop/run/$1.pid")
    kill -QUIT "$pid"
    while [ -e "/srv/shop/run/$1.pid" ]; do sleep 0.1; done
}
case "$*" in
"disable --now nginx" | "daemon-reload") ;;
"restart haproxy")
    mkdir -p /run/haproxy
    haproxy -W -D -f /etc/haproxy/haproxy.cfg
    ;;
"enable --now shop-backup shop-main switchman")
    mkdir -p -m 700 /run/switchman
    for name in shop-backup shop-main; do
        start_unit "/etc/systemd/system/$name.service" "$name"
    done
    start_unit /lib/systemd/system/switchman.service switchman
    ;;
"restart shop-main")
    stop_vhost shop-main
    start_unit /etc/systemd/system/shop-main.service shop-main
    ;;
"disable --now shop-main shop-backup")
    stop_vhost shop-main
    stop_vhost shop-backup
    ;;
*)
    echo "tests/it/quick_start/systemctl.sh has no: systemctl $*" >&2
    exit 1
    ;;
esac
