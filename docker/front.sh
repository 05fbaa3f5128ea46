#!/bin/sh
# A front: two nginx of their own, main and backup. A fresh start has no rule, so the site runs on backups until
# `switchman enable-forward`; a container that was in service when it stopped comes back in service.
set -eu
site=/srv/dummy/site
number=$(hostname | sed 's/.*-//')
for role in main backup; do
    release=$site/releases/$role-1
    mkdir -p "$release"
    echo "Front-$number $role works!" > "$release/index.html"
    ln -sfn "releases/$role-1" "$site/$role"
    nginx -c "/srv/dummy/nginx/$role.conf"
done
switchman restore
trap 'for role in main backup; do nginx -s quit -c /srv/dummy/nginx/$role.conf; done; exit 0' TERM INT
while :; do
    sleep 3600 &
    wait $!
done
