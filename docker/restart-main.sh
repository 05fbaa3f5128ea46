#!/bin/sh
# Deploys a release of the main vhost and restarts it: restart-main.sh RELEASE TEXT. Only while this front is in maintenance.
set -eu
release=$1 text=$2
site=/srv/dummy/site conf=/srv/dummy/nginx/main.conf pid=/srv/dummy/run/dummy-main.pid
mkdir -p "$site/releases/$release"
echo "$text" > "$site/releases/$release/index.html"
# A link is replaced by rename: there is no moment without one.
ln -s "releases/$release" "$site/.main-new"
mv -T "$site/.main-new" "$site/main"
old=$(cat $pid)
nginx -s quit -c $conf
# Quit lets requests end; the new one can listen when the old one has ended.
while kill -0 "$old" 2>/dev/null; do sleep 0.05; done
nginx -c $conf
