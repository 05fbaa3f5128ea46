#!/bin/sh
# Sends a real agent the requests that its own description allows and forbids (schemathesis), in namespaces of its own; then
# checks whether it lives, and whether rules, record, processes and disk agree. EXAMPLES=20 SEED=1 api.sh [SWITCHMAN]
# /v1/run and the journal are left out: they start any command and make any directory.  FUZZ_WHY=1 prints the answers to its own deploys.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
# The script changes its directory below.
switchman=$(realpath "${1:-$root/target/debug/switchman}")
venv=$root/target/fuzz-venv

if [ -z "${FUZZ_INSIDE:-}" ]; then
    [ -x "$venv/bin/schemathesis" ] || {
        python3 -m venv "$venv"
        "$venv/bin/pip" install -q schemathesis==4.32.5
    }
    place=$(mktemp -d "${TMPDIR:-/tmp}/swm-fuzz.XXXXXX")
    trap 'rm -rf "$place"' EXIT
    # The namespace of processes ends every process that was started in it.
    FUZZ_INSIDE=$place unshare --net --mount --pid --fork --mount-proc --kill-child -- sh "$0" "$switchman"
    exit
fi

ip link set lo up
cd "$FUZZ_INSIDE"
socket=$FUZZ_INSIDE/agent.sock
"$switchman" --state-dir "$FUZZ_INSIDE/state" --releases-dir "$FUZZ_INSIDE/releases" agent --socket "$socket" > agent.log 2>&1 &
agent=$!
python3 "$here/relay.py" 8000 "$socket" 9001 9002 9003 > relay.log 2>&1 &

export PYTHONPATH="$here" SCHEMATHESIS_HOOKS=hooks FUZZ_SEED="${SEED:-1}"
ended=0
"$venv/bin/schemathesis" run http://127.0.0.1:8000/v1/openapi.json --wait-for-schema 10 \
    --checks not_a_server_error,status_code_conformance,response_schema_conformance \
    --phases examples,coverage,fuzzing --max-examples "${EXAMPLES:-20}" --seed "${SEED:-1}" --generation-database none \
    --request-timeout 60 --continue-on-failure --no-shrink --warnings off --suppress-health-check all \
    --exclude-path /v1/run --exclude-path '/v1/services/{service}/journal' || ended=$?

kill -0 "$agent" || { echo "fuzz: the agent is gone" >&2; ended=1; }
if grep -n "panicked" agent.log; then ended=1; fi
python3 "$here/agrees.py" "$FUZZ_INSIDE" || ended=1
[ "$ended" -eq 0 ] || tail -n 20 agent.log >&2
exit "$ended"
