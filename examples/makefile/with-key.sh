#!/bin/sh
# Runs a command with an ssh agent that holds the deploy key: with-key.sh CMD...
#
# For CI jobs. The key is in DEPLOY_SSH_KEY (the text of the private key), or in the file that DEPLOY_SSH_KEY_FILE names. This
# script writes the key to no file. The agent exits with the command, and the exit status is that of the command.
set -eu

if [ -n "${DEPLOY_SSH_KEY_FILE:-}" ]; then
    DEPLOY_SSH_KEY=$(cat "$DEPLOY_SSH_KEY_FILE")
fi
: "${DEPLOY_SSH_KEY:?the secret with the private key is missing}"
export DEPLOY_SSH_KEY

# shellcheck disable=SC2016 # expanded by the inner shell
exec ssh-agent sh -euc '
    printf "%s\n" "$DEPLOY_SSH_KEY" | ssh-add -q -
    unset DEPLOY_SSH_KEY
    exec "$@"
' with-key "$@"
