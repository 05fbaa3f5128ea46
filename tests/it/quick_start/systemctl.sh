#!/bin/sh
# Replaces systemctl, since systemd does not run in a namespace. Knows the calls of the quick start and no others.
set -eu
case "$*" in
"disable --now nginx") ;;
"restart haproxy")
    mkdir -p /run/haproxy
    haproxy -W -D -f /etc/haproxy/haproxy.cfg
    ;;
"start switchman")
    # The command of the package's own unit.
    command=$(sed -n 's/^ExecStart=//p' /lib/systemd/system/switchman.service)
    mkdir -p -m 700 /run/switchman
    # shellcheck disable=SC2086 # a command line of words
    setsid $command < /dev/null > /var/log/switchman.log 2>&1 &
    ;;
*)
    echo "tests/it/quick_start/systemctl.sh has no: systemctl $*" >&2
    exit 1
    ;;
esac
