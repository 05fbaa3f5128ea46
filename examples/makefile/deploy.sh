#!/bin/sh
# Installs one version on one host: deploy.sh VERSION
#
# `switchman roll -- ./deploy.sh VERSION` runs this script on the operator machine, once for each host, while the host is in
# maintenance and drained. It sets SWITCHMAN_HOST, SWITCHMAN_ADDRESS, SWITCHMAN_SERVICE, SWITCHMAN_ROLL_ID and
# SWITCHMAN_ATTEMPT. When this script exits with 0, switchman waits until the main vhost is healthy and puts the host back
# into service. With any other status the roll stops.
#
# After a failure or a crash the script runs again on the same host, so every step can be repeated.
set -eu

version=${1:?usage: deploy.sh VERSION}
archive=${DEPLOY_RELEASES:-releases}/$version.tar.gz
# Where releases are on the host. The user of the ssh connection owns it. `current` is a link to the release of the main vhost.
root=${DEPLOY_ROOT:-/srv/shop}
# The command that restarts the main vhost, and never the backup vhost.
restart=${DEPLOY_RESTART:-sudo -n systemctl restart shop-main}
ssh_config=${DEPLOY_SSH_CONFIG:-ssh_config}

# The version becomes part of a path and of a remote command.
case $version in
*[!A-Za-z0-9._+-]* | .* | -*)
    echo "cannot deploy \`$version\`: it is not a version" >&2
    exit 2
    ;;
esac

echo "$version to $SWITCHMAN_HOST ($SWITCHMAN_ADDRESS), attempt $SWITCHMAN_ATTEMPT"

# A release that is complete is never changed: the backup vhost may use it. Its directory gets the final name last.
ssh -F "$ssh_config" "$SWITCHMAN_HOST" "
    set -eu
    cd '$root'
    if [ ! -d 'releases/$version' ]; then
        rm -rf 'releases/$version.new'
        mkdir -p 'releases/$version.new'
        tar -xzf - -C 'releases/$version.new'
        mv 'releases/$version.new' 'releases/$version'
    fi
" < "$archive"

# A rename replaces the link in one step.
ssh -n -F "$ssh_config" "$SWITCHMAN_HOST" "
    set -eu
    cd '$root'
    ln -sfn 'releases/$version' current.new
    mv -T current.new current
    $restart
"
